"""Reading weights (run folders, checkpoints, safetensors, timm's pretrained models) and fitting them to a model."""

import argparse
import sys
from collections.abc import Set
from pathlib import Path

import torch
from torch import Tensor, nn

WHICH = ("raw", "ema")
RAW_KEYS = ("model", "state_dict")
EMA_KEYS = ("ema", "state_dict_ema", "model_ema")  # of this project, of timm, of DeiT, ConvNeXt and torchvision


def strip_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefixes that DistributedDataParallel (`module.`) and torch.compile (`_orig_mod.`) put into names.

    A leading `module.` goes only if every name has it: a network may itself own a child called `module`.
    """
    state = {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
    while state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return state


def weights_file(path: str | Path) -> Path:
    """The file that load_weights would read for `path`; it need not exist."""
    file, _ = split_ending(path)
    return file / "checkpoints" / "last.pt" if file.is_dir() else file


def split_ending(path: str | Path) -> tuple[Path, str | None]:
    """(path, "raw" or "ema") of a path that ends in @raw or @ema, else (path, None)."""
    head, at, ending = str(path).rpartition("@")
    return (Path(head), ending) if at and ending in WHICH else (Path(path), None)


def load_weights(path: str | Path, which: str = "raw") -> dict[str, Tensor]:
    """The weights stored at `path`, on the CPU, under their plain names; `path` as for `stored_weights`.

    An ending `@ema` or `@raw` overrides `which`: "raw" for the trained weights, "ema" for their moving average.
    Raises ValueError as `stored_weights` does, and if the file lacks what was asked for.
    """
    which = split_ending(path)[1] or which
    if which not in WHICH:
        raise ValueError(f"weights={path}: which={which!r} is not one of {', '.join(WHICH)}")
    found = stored_weights(path)
    if which not in found:
        lacks, way = (
            ("moving average", "use @raw, or train with train.ema on")
            if which == "ema"
            else ("trained weights", "use @ema")
        )
        raise ValueError(f"weights={path}: {weights_file(path)} holds no {lacks}; {way}")
    return found[which]


def stored_weights(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """What a file holds: {"raw": the trained weights, "ema": their moving average}, or one of them; on the CPU.

    path: a run folder (its checkpoints/last.pt), a .safetensors file, or a file of torch.save: a state dict, or a dict
    with it under one of RAW_KEYS, and the average under one of EMA_KEYS. Names lose the prefixes of wrappers. Files are
    read with weights_only=True and run no code.
    Raises ValueError if there is no such file, it cannot be read, or it holds no weights.
    """
    file = weights_file(path)
    if not file.is_file():
        raise ValueError(f"weights={path}: no file {file}; give a run folder with checkpoints/last.pt, or a file")
    stored = _read(file, path)
    raw, ema = (
        next((stored[key] for key in keys if isinstance(stored.get(key), dict)), None) for keys in (RAW_KEYS, EMA_KEYS)
    )
    if raw is None and ema is None:
        raw = stored
    return {name: _plain(state, file, path) for name, state in (("raw", raw), ("ema", ema)) if state is not None}


def _plain(state: dict, file: Path, path: str | Path) -> dict[str, Tensor]:
    for key in RAW_KEYS:
        if isinstance(state.get(key), dict):
            state = state[key]
    state = {name: value for name, value in state.items() if name != "n_averaged"}  # of torch.optim.swa_utils
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        shown = ", ".join(map(str, list(state)[:5]))
        raise ValueError(f"weights={path}: {file} is not a dict of tensors (its keys: {shown})")
    return strip_wrappers(state)


def _read(file: Path, path: str | Path) -> dict:
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"weights={path}: {file} is not a valid safetensors file: {error}") from error
    try:
        # timm, DeiT and torchvision store their command line's arguments beside the weights: plain values, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch reports damaged, foreign and code-carrying files with many exception types
        raise ValueError(f"weights={path}: torch.load(weights_only=True) refuses {file}: {error}") from error
    if not isinstance(stored, dict):
        raise ValueError(f"weights={path}: {file} holds a {type(stored).__name__}, not a dict of tensors")
    return stored


def timm_weights(name: str) -> dict[str, Tensor]:
    """The pretrained weights that timm knows under `name`, e.g. "vit_base_patch32_224.sam_in1k"; downloads once."""
    import timm

    try:
        return timm.create_model(name, pretrained=True).state_dict()
    except RuntimeError as error:
        raise ValueError(f"model.init=timm:{name}: {error}; timm.list_pretrained() names what exists") from error


def head_name(model: nn.Module) -> str:
    """The qualified name of the classifier layer of a timm model, e.g. "head" or "fc"; ValueError if it has not one."""
    head = getattr(model, "get_classifier", lambda: None)()
    for name, module in model.named_modules():
        if module is head and isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
            return name
    raise ValueError(f"{type(model).__name__} has no single linear classifier with a bias")


def convert_weights(model: nn.Module, state: dict[str, Tensor], source: str) -> dict[str, Tensor]:
    """`state` under timm's present names for `model`, patch and position embeddings resized; `source` is for messages."""
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return convert(state, model)
    except Exception as error:  # timm's converters fail in many ways on weights of another architecture
        raise ValueError(
            f"weights {source}: timm cannot convert them to {type(model).__name__}: {error}; do both have a class "
            "token (model.kwargs.class_token), the same depth and width?"
        ) from error


def adapt_weights(model: nn.Module, state: dict[str, Tensor], source: str) -> bool:
    """Load `state` into `model`, resizing patch and position embeddings the way timm does.

    A classifier of another number of classes is left out: the model keeps its own, and True is returned. Anything else
    that does not match raises ValueError naming the parameters; `source` is only used in that message.
    """
    state = convert_weights(model, state, source)
    own = model.state_dict()
    head = head_name(model)
    classifier = {name for name in own if name.startswith(head + ".")}
    fresh_head = any(name in state and state[name].shape != own[name].shape for name in classifier)
    if fresh_head:
        state = {name: tensor for name, tensor in state.items() if name not in classifier}
    fill_weights(model, state, source, spared=classifier if fresh_head else frozenset())
    return fresh_head


def fill_weights(model: nn.Module, state: dict[str, Tensor], source: str, spared: Set[str] = frozenset()) -> None:
    """Load `state`, in timm's names, into `model`; only the names in `spared` may keep the model's own values.

    Raises ValueError naming the parameters that do not match; `source` is only used in that message.
    """
    own = model.state_dict()
    # Old files and converted ones lack BatchNorm's counter of batches, which only training without a momentum reads.
    spared = spared | {name for name in own if name.endswith("num_batches_tracked")}
    absent = sorted(own.keys() - state.keys() - spared)
    unknown = sorted(state.keys() - own.keys())
    misshapen = sorted(n for n in own.keys() & state.keys() if own[n].shape != state[n].shape)
    problems = [
        f"{what} {len(names)} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for what, names in (("absent", absent), ("unknown", unknown), ("of another shape", misshapen))
        if names
    ]
    if problems:
        raise ValueError(
            f"weights {source} do not fit {type(model).__name__}: {'; '.join(problems)}; "
            "check model.name and model.kwargs against the network that was saved"
        )
    model.load_state_dict(state, strict=False)
