"""The model to evaluate, from whatever the user has: a run, a weights file, or a name of timm."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from gsam.cli import CONFIGS
from gsam.config import Config, WeightsConfig, Which, read_composed, read_saved
from gsam.data import AugmentConfig
from gsam.models import ModelConfig, build_model, check, split_ending
from gsam.models.build import RESERVED
from gsam.models.weights import convert_weights, fill_weights, stored_weights
from gsam.runtime import Runtime, environment
from gsam.train import checkpoint
from gsam.train.stepper import grad_evals

from .preprocess import Preprocess

__all__ = ["Preprocess", "Subject", "load_subject"]


@dataclass
class Subject:
    """The model to evaluate, on the device and in eval mode; its transform; what every row says of it."""

    model: nn.Module
    preprocess: Preprocess
    num_classes: int
    channels_last: bool
    out: Path
    facts: dict[str, Any]
    network: ModelConfig
    """what it was built from, without weights"""
    run: Config | None = None
    """how it was trained, where a run of this project made it"""


def load_subject(config: WeightsConfig, runtime: Runtime) -> Subject:
    """The model behind weights=…; rank 0 prints what it is and how its pictures are prepared.

    weights: a run folder, a file in its checkpoints/, a weights file of any origin together with network=<name of timm or
    of configs/model> or beside its .json (as `_read_json` finds it), or timm:<name> (downloaded once by timm). A run is
    evaluated with its own transform; timm's models as timm's validate.py does it: their published mean, std, filter,
    crop, and their test size where they have one. Files are read with weights_only=True.
    Raises ValueError for what cannot be found, read, or does not fit together.
    """
    weights = str(config.weights)
    path, ending = split_ending(weights)
    which = Which[ending] if ending else config.which
    run = path if path.is_dir() else path.parent.parent
    of_run = (path.is_dir() or path.parent.name == "checkpoints") and (run / "config.yaml").exists()
    if weights.startswith("timm:"):
        _no_network_key(config, "timm:<name> names its network")
        subject = _timm_subject(config, str(path).removeprefix("timm:"), which)
    elif of_run:
        _no_network_key(config, "a run knows its network")
        file = run / "checkpoints" / config.checkpoint if path.is_dir() else path
        subject = _run_subject(config, run, file, which)
    elif path.is_file():
        subject = _file_subject(config, path, which)
    else:
        raise ValueError(
            f"weights={weights}: {'holds no config.yaml' if path.is_dir() else 'does not exist'}; give a run folder (it has "
            "config.yaml), a file in its checkpoints/, a .safetensors or .pth file with network=<its network>, or timm:<name>"
        )
    env = environment(runtime.device)
    subject.facts |= {"num_classes": subject.num_classes, "device": env["device"], "torch": env["versions"]["torch"],
                      "git_hash": env["git_hash"]}  # fmt: skip
    layout = torch.channels_last if subject.channels_last else torch.contiguous_format
    subject.model = subject.model.to(runtime.device, memory_format=layout).eval()
    if runtime.is_main:
        print(_description(weights, subject), flush=True)
    return subject


def _description(weights: str, subject: Subject) -> str:
    millions = sum(p.numel() for p in subject.model.parameters()) / 1e6
    facts = subject.facts
    return (
        f"model: {facts['model']}, {millions:.1f} M parameters, {subject.num_classes} classes, {facts['weights']} weights "
        f"of {facts['checkpoint'] if weights.startswith('timm:') else weights}\npictures: {subject.preprocess.text()}"
    )


def _no_network_key(config: WeightsConfig, why: str) -> None:
    if config.network is not None:
        raise ValueError(
            f"network={config.network} with weights={config.weights}: {why}; network= is for a weights file alone, remove it"
        )


# ---- a run ----------------------------------------------------------------------------------------------------------


def _run_subject(config: WeightsConfig, folder: Path, file: Path, which: Which) -> Subject:
    if not file.exists():
        raise ValueError(f"weights={config.weights}: {file} does not exist; train first, or choose another checkpoint=")
    state = checkpoint.read(file)
    if which is Which.auto:
        which = Which.raw if state["ema"] is None else Which.ema
    if which is Which.ema and state["ema"] is None:
        raise ValueError(f"weights={config.weights}: {file} holds no moving average (ema.decay=0); use which=raw")
    saved = read_saved(folder / "config.yaml")
    network = replace(saved.model, init=None)
    model = build_model(network, num_classes=state["num_classes"], image_size=saved.augment.size, seed=saved.train.seed)
    model.load_state_dict(state["model" if which is Which.raw else "ema"])
    try:
        meta = json.loads((folder / "meta.json").read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"weights={config.weights}: {folder / 'meta.json'} cannot be read ({error}); restore it from a copy of the run, or "
            "give a copy of the checkpoint outside the run with network=<its network>"
        ) from error
    facts = _run_facts(saved, meta, state)
    facts |= {"weights": which.name, "checkpoint": file.name, "weights_hash": _digest(file)}
    out, layout = Path(config.out or folder), saved.train.channels_last
    preprocess = Preprocess.trained(saved.augment)
    return Subject(model, preprocess, state["num_classes"], layout, out, facts, network, saved)


def _run_facts(saved: Config, meta: dict[str, Any], state: dict[str, Any]) -> dict[str, Any]:
    return {
        "experiment": meta["experiment"], "config_hash": meta["config_hash"], "optimizer": saved.optimizer.name,
        "model": saved.model.name, "seed": saved.train.seed, "step": state["step"],
        "grad_evals": grad_evals(saved, state["step"]), "m": meta.get("m"),
    }  # fmt: skip


def _digest(file: Path) -> str:
    """8 hex digits of the file's bytes: two files of one name are two models."""
    digest = hashlib.sha256()
    with open(file, "rb") as f:
        while block := f.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:8]


# ---- a weights file -------------------------------------------------------------------------------------------------


def _file_subject(config: WeightsConfig, file: Path, which: Which) -> Subject:
    """The network and the transform come from the file's .json where there is one for this network, else from network=.

    A name of timm then means timm's published settings; a name of configs/model the transform of this project's recipes.
    """
    found = stored_weights(file)
    if which is Which.auto:
        which = Which.ema if "ema" in found else Which.raw
    if which.name not in found:
        raise ValueError(f"weights={config.weights}: {file} holds no {which.name} weights, only {', '.join(found)}")
    described = _read_json(file)
    name = config.network or described.get("architecture")
    if name is None:
        raise ValueError(
            f"weights={config.weights}: a weights file does not say which network it belongs to; add network=<timm name, for "
            "example resnet50.a1_in1k, or a name of configs/model>, or put a .json with its architecture beside it"
        )
    recipe = CONFIGS / "model" / f"{name}.yaml"
    network = (
        read_composed(OmegaConf.create({"model": OmegaConf.load(recipe)})).model
        if recipe.is_file()
        else ModelConfig(name)
    )
    if described.get("architecture", network.name).partition(".")[0] != network.name.partition(".")[0]:
        described = {}  # config.json of another network in the same folder
    network.kwargs |= {key: value for key, value in described.get("model_args", {}).items() if key not in RESERVED}
    for problem in check(network):
        raise ValueError(f"network={name}: {problem}")
    settings = described.get("pretrained_cfg", described)
    if "input_size" in settings:
        preprocess = Preprocess.published(settings, f"weights={config.weights}, its .json")
    elif recipe.is_file():
        size = _timm_settings(network.name)["input_size"][-1]
        preprocess = Preprocess.trained(AugmentConfig(size=size, eval_resize=max(256, size) if size > 100 else size))
    else:
        preprocess = Preprocess.published(_timm_settings(name), f"network={name}")
    model = _filled(network, found[which.name], preprocess.size, f"{file} (network={name})")
    facts = {"model": name, "weights": which.name, "checkpoint": file.name, "weights_hash": _digest(file), "step": None,
             "optimizer": None}  # fmt: skip
    out = Path(config.out or Path("runs") / "eval" / f"{file.stem}-{facts['weights_hash']}")
    return Subject(model, preprocess, model.num_classes, False, out, facts, network)


def _read_json(file: Path) -> dict[str, Any]:
    """What lies beside a weights file: <file>.json or config.json, in the form of timm's models on the Hugging Face Hub
    (architecture, model_args, pretrained_cfg), or its pretrained_cfg alone; {} without one."""
    for path in (file.with_suffix(".json"), file.with_name("config.json")):
        if path.is_file():
            try:
                described = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}: no JSON ({error}); repair it or move it away from {file.name}") from error
            return described if isinstance(described, dict) else {}
    return {}


def _filled(network: ModelConfig, state: dict[str, Tensor], size: int, source: str) -> nn.Module:
    """The network with these weights, all of them, and as many classes as they have."""
    with torch.device("meta"):
        sketch = build_model(network, num_classes=1000, image_size=size, seed=0)
    state = convert_weights(sketch, state, source)
    classifier = sketch.pretrained_cfg["classifier"]
    head = classifier if isinstance(classifier, str) else classifier[0]  # distilled networks have two
    classes = len(state[f"{head}.weight"]) if f"{head}.weight" in state else 1000
    model = build_model(network, num_classes=classes, image_size=size, seed=0)
    fill_weights(model, state, source)
    return model


# ---- timm -----------------------------------------------------------------------------------------------------------


def _timm_subject(config: WeightsConfig, name: str, which: Which) -> Subject:
    import timm

    if which is Which.ema:
        raise ValueError(f"weights=timm:{name}: timm publishes one set of weights per name; leave which at auto")
    try:
        model = timm.create_model(name, pretrained=True)
    except RuntimeError as error:  # unknown name, or no weights for it
        raise ValueError(f"weights=timm:{name}: {error}; timm.list_pretrained() names what exists") from error
    except OSError as error:
        raise ValueError(
            f"weights=timm:{name}: the weights are neither in the cache nor can they be downloaded ({type(error).__name__}); "
            f"download them on a machine with internet and give weights=<the file> network={name}"
        ) from error
    cfg = model.pretrained_cfg
    full = f"{cfg['architecture']}.{cfg['tag']}" if cfg.get("tag") else cfg["architecture"]
    facts = {"model": full, "weights": "raw", "checkpoint": f"timm:{full}", "weights_hash": None, "step": None,
             "optimizer": None}  # fmt: skip
    out = Path(config.out or Path("runs") / "eval" / full)
    preprocess = Preprocess.published(cfg, f"timm:{full}")
    return Subject(model, preprocess, model.num_classes, False, out, facts, ModelConfig(full))


def _timm_settings(name: str) -> dict[str, Any]:
    import timm

    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False).to_dict()
    except RuntimeError as error:
        raise ValueError(f"network={name}: {error}; timm.list_pretrained() names what exists") from error
