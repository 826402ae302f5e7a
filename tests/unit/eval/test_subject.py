"""Models from what users have: run folders, weights files of many origins, timm's names; each with its own transform."""

import argparse
import json
import os
import pickle
import re

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from timm.data.transforms_factory import transforms_imagenet_eval

from gsam.config import EvalConfig, Which
from gsam.data import AugmentConfig
from gsam.data.folder import eval_pixels
from gsam.eval.subject import Preprocess, load_subject
from gsam.models import InitScheme, ModelConfig, build_model
from gsam.runtime import Runtime
from tests.photos import pieces
from tests.runs import CONFIGS, train

CPU = Runtime(torch.device("cpu"))
NAME = "test_resnet.r160_in1k"  # timm's network for tests, 0.5 M parameters


def load(weights, network=None, **keys):
    return load_subject(EvalConfig(weights=str(weights), network=network, **keys), CPU)


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(NAME).eval()
    with torch.no_grad():  # running statistics that an unloaded model would not have
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.1)
    return model


def assert_same_model(found, wanted, size=64):
    x = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(found(x), wanted(x)) and not found.training


# ---- transforms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "resnet50.a1_in1k",
            "short side to 288 (bicubic), centre crop 288, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, trained at 224",
        ),
        (
            "resnet50.tv_in1k",
            "short side to 256 (bilinear), centre crop 224, mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        ),
        (
            "vit_base_patch32_224.sam_in1k",
            "short side to 248 (bicubic), centre crop 224, mean 0.5 0.5 0.5, std 0.5 0.5 0.5",
        ),
        ("eva02_tiny_patch14_336.mim_in22k_ft_in1k", None),  # squashed
        (
            "volo_d5_512.sail_in1k",
            "short side to 445 (bicubic), centre crop 512, mean 0.485 0.456 0.406, std 0.229 0.224 0.225",
        ),
    ],
)
def test_pixels_are_those_of_timms_validation(name, text):
    cfg = timm.get_pretrained_cfg(name)
    preprocess = pickle.loads(pickle.dumps(Preprocess.published(cfg.to_dict(), name)))
    assert text is None or preprocess.text() == text
    size, crop_pct = (cfg.test_input_size or cfg.input_size)[-1], cfg.test_crop_pct or cfg.crop_pct
    reference = transforms_imagenet_eval(
        size, crop_pct, cfg.crop_mode, interpolation=cfg.interpolation, normalize=False
    )
    for picture in pieces(9, seed=3):
        pixels = preprocess(np.asarray(picture))
        assert pixels.dtype == np.uint8 and np.array_equal(pixels, np.asarray(reference(picture)).transpose(1, 2, 0))


def test_a_run_is_evaluated_as_the_trainer_does_it():
    augment = AugmentConfig(size=48, eval_resize=56, mean=[0.1, 0.2, 0.3])
    preprocess = Preprocess.trained(augment)
    for picture in pieces(4, seed=5):
        assert np.array_equal(preprocess(np.asarray(picture)), eval_pixels(np.asarray(picture), augment))
    assert preprocess.mean == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interpolation": "lanczos"}, "me: interpolation=lanczos is not one of bilinear, bicubic"),
        ({"input_size": (3, 64, 32)}, "me: wants pictures of 64 x 32"),
        ({"crop_mode": "border"}, "crop_mode=border; supported are squares"),
    ],
)
def test_a_transform_that_would_be_wrong_is_refused(changes, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        Preprocess.published({"input_size": (3, 64, 64), **changes}, "me")


# ---- weights files --------------------------------------------------------------------------------------------------


FORMS = {
    "state dict": lambda state, ema: state,
    "model": lambda state, ema: {"model": state, "epoch": 3},
    "state_dict and DDP": lambda state, ema: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
    "compiled": lambda state, ema: {"model": {f"_orig_mod.{k}": v for k, v in state.items()}},
    "timm's training": lambda state, ema: {
        "state_dict": state,
        "state_dict_ema": ema,
        "args": argparse.Namespace(lr=0.1),
    },
    "torchvision's": lambda state, ema: {
        "model": state,
        "model_ema": {"n_averaged": torch.tensor(4), **{f"module.{k}": v for k, v in ema.items()}},
    },
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_pth_file(form, network, tmp_path):
    state = network.state_dict()
    ema = {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    torch.save(FORMS[form](state, ema), tmp_path / "weights.pth")
    subject = load(tmp_path / "weights.pth", NAME, which=Which.raw)
    assert_same_model(subject.model, network)
    if "ema" in str(FORMS[form](state, ema).keys()):  # the average is what such a file is published for
        subject = load(tmp_path / "weights.pth", NAME)
        assert subject.facts["weights"] == "ema"
        assert torch.equal(subject.model.get_classifier().weight, 2 * network.get_classifier().weight)
        assert_same_model(load(f"{tmp_path}/weights.pth@raw", NAME).model, network)
    else:
        assert load(tmp_path / "weights.pth", NAME).facts["weights"] == "raw"
        with pytest.raises(ValueError, match="holds no ema weights, only raw"):
            load(tmp_path / "weights.pth", NAME, which=Which.ema)


def test_safetensors_with_timms_name_and_what_is_said_of_it(network, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file(network.state_dict(), "mine.safetensors")
    subject = load("mine.safetensors", NAME)
    assert_same_model(subject.model, network)
    assert subject.preprocess == Preprocess(160, 168, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert capsys.readouterr().out == (
        f"model: {NAME}, 0.5 M parameters, 1000 classes, raw weights of mine.safetensors\n"
        "pictures: short side to 168 (bilinear), centre crop 160, mean 0.5 0.5 0.5, std 0.5 0.5 0.5\n"
    )
    facts = {"model": NAME, "weights": "raw", "checkpoint": "mine.safetensors", "step": None, "num_classes": 1000}
    assert facts.items() <= subject.facts.items()
    assert subject.out.as_posix() == f"runs/eval/mine-{subject.facts['weights_hash']}"


def test_files_of_one_name_have_folders_of_their_own(network, tmp_path):
    for folder, scale in (("a", 1.0), ("b", 2.0)):
        (tmp_path / folder).mkdir()
        save_file({k: v * scale for k, v in network.state_dict().items()}, tmp_path / folder / "model.safetensors")
    a, b = (load(tmp_path / folder / "model.safetensors", NAME) for folder in "ab")
    assert a.out != b.out and a.facts["weights_hash"] != b.facts["weights_hash"]


def test_the_json_beside_it_decides_network_and_transform(network, tmp_path):
    """The two files of a timm model on the Hugging Face Hub, here with seven classes."""
    model = timm.create_model(NAME, num_classes=7).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    cfg = {
        "input_size": [3, 96, 96],
        "crop_pct": 0.75,
        "interpolation": "bilinear",
        "mean": [0.5] * 3,
        "std": [0.25] * 3,
    }
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnet", "pretrained_cfg": cfg}))
    subject = load(tmp_path / "model.safetensors")
    assert_same_model(subject.model, model)
    assert subject.num_classes == 7
    assert subject.preprocess == Preprocess(96, 128, "bilinear", (0.5,) * 3, (0.25,) * 3)
    other = timm.create_model("test_vit.r160_in1k")  # in the same folder, but not what config.json is about
    torch.save(other.state_dict(), tmp_path / "vit.pth")
    assert load(tmp_path / "vit.pth", "test_vit.r160_in1k").preprocess.size == 160


def test_a_network_of_this_project(tmp_path):
    """Under its name in configs/model, with the transform of this project's recipes."""
    values = yaml.safe_load((CONFIGS / "model" / "vit_s32.yaml").read_text())
    network = ModelConfig(**{**values, "scheme": InitScheme[values["scheme"]]})
    model = build_model(network, num_classes=12, image_size=224, seed=1).eval()
    torch.save(model.state_dict(), tmp_path / "s32.pth")
    subject = load(tmp_path / "s32.pth", "vit_s32")
    assert subject.preprocess == Preprocess(224, 256, "bilinear", (0.5,) * 3, (0.5,) * 3)
    assert_same_model(subject.model, model, size=224)


def test_a_run_folder(fashion_root, tmp_path):
    small = ["data.limit_train=100", "data.limit_eval=20", "train.batch_size=50", "train.epochs=1st"]
    run = tmp_path / "run"
    words = [
        *small,
        "schedule.warmup_steps=0",
        "ema.decay=0.5",
        f"paths.fashion_mnist={fashion_root}",
        f"run.dir={run}",
    ]
    trainer = train("optimizer=vanilla", *words)
    subject = load(run, which=Which.raw)
    x = torch.randn(2, 3, 28, 28)
    with torch.inference_mode():
        assert torch.equal(subject.model(x), trainer.stepper.model.eval()(x))
    assert (subject.out, subject.num_classes, subject.preprocess.size) == (run, 10, 28)
    assert (load(run).facts["weights"], subject.facts["weights"]) == ("ema", "raw")
    assert load(run / "checkpoints" / "best.pt").facts["checkpoint"] == "best.pt"
    with pytest.raises(ValueError, match="network=resnet50 with weights=.*: a run knows its network"):
        load(run, "resnet50")


# ---- what is refused ------------------------------------------------------------------------------------------------


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "model.pt"])
def test_a_file_that_would_run_code_runs_nothing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"fc.weight": torch.zeros(1)}, "args": Harmful()}, name)
    with pytest.raises(ValueError, match=f"weights={name}.*"):
        load(name, NAME)
    (tmp_path / name).write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(ValueError, match=f"weights={name}.*"):
        load(name, NAME)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("weights", "model", "words"),
    [
        ("none.pth", NAME, "weights=none.pth: does not exist; give a run folder"),
        (".", None, "weights=.: holds no config.yaml; give a run folder"),
        ("good.pth", None, "does not say which network it belongs to; add network=<timm name"),
        (
            "good.pth",
            "test_resnt",
            "network=test_resnt: model.name=test_resnt: timm has no such model; did you mean test_resnet",
        ),
        ("good.pth", "test_resnet.none", "(none) for test_resnet. timm has test_resnet.r160_in1k"),
        ("good.pth", "test_vit", "weights good.pth (network=test_vit) do not fit VisionTransformer: absent"),
        ("headless.pth", NAME, "do not fit ResNet: absent 2 (fc.bias, fc.weight)"),
        ("timm:test_resnet.none", None, "weights=timm:test_resnet.none: "),
        (f"timm:{NAME}", NAME, "timm:<name> names its network; network= is for a weights file alone"),
        (f"timm:{NAME}@ema", None, "publishes one set of weights per name"),
    ],
)
def test_bad_input_is_one_message(weights, model, words, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(network.state_dict(), "good.pth")
    torch.save({k: v for k, v in network.state_dict().items() if not k.startswith("fc.")}, "headless.pth")
    with pytest.raises(ValueError, match=re.escape(words)):
        load(weights, model)


def test_without_internet_timms_weights_need_a_file(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=re.escape(f"give weights=<the file> network={NAME}")):
        load(f"timm:{NAME}")
