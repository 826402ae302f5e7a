"""Networks: parameter counts of the published models, initial distributions per layer type, loading of weights."""

import functools
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from gsam.models import InitScheme, ModelConfig, build_model, check, load_weights

CONFIGS = Path(__file__).parents[2] / "configs" / "model"

# Measured against vision_transformer's models_test for the ViTs ("gap-norep") and Mixers; He et al. for the ResNets.
PARAMETERS = {
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vit_s32": 22_878_184,
    "vit_s16": 22_049_896,
    "vit_b32": 88_222_696,
    "vit_b16": 86_566_120,
    "mixer_s32": 19_104_624,
    "mixer_s16": 18_528_264,
    "mixer_s8": 20_646_504,
    "mixer_b32": 60_293_428,
    "mixer_b16": 59_880_472,
}


def read(name: str) -> ModelConfig:
    values = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    assert values.keys() == ModelConfig.__dataclass_fields__.keys(), "a model file lists every key"
    return ModelConfig(**{**values, "scheme": InitScheme[values["scheme"]]})


@functools.cache
def built(name: str) -> nn.Module:
    return build_model(read(name), num_classes=1000, image_size=224, seed=0)


def tiny(**changes) -> ModelConfig:
    """A ViT of two blocks with the recipe's arguments; 32-pixel images make 4 tokens of 16 pixels."""
    size = {"embed_dim": 48, "depth": 2, "num_heads": 2}
    cfg = read("vit_s16")
    cfg.kwargs = {**cfg.kwargs, **size, **changes.pop("kwargs", {})}
    return ModelConfig(**{**vars(cfg), **changes})


def build_tiny(cfg: ModelConfig, num_classes: int = 10, image_size: int = 32, seed: int = 0) -> nn.Module:
    return build_model(cfg, num_classes=num_classes, image_size=image_size, seed=seed)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_of_the_paper_models(name):
    with torch.device("meta"):
        model = built.__wrapped__(name)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("*.yaml")))
def test_every_model_file_has_no_problem(name):
    assert list(check(read(name))) == []


def test_vit_pools_normalised_tokens_and_has_no_class_token():
    with torch.device("meta"):
        model = built.__wrapped__("vit_b32")
    assert model.cls_token is None and model.pos_embed.shape == (1, 49, 768)
    assert isinstance(model.norm, nn.LayerNorm) and isinstance(model.fc_norm, nn.Identity)
    assert model.norm.eps == 1e-6 and model.blocks[0].attn.num_heads == 12


@pytest.mark.parametrize("name", ["vit_s16", "mixer_s16"])
def test_gelu_is_the_tanh_approximation(name):
    with torch.device("meta"):
        mlp = built.__wrapped__(name).blocks[0]
    act = (mlp.mlp if name.startswith("vit") else mlp.mlp_tokens).act
    x = torch.linspace(-4, 4, 101)
    torch.testing.assert_close(act(x), nn.functional.gelu(x, approximate="tanh"))


# One row per layer type of the official code: parameter and the std of its formula.
VIT_LAYERS = {
    "patch embedding: lecun_normal": ("patch_embed.proj.weight", 1 / math.sqrt(3 * 32 * 32)),
    "position embedding: N(0, 1/sqrt(width))": ("pos_embed", 1 / math.sqrt(768)),
    "query, key, value: xavier of 768 x 768": ("blocks.3.attn.qkv.weight", math.sqrt(2 / (768 + 768))),
    "attention output: xavier": ("blocks.3.attn.proj.weight", math.sqrt(2 / (768 + 768))),
    "mlp in: xavier": ("blocks.3.mlp.fc1.weight", math.sqrt(2 / (768 + 3072))),
    "mlp out: xavier": ("blocks.3.mlp.fc2.weight", math.sqrt(2 / (768 + 3072))),
    "mlp bias: N(0, 1e-6)": ("blocks.3.mlp.fc1.bias", 1e-6),
    "attention bias: zero": ("blocks.3.attn.qkv.bias", 0),
    "patch bias: zero": ("patch_embed.proj.bias", 0),
    "classifier kernel: zero": ("head.weight", 0),
}
MIXER_LAYERS = {
    "patch embedding: lecun_normal": ("stem.proj.weight", 1 / math.sqrt(3 * 32 * 32)),
    "token mixing in: lecun_normal over 49 tokens": ("blocks.3.mlp_tokens.fc1.weight", 1 / math.sqrt(49)),
    "token mixing out: lecun_normal over 256": ("blocks.3.mlp_tokens.fc2.weight", 1 / math.sqrt(256)),
    "channel mixing in: lecun_normal over 512": ("blocks.3.mlp_channels.fc1.weight", 1 / math.sqrt(512)),
    "channel mixing out: lecun_normal over 2048": ("blocks.3.mlp_channels.fc2.weight", 1 / math.sqrt(2048)),
    "mlp bias: zero": ("blocks.3.mlp_channels.fc1.bias", 0),
    "patch bias: zero": ("stem.proj.bias", 0),
    "classifier kernel: zero": ("head.weight", 0),
}


def assert_std(parameter: torch.Tensor, std: float) -> None:
    """Within five standard errors of the sample std (for these distributions at most std / sqrt(2n))."""
    if std == 0:
        assert not parameter.any()
        return
    error = 5 * std / math.sqrt(2 * parameter.numel())
    assert parameter.std().item() == pytest.approx(std, abs=error)
    assert abs(parameter.mean().item()) < 5 * std / math.sqrt(parameter.numel())


@pytest.mark.parametrize("layer", VIT_LAYERS)
def test_initial_std_of_vit_layers_is_the_official_one(layer):
    name, std = VIT_LAYERS[layer]
    assert_std(built("vit_b32").get_parameter(name), std)


@pytest.mark.parametrize("layer", MIXER_LAYERS)
def test_initial_std_of_mixer_layers_is_the_official_one(layer):
    name, std = MIXER_LAYERS[layer]
    assert_std(built("mixer_s32").get_parameter(name), std)


def test_shapes_of_the_initial_distributions():
    """Xavier is uniform, lecun_normal is cut at two standard deviations of the uncut normal."""
    vit = built("vit_b32")
    bound = math.sqrt(6 / (768 + 768))
    largest = vit.get_parameter("blocks.3.attn.qkv.weight").abs().max().item()
    assert 0.999 * bound < largest <= bound
    cut = 2 / math.sqrt(3 * 32 * 32) / 0.87962566103423978
    largest = vit.get_parameter("patch_embed.proj.weight").abs().max().item()
    assert 0.999 * cut < largest <= cut * (1 + 1e-6)


@pytest.mark.parametrize("name", ["vit_b32", "mixer_s32"])
def test_layer_norms_start_at_the_identity(name):
    norms = [m for m in built(name).modules() if isinstance(m, nn.LayerNorm)]
    assert norms and all((m.weight == 1).all() and not m.bias.any() for m in norms)


def test_resnet_keeps_timms_initialisation_with_zero_last_gamma():
    model = built("resnet50")
    assert not model.layer1[0].bn3.weight.any() and (model.layer1[0].bn1.weight == 1).all()
    assert_std(model.layer3[1].conv2.weight, math.sqrt(2 / (256 * 9)))  # kaiming normal over the fan out


def test_head_bias_is_set_and_left_alone_when_null():
    assert (build_tiny(tiny(head_bias=-10.0)).head.bias == -10).all()
    assert not build_tiny(tiny()).head.bias.any()
    resnet = {"name": "resnet18"}
    assert (build_tiny(ModelConfig(**resnet, head_bias=-3.0)).fc.bias == -3).all()
    assert build_tiny(ModelConfig(**resnet)).fc.bias.any()


def test_same_seed_same_weights_and_the_callers_random_state_stays():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, again, other = build_tiny(tiny()), build_tiny(tiny()), build_tiny(tiny(), seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.blocks[0].mlp.fc1.weight, other.blocks[0].mlp.fc1.weight)
    assert first.training and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in first.parameters())


@pytest.mark.parametrize(
    "name", ["convnext_atto", "swin_tiny_patch4_window7_224", "vit_base_patch16_siglip_224", "resnet18.a1_in1k"]
)
def test_any_other_timm_name_works(name):
    cfg = ModelConfig(name=name, head_bias=-3.0)
    assert list(check(cfg)) == []
    with torch.device("meta"):
        model = build_model(cfg, num_classes=7, image_size=224, seed=0)
        assert model(torch.randn(2, 3, 224, 224)).shape == (2, 7)


def test_small_convnet_runs_on_28_and_32_pixels():
    for size, chans in ((28, 3), (32, 3), (28, 1)):
        model = build_model(read("small_convnet"), num_classes=10, image_size=size, seed=0, in_chans=chans)
        assert model(torch.randn(2, chans, size, size)).shape == (2, 10)
        assert model.forward_features(torch.randn(2, chans, size, size)).shape == (2, 160, 4, 4)
    assert any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    model = build_model(read("small_convnet"), num_classes=10, image_size=28, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 281_258


def test_gradient_checkpointing_changes_no_gradient():
    x = torch.randn(2, 3, 32, 32)
    plain, saving = (build_tiny(tiny(grad_checkpointing=on, head_bias=-1.0)) for on in (False, True))
    for model in (plain, saving):
        nn.init.eye_(model.head.weight)
        model(x).square().sum().backward()
    assert saving.grad_checkpointing
    for p, q in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (ModelConfig(name="resnet_50"), "model.name=resnet_50: timm has no such model; did you mean .*resnet50"),
        (
            ModelConfig(kwargs={"class_token": False}),
            "model.name=resnet50 refuses model.kwargs={.class_token.: False}, .*argument",
        ),
        (ModelConfig(kwargs={"num_classes": 5}), "model.kwargs.num_classes=5: not settable here, use data.name"),
        (ModelConfig(scheme=InitScheme.big_vision), "model.scheme=big_vision: .*ResNet.*use model.scheme=timm"),
        (ModelConfig(grad_checkpointing=True), "model.grad_checkpointing=true: ResNet has BatchNorm"),
        (ModelConfig(drop_path=1.0), r"model.drop_path=1.0 is not in \[0, 1\)"),
        (ModelConfig(name="small_convnet", drop_path=0.1), "small_convnet refuses .*drop_path_rate"),
        (ModelConfig(init="missing.pt"), "model.init=missing.pt: no file missing.pt; give a run folder"),
        (ModelConfig(init="timm:resnet50.a9"), "model.init=timm:resnet50.a9: timm has no such weights; did you mean"),
    ],
)
def test_check_names_key_value_and_way_out(cfg, message):
    (problem,) = check(cfg)
    assert re.search(message, problem), problem


def save_checkpoint(folder: Path, model: nn.Module, ema: nn.Module | None = None) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    state = {"format": 1, "model": model.state_dict(), "ema": ema and ema.state_dict(), "step": 7}
    torch.save(state, folder / "checkpoints" / "last.pt")
    return folder


def assert_same_state(found: dict, expected: nn.Module) -> None:
    state = expected.state_dict()
    assert found.keys() == state.keys() and all(torch.equal(found[k], state[k]) for k in state)


def test_load_weights_from_a_run_folder_raw_and_ema(tmp_path):
    raw, ema = build_tiny(tiny()), build_tiny(tiny(), seed=1)
    run = save_checkpoint(tmp_path / "run", raw, ema)
    assert_same_state(load_weights(run), raw)
    assert_same_state(load_weights(run, "ema"), ema)
    assert_same_state(load_weights(f"{run}@ema"), ema)
    assert_same_state(load_weights(f"{run}/checkpoints/last.pt@raw"), raw)


def test_load_weights_removes_the_names_of_wrappers(tmp_path):
    model = build_tiny(tiny())
    wrapped = nn.Module()
    wrapped.module = torch.compile(model)
    model.blocks[0] = torch.compile(model.blocks[0])
    assert any("_orig_mod.blocks.0._orig_mod" in name for name in wrapped.state_dict())
    torch.save(wrapped.state_dict(), tmp_path / "a.pt")
    assert_same_state(load_weights(tmp_path / "a.pt"), build_tiny(tiny()))


def test_load_weights_from_safetensors(tmp_path):
    from safetensors.torch import save_file

    model = build_tiny(tiny())
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    assert_same_state(load_weights(tmp_path / "a.safetensors"), model)


def test_load_weights_says_what_is_wrong(tmp_path):
    run = save_checkpoint(tmp_path / "run", build_tiny(tiny()))
    with pytest.raises(ValueError, match="holds no moving average; use @raw"):
        load_weights(f"{run}@ema")
    with pytest.raises(ValueError, match="no file .*last.pt; give a run folder"):
        load_weights(tmp_path)
    (tmp_path / "text.pt").write_text("not a checkpoint")
    with pytest.raises(ValueError, match="weights_only=True. refuses .*text.pt"):
        load_weights(tmp_path / "text.pt")
    torch.save({"epoch": 3}, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="not a dict of tensors .its keys: epoch"):
        load_weights(tmp_path / "other.pt")


def test_init_continues_exactly_and_ignores_the_seed(tmp_path):
    model = build_tiny(tiny())
    run = save_checkpoint(tmp_path / "run", model)
    assert_same_state(build_tiny(tiny(init=str(run), head_bias=-10.0), seed=9).state_dict(), model)


def test_fine_tuning_gets_a_zero_classifier_and_resized_positions(tmp_path):
    model = build_tiny(tiny())
    nn.init.ones_(model.head.weight)
    run = save_checkpoint(tmp_path / "run", model)
    tuned = build_tiny(tiny(init=str(run)), num_classes=37, image_size=64)
    assert tuned.head.weight.shape == (37, 48) and not tuned.head.weight.any() and not tuned.head.bias.any()
    assert tuned.pos_embed.shape == (1, 16, 48)
    assert torch.equal(tuned.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)
    assert tuned(torch.randn(2, 3, 64, 64)).shape == (2, 37)
    grid = tuned.pos_embed.reshape(4, 4, 48)  # bicubic resize keeps the mean over positions within a few per cent
    torch.testing.assert_close(grid.mean((0, 1)), model.pos_embed[0].mean(0), atol=2e-2, rtol=0)


def test_weights_of_another_network_are_refused(tmp_path):
    with_token = tiny(kwargs={"class_token": True, "global_pool": "token", "fc_norm": None})
    run = save_checkpoint(tmp_path / "token", build_tiny(with_token))
    with pytest.raises(ValueError, match="class token|unknown 1 .cls_token"):
        build_tiny(tiny(init=str(run)))
    run = save_checkpoint(tmp_path / "deep", build_tiny(tiny(kwargs={"depth": 3})))
    with pytest.raises(ValueError, match=r"do not fit VisionTransformer: unknown 12 \(blocks.2"):
        build_tiny(tiny(init=str(run)))


def test_importing_models_does_not_import_timm():
    code = "import sys, gsam.models, gsam.losses; assert not {'timm', 'torchvision'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
