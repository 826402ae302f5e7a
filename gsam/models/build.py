"""ModelConfig, and the network it describes. timm is imported inside the functions: it takes seconds to load."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from gsam.models.init import InitScheme, init_big_vision, zero_head
from gsam.models.weights import adapt_weights, head_name, load_weights, timm_weights, weights_file

# Arguments of timm.create_model that other keys of the configuration decide.
RESERVED = {
    "num_classes": "data.name",
    "in_chans": "data.name",
    "img_size": "augment.size",
    "drop_path_rate": "model.drop_path",
    "pretrained": "model.init=timm:<name>",
    "checkpoint_path": "model.init",
}


@dataclass
class ModelConfig:
    """Schema of configs/model/*.yaml."""

    name: str = "resnet50"
    """any timm model, or mixer_s8_224 or small_convnet of this project"""
    init: str | None = None
    """weights to start from: a run folder, a .pt, .pth or .safetensors file (each may end in @ema), or timm:<name>"""
    scheme: InitScheme = InitScheme.timm
    """how weights are drawn when init is None: timm (its own way) | big_vision (the official code's way; ViT, Mixer)"""
    head_bias: float | None = None
    """constant of a new classifier's bias, e.g. -10 with the sigmoid loss; None: as scheme (big_vision: 0)"""
    drop_path: float = 0.0
    """stochastic depth: probability of dropping the deepest block, in [0, 1)"""
    grad_checkpointing: bool = False
    """recompute activations in the backward pass: less memory, about 30 % more time"""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """further arguments of timm.create_model, e.g. {class_token: false}"""


def build_model(cfg: ModelConfig, *, num_classes: int, image_size: int, seed: int, in_chans: int = 3) -> nn.Module:
    """The network of `cfg` in training mode, float32, on the CPU (or the device of an enclosing `torch.device`).

    Images are (B, in_chans, image_size, image_size), its logits (B, num_classes). The same seed gives the same weights
    on every rank; the global random state is left as it was. The network is used only for a `timm:` name that is not
    cached. With cfg.init, position embeddings are resized and a classifier of another size is replaced by a zero one.
    Raises ValueError for everything `check` reports, and for weights that do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(seed)
        model = _create(cfg, num_classes, image_size, in_chans)
        if cfg.init is not None:
            _load(model, cfg)
        elif cfg.scheme is InitScheme.big_vision:
            init_big_vision(model)
        if cfg.init is None and cfg.head_bias is not None:
            head = _classifier(model, "model.head_bias")
            nn.init.constant_(head.bias, cfg.head_bias)
    if cfg.grad_checkpointing:
        _checkpoint_gradients(model)
    return model


def check(cfg: ModelConfig) -> Iterator[str]:
    """Problems of `cfg`, one sentence each; builds the network without memory (meta device), reads no weights."""
    if cfg.init is not None:
        yield from _check_source(cfg.init)
    try:
        with torch.device("meta"):
            model = _create(cfg, num_classes=2, image_size=None, in_chans=3)
            if cfg.init is None and cfg.scheme is InitScheme.big_vision:
                init_big_vision(model)
            if cfg.head_bias is not None:
                _classifier(model, "model.head_bias")
            if cfg.grad_checkpointing:
                _checkpoint_gradients(model)
    except ValueError as error:
        yield str(error)


def _create(cfg: ModelConfig, num_classes: int, image_size: int | None, in_chans: int) -> nn.Module:
    """timm.create_model, with errors that name the key to change; image_size None leaves timm's default."""
    import timm

    import gsam.models.zoo  # noqa: F401 registers this project's models

    if not 0 <= cfg.drop_path < 1:
        raise ValueError(f"model.drop_path={cfg.drop_path} is not in [0, 1)")
    name = cfg.name.partition(".")[0]
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        hint = f"did you mean {', '.join(near)}?" if near else "timm.list_models() names them all"
        raise ValueError(f"model.name={cfg.name}: timm has no such model; {hint}")
    for key in RESERVED.keys() & cfg.kwargs.keys():
        raise ValueError(f"model.kwargs.{key}={cfg.kwargs[key]}: not settable here, use {RESERVED[key]}")
    kwargs = {"num_classes": num_classes, "in_chans": in_chans, **cfg.kwargs}
    if isinstance(kwargs.get("act_layer"), str):
        kwargs["act_layer"] = timm.layers.get_act_layer(kwargs["act_layer"])  # MlpMixer takes no names
    if cfg.drop_path:
        kwargs["drop_path_rate"] = cfg.drop_path
    try:
        pretrained = timm.get_pretrained_cfg(cfg.name, allow_unregistered=True)
    except RuntimeError as error:  # no such tag after the dot
        tags = difflib.get_close_matches(cfg.name, timm.list_pretrained(f"{name}.*"), 3, cutoff=0)
        raise ValueError(f"model.name={cfg.name}: {error} timm has {', '.join(tags) or f'only {name}'}") from error
    if image_size is not None and pretrained is not None and pretrained.fixed_input_size:
        kwargs["img_size"] = image_size
    try:
        return timm.create_model(cfg.name, **kwargs)
    except (TypeError, AssertionError, RuntimeError, ValueError) as error:
        given = f"model.kwargs={dict(cfg.kwargs)}, model.drop_path={cfg.drop_path}"
        raise ValueError(f"model.name={cfg.name} refuses {given}: {error}") from error


def _load(model: nn.Module, cfg: ModelConfig) -> None:
    source = cfg.init.removeprefix("timm:")
    state = timm_weights(source) if source != cfg.init else load_weights(source)
    _classifier(model, "model.init")
    if adapt_weights(model, state, cfg.init):
        zero_head(model, cfg.head_bias or 0.0)


def _check_source(init: str) -> Iterator[str]:
    import timm

    name = init.removeprefix("timm:")
    if name == init:
        if not weights_file(init).is_file():
            yield f"model.init={init}: no file {weights_file(init)}; give a run folder, a file, or timm:<name>"
    elif not timm.models.is_model_pretrained(name):
        near = difflib.get_close_matches(name, timm.list_pretrained(), 3)
        yield f"model.init={init}: timm has no such weights; did you mean {', '.join(near) or 'another name'}?"


def _classifier(model: nn.Module, key: str) -> nn.Module:
    try:
        return model.get_submodule(head_name(model))
    except ValueError as error:
        raise ValueError(f"{key}: {error}; leave {key} at null") from error


def _checkpoint_gradients(model: nn.Module) -> None:
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        # The recomputed forward would update the running statistics a second time.
        raise ValueError(
            f"model.grad_checkpointing=true: {type(model).__name__} has BatchNorm, whose running statistics would be "
            "updated twice; split the group into smaller micro-batches instead"
        )
    try:
        model.set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise ValueError(f"model.grad_checkpointing=true: {type(model).__name__} does not support it") from error
