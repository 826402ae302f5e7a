"""config.json of an export, in the form of timm's models on the Hugging Face Hub, and the proof that timm reads it."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gsam.config import Config
from gsam.data import class_names
from gsam.eval.subject import Subject

# Of the pretrained_cfg of timm's model of that name; the rest of it is about timm's weights.
OF_THE_NETWORK = ("fixed_input_size", "first_conv", "classifier")
# Where timm's own weights come from: load this folder's instead.
SOURCES = ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "state_dict", "custom_load", "architecture")


def describe(subject: Subject, license: str) -> dict[str, Any]:
    """The content of config.json: architecture, model_args for timm.create_model, pretrained_cfg with the transform."""
    model, own = subject.model, subject.model.pretrained_cfg
    described = {
        "architecture": subject.network.name.partition(".")[0],
        "num_classes": subject.num_classes,
        "num_features": model.num_features,
    }
    if isinstance(getattr(model, "global_pool", None), str):
        described["global_pool"] = model.global_pool
    described |= _labels(subject.run)
    if arguments := model_args(subject):
        described["model_args"] = arguments
    if str(subject.facts["checkpoint"]).startswith("timm:"):
        cfg = {key: value for key, value in own.items() if key not in SOURCES and value is not None}
    else:
        cfg = {key: own.get(key) for key in OF_THE_NETWORK} | _transform(subject)
    return described | {"pretrained_cfg": cfg | {"num_classes": subject.num_classes, "license": license}}


def model_args(subject: Subject) -> dict[str, Any]:
    """What timm.create_model needs beside the name and num_classes."""
    arguments = dict(subject.network.kwargs)
    timms = str(subject.facts["checkpoint"]).startswith("timm:")
    if subject.model.pretrained_cfg.get("fixed_input_size") and not timms:
        arguments["img_size"] = subject.preprocess.size
    return arguments


def not_by_name(described: dict[str, Any]) -> dict[str, str]:
    """Arguments that this architecture takes as a class only, not by the name in config.json: timm's Mixer its activation."""
    import timm

    arguments = described.get("model_args", {})
    if not isinstance(arguments.get("act_layer"), str):
        return {}
    try:
        with torch.device("meta"):
            timm.create_model(described["architecture"], **arguments)
    except TypeError:
        return {"act_layer": arguments["act_layer"]}
    return {}


def is_timms(described: dict[str, Any]) -> bool:
    """Whether timm has the network, rather than gsam.models.zoo."""
    import timm

    return timm.models.model_entrypoint(described["architecture"]).__module__.startswith("timm.")


def crop_pct(size: int, resize: int) -> float:
    """The share for which timm's floor(size / share) is `resize`."""
    share = size / resize
    while math.floor(size / share) < resize:
        share = math.nextafter(share, 0.0)
    while math.floor(size / share) > resize:
        share = math.nextafter(share, math.inf)
    return share


def check_loads(folder: Path, subject: Subject) -> None:
    """timm builds the network from this folder alone and gives our logits, bit for bit. Raises RuntimeError otherwise."""
    import timm

    described = json.loads((folder / "config.json").read_text())
    extra = {key: timm.layers.get_act_layer(name) for key, name in not_by_name(described).items()}
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True, **extra).eval()
    size = subject.preprocess.trained_size or subject.preprocess.size
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if not torch.equal(model(x), subject.model(x)):
            raise RuntimeError(f"{folder}: timm gives other logits for the exported weights; nothing was exported")


def _transform(subject: Subject) -> dict[str, Any]:
    how = subject.preprocess
    size, trained = (3, how.size, how.size), how.trained_size
    return {
        "input_size": (3, trained, trained) if trained else size,
        **({"test_input_size": size} if trained else {}),
        "interpolation": how.interpolation,
        "crop_pct": crop_pct(how.size, how.resize),
        "crop_mode": "squash" if how.squash else "center",
        "mean": tuple(how.mean),
        "std": tuple(how.std),
    }


def _labels(run: Config | None) -> dict[str, Any]:
    """label_names by label, and of ImageNet their descriptions; {} where they are not known here any more."""
    if run is None:
        return {}
    if run.data.name == "imagenet":
        from timm.data import ImageNetInfo

        info = ImageNetInfo("imagenet-1k")
        return {"label_names": info.label_names(), "label_descriptions": info.label_descriptions(as_dict=True)}
    try:
        return {"label_names": list(class_names(run.data.name, run.data.root, "val"))}
    except (ValueError, OSError):  # the pictures are not on this machine
        return {}
