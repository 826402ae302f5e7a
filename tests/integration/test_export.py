"""scripts/export.py: what timm makes of the folder, by timm's own code; the card; what is refused."""

import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from PIL import Image, ImageStat
from safetensors.torch import load_file
from timm.data import create_dataset, create_loader, resolve_data_config
from timm.utils import AverageMeter, accuracy

from gsam.cli import forced
from gsam.config import EvalConfig, WeightsConfig, as_dict, read_composed, run_hash
from gsam.data import open_source
from gsam.eval.card import run as evaluate
from gsam.eval.subject import Preprocess, Subject, load_subject
from gsam.export import export, hub
from gsam.export.recipe import read_recipe
from gsam.models import InitScheme, ModelConfig, build_model
from gsam.recipes import CONFIGS, compose, experiment_sources
from gsam.report import predictions
from gsam.report.load import Run
from gsam.runtime import Normalize, Runtime
from tests.photos import CLASSES, pieces
from tests.runs import train
from tests.unit.eval.sets import configured

ROOT = Path(__file__).parents[2]
CPU = Runtime(torch.device("cpu"))
PAPERS_VIT = "++model.kwargs={class_token:false,global_pool:avg,fc_norm:false,act_layer:gelu_tanh}"
# Two runs of a few steps: the paper's form of a tiny ViT; a tiny ResNet, wider than what it sees, with a moving average.
RUNS = {
    "vit": ["model.name=test_vit", "model.scheme=big_vision", PAPERS_VIT, "augment.size=64", "augment.eval_resize=73",
            "augment.mean=[0.5,0.5,0.5]", "augment.std=[0.5,0.5,0.5]"],
    "resnet": ["model.name=test_resnet", "ema.decay=0.5", "augment.size=96", "augment.eval_resize=96", "optimizer=sam"],
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """<root>/{train,val}/<class>: real photographs of many shapes, JPEG and PNG in turns, from dark to bright; 150 to
    evaluate."""
    root = tmp_path_factory.mktemp("pictures")
    for seed, (split, count) in enumerate((("train", 60), ("val", 150))):
        for i, picture in enumerate(
            sorted(
                pieces(count, seed),
                key=lambda picture: ImageStat.Stat(picture).sum2[0] / picture.width / picture.height,
            )
        ):
            folder = root / split / CLASSES[i * len(CLASSES) // count]
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{i:03d}.{('jpg', 'png')[i % 2]}")
    return root


@pytest.fixture(scope="module")
def runs(pictures, tmp_path_factory) -> dict[str, Path]:
    """Name -> run folder."""
    found, root = {}, tmp_path_factory.mktemp("runs")
    common = ["data=imagefolder", "data.backend=folder", f"paths.imagefolder={pictures}", "data.workers=0",
              "train.batch_size=20", "train.epochs=12st", "train.eval_every=12st", "schedule.warmup_steps=0", "base.lr=0.05",
              "optimizer.group_size=10", f"run.root={root}"]  # fmt: skip
    for name, settings in RUNS.items():
        found[name] = train(*settings, *common).folder.path
        evaluate_here(found[name], pictures)
    return found


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    return {name: export(WeightsConfig(weights=str(folder)), root / name) for name, folder in runs.items()}


def evaluate_here(weights, pictures, *words) -> list[dict]:
    """evaluate.py's rows, in this process."""
    words = [f"weights={weights}", "evalset=imagefolder", f"paths.imagefolder={pictures}", "workers=0", *words]
    with Runtime.start() as runtime:
        return evaluate(configured(*words), runtime)


def measured(folder: Path) -> dict:
    """The one row of results.jsonl."""
    (line,) = (folder / "results.jsonl").read_text().splitlines()
    return json.loads(line)


def timms_evaluation(model: torch.nn.Module, pictures: Path) -> tuple[float, list[bool]]:
    """As timm's validate.py: its data set, its loader, its transform from the model's configuration, its accuracy. Top-1 in
    per cent, and which pictures were right."""
    settings = resolve_data_config({}, model=model, use_test_size=True)
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    loader = create_loader(
        create_dataset("", root=str(pictures / "val")), batch_size=32, use_prefetcher=False, num_workers=0,
        persistent_workers=False, **{key: settings[key] for key in keys},
    )  # fmt: skip
    top1, right = AverageMeter(), []
    with torch.inference_mode():
        for images, labels in loader:
            logits = model(images)
            top1.update(accuracy(logits, labels)[0].item(), len(labels))
            right += (logits.argmax(1) == labels).tolist()
    assert top1.count == 150
    return top1.avg, right


# ---- timm's code ----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # timm's data set leaves its files open
@pytest.mark.parametrize("name", RUNS)
def test_timms_own_evaluation_gives_the_same_top1(name, exported, runs, pictures):
    ours = measured(runs[name])
    model = timm.create_model(f"local-dir:{exported[name]}", pretrained=True).eval()
    top1, right = timms_evaluation(model, pictures)
    assert f"{top1:.4f}" == f"{100 * ours['top1']:.4f}"  # timm rounds each batch to float32
    assert right == predictions.load(runs[name] / ours["predictions"]).correct.tolist()
    assert 0.4 < ours["top1"] < 1.0 and ours["weights"] == ("ema" if name == "resnet" else "raw")


@pytest.mark.parametrize("name", RUNS)
def test_timm_loads_the_file_by_the_networks_name(name, exported):
    described = json.loads((exported[name] / "config.json").read_text())
    model = timm.create_model(
        described["architecture"], checkpoint_path=str(exported[name] / "model.safetensors"),
        num_classes=described["num_classes"], **described["model_args"] if name == "vit" else {},
    )  # fmt: skip
    wanted = timm.create_model(f"local-dir:{exported[name]}", pretrained=True)
    assert described["num_classes"] == 3 and described["label_names"] == list(CLASSES)
    for key, tensor in wanted.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert load_file(exported[name] / "model.safetensors").keys() == wanted.state_dict().keys()


@pytest.mark.parametrize("name", RUNS)
def test_evaluate_py_reads_the_file_back(name, exported, runs, pictures, tmp_path):
    before, after = (
        load_subject(EvalConfig(weights=str(w)), CPU) for w in (runs[name], exported[name] / "model.safetensors")
    )
    assert after.preprocess == before.preprocess and after.network.kwargs == before.network.kwargs
    x = torch.randn(3, 3, before.preprocess.size, before.preprocess.size)
    with torch.inference_mode():
        assert torch.equal(after.model(x), before.model.to(memory_format=torch.contiguous_format)(x))
    (row,) = evaluate_here(exported[name] / "model.safetensors", pictures, f"out={tmp_path}")
    ours = measured(runs[name])
    assert row["top1"] == ours["top1"] and row["nll"] == pytest.approx(ours["nll"], rel=1e-5)


def test_the_moving_average_or_the_weights_themselves(exported, runs, tmp_path):
    state = torch.load(runs["resnet"] / "checkpoints" / "last.pt", map_location="cpu", weights_only=True)
    raw = export(WeightsConfig(weights=f"{runs['resnet']}@raw"), tmp_path / "raw")
    for folder, wanted in ((exported["resnet"], state["ema"]), (raw, state["model"])):
        found = load_file(folder / "model.safetensors")
        assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())
    assert not (raw / "results.jsonl").exists() and "**not run** on these weights" in (raw / "README.md").read_text()
    assert "own validation at step 12: top-1" in (raw / "README.md").read_text()


@pytest.mark.parametrize("origin", ["timm:{}", "weights.pth"])
@pytest.mark.parametrize(
    "name", ["resnet50.a1_in1k", "vit_base_patch32_224.sam_in1k", "eva02_tiny_patch14_336.mim_in22k_ft_in1k"]
)
def test_config_json_says_our_transform_again(name, origin):
    """Of networks with a size of their own to test at, with another crop, squashed pictures. No weights are read."""
    with torch.device("meta"):
        model = timm.create_model(name)
    how = Preprocess.published(model.pretrained_cfg, name)
    facts = {"checkpoint": origin.format(name), "model": name}
    subject = Subject(model, how, 1000, False, Path("out"), facts, ModelConfig(name))
    described = json.loads(json.dumps(hub.describe(subject, "mit")))
    cfg = described["pretrained_cfg"]
    assert Preprocess.published(cfg, name) == how and (cfg["license"], cfg["num_classes"]) == ("mit", 1000)
    assert ("tag" in cfg) == (origin != "weights.pth") and not {"url", "hf_hub_id", "file"} & cfg.keys()
    with torch.device("meta"):
        again = timm.create_model(described["architecture"], num_classes=1000, **described.get("model_args", {}))
    assert [tuple(t.shape) for t in again.state_dict().values()] == [
        tuple(t.shape) for t in model.state_dict().values()
    ]


@pytest.mark.parametrize(("size", "last"), [(28, 80), (224, 700), (288, 700), (384, 900)])
def test_every_resize_can_be_said_as_timms_crop_pct(size, last):
    for resize in range(size // 2, last):
        assert math.floor(size / hub.crop_pct(size, resize)) == resize


# ---- networks that JSON, or timm, does not know ----------------------------------------------------------------------


def snippet(folder: Path, picture: Path, monkeypatch) -> dict:
    """The names that the card's Python leaves, run beside the folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.S)
    monkeypatch.chdir(folder.parent)
    exec(code.replace("picture.jpg", str(picture)), names := {})
    return names


def test_the_papers_mixer_has_an_activation_that_json_cannot_hold(pictures, tmp_path, monkeypatch):
    values = yaml.safe_load((CONFIGS / "model" / "mixer_s32.yaml").read_text())
    network = ModelConfig(**{**values, "scheme": InitScheme[values["scheme"]]})
    model = build_model(network, num_classes=5, image_size=224, seed=0).eval()
    torch.nn.init.normal_(model.head.weight)
    torch.save(model.state_dict(), tmp_path / "mixer.pth")
    folder = export(WeightsConfig(str(tmp_path / "mixer.pth"), "mixer_s32"), tmp_path / "mixer")
    with pytest.raises(TypeError, match="'str' object is not callable"):  # rather than a silent other activation
        timm.create_model(f"local-dir:{folder}", pretrained=True)
    names = snippet(folder, next(pictures.glob("val/*/*.png")), monkeypatch)
    picture = names["transform"](names["Image"].open(next(pictures.glob("val/*/*.png"))).convert("RGB"))[None]
    with torch.inference_mode():
        assert torch.equal(model(picture), names["logits"]) and torch.equal(model(picture), names["model"](picture))
    assert ModelCard((folder / "README.md").read_text()).data.license == "unknown"


def test_a_network_of_this_project_needs_its_import(fashion_root, pictures, tmp_path, monkeypatch):
    small = [
        "data.backend=folder",
        "data.limit_train=100",
        "data.limit_eval=20",
        "train.batch_size=50",
        "train.epochs=1st",
    ]
    where = [f"paths.fashion_mnist={fashion_root}", f"run.dir={tmp_path / 'run'}", "schedule.warmup_steps=0"]
    train("optimizer=vanilla", *small, *where)
    folder = export(WeightsConfig(str(tmp_path / "run")), tmp_path / "net")
    assert "import gsam.models.zoo" in (folder / "README.md").read_text()
    pixels, _ = open_source("fashion_mnist", str(fashion_root), "val")[7]
    Image.fromarray(pixels).save(tmp_path / "seven.png")
    names, subject = (
        snippet(folder, tmp_path / "seven.png", monkeypatch),
        load_subject(EvalConfig(str(tmp_path / "run")), CPU),
    )
    ours = Normalize(subject.preprocess.mean, subject.preprocess.std, CPU.device)(
        torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]
    )
    theirs = names["transform"](Image.open(tmp_path / "seven.png").convert("RGB"))[None]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)  # 28 pixels stay as they are
    torch.testing.assert_close(names["logits"], subject.model(ours))
    code = f"import timm; timm.create_model('local-dir:{folder}', pretrained=True)"
    alone = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "Unknown model (small_convnet)" in alone.stderr  # loudly


# ---- the card -------------------------------------------------------------------------------------------------------


def test_the_card_is_the_hubs_and_says_what_was_measured(exported, runs, pictures):
    card = ModelCard((exported["resnet"] / "README.md").read_text())
    ours = measured(runs["resnet"])
    assert (card.data.library_name, card.data.license, card.data.model_name) == ("timm", "apache-2.0", "resnet")
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found["Top-1 accuracy, %"] == round(100 * ours["top1"], 3) and "not finished" not in card.text
    assert (
        measured(exported["resnet"]) == ours
        and f"{100 * ours['top1']:.2f}" in card.text
        and "trained with SAM on imagefolder" in card.text
    )
    for name in ("config.yaml", "meta.json"):
        assert (exported["resnet"] / "run" / name).read_bytes() == (runs["resnet"] / name).read_bytes()


def test_robustness_is_on_the_card_and_other_weights_are_not(runs, tmp_path):
    """Rows of two corruptions, as evaluate.py writes them; one of them also with the mirror image, one of other weights."""
    run, ours = shutil.copytree(runs["resnet"], tmp_path / "run"), measured(runs["resnet"])
    copy = {**ours, "evalset": "fashion_mnist_c", "origin": "generated", "severity": 3}
    rows = [{**copy, "corruption": name, "top1": top1} for name, top1 in (("fog", 0.5), ("snow", 0.3))]
    more = [{**rows[0], "flip_tta": True, "top1": 0.9}, {**ours, "weights": "raw", "top1": 0.1}]
    with open(run / "results.jsonl", "a") as file:
        file.write("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
    folder = export(WeightsConfig(weights=str(run)), tmp_path / "out")
    kept = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert kept == [ours, *rows, more[0]]
    card = ModelCard((folder / "README.md").read_text())
    found = {(each.dataset_name, each.metric_name): each.metric_value for each in card.data.eval_results}
    assert found["fashion_mnist_c (C-generated)", "Top-1 accuracy, %"] == 40.0 and len(found) == 4
    assert "mean error 60.00 %" in card.text and "90.00" not in card.text


@pytest.mark.parametrize("name", RUNS)
def test_the_cards_training_command_is_the_run(name, exported, runs):
    """The same configuration, hence the same hash."""
    (words,) = re.findall(r"python train.py (.*)", (exported[name] / "README.md").read_text())
    words = [forced(word) for word in [*shlex.split(words), "run.experiment=any"]]
    assert run_hash(read_composed(compose(words))) == runs[name].name


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=table1/vit_b32_gsam"],
        ["experiment=fig6/sam_strong", "train.seed=3"],
        ["experiment=table3/vit_s16_sam_pets", "base.lr=0.003", "model.init=runs/table1/vit_s16_sam/1a2b3c4d@ema"],
        ["experiment=quickstart", "model=vit_s32", "optimizer=entropy_sgd", "base=adamw", "schedule.warmup_steps=2ep"],
    ],
    ids=lambda words: words[0],
)
def test_the_cards_recipe_of_any_run(words):
    """Config group choices and single keys are told apart; what the experiment says is not repeated."""
    config = read_composed(compose([forced(word) for word in [*words, "run.experiment=any"]]))
    run = Run(Path("run"), as_dict(config), {"experiment": words[0].removeprefix("experiment=")})
    recipe = read_recipe(run)
    assert recipe.command is not None and set(words) <= set(recipe.command) and recipe.command[0] == words[0]
    assert run_hash(read_composed(compose([forced(w) for w in [*recipe.command, "run.experiment=any"]]))) == run_hash(
        config
    )
    sources = {key: source for key, _, source in recipe.settings}
    if words[0] == "experiment=table1/vit_b32_gsam":
        assert recipe.command == words and sources["optimizer.rho_max"].startswith("paper, ")
    if "base.lr=0.003" in words:
        assert sources["base.lr"] == "this run; experiment=table3/vit_s16_sam_pets has 0.01"


def test_settings_of_the_papers_experiments_have_the_ledgers_sources():
    assert experiment_sources("table1/vit_b32_gsam")["optimizer.rho_max"].startswith("paper, ")
    derived = experiment_sources("fig6/gsam_strong")
    assert derived["augment.magnitude"].startswith("paper, B.3") and derived["base.lr"]
    assert experiment_sources("fig7/sam_rho")["optimizer.rho"].endswith("(not verified)")
    assert experiment_sources("quickstart") == {}


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_an_export_is_replaced_only_when_asked_and_other_folders_never(exported, runs, tmp_path):
    out = shutil.copytree(exported["vit"], tmp_path / "vit")
    config = WeightsConfig(weights=str(runs["resnet"]))
    with pytest.raises(ValueError, match="holds an export; give another folder, or --overwrite"):
        export(config, out)
    export(config, out, overwrite=True)
    assert json.loads((out / "config.json").read_text())["architecture"] == "test_resnet"
    assert [path.name for path in tmp_path.iterdir()] == ["vit"]
    (tmp_path / "link").symlink_to(out)
    export(WeightsConfig(weights=str(runs["vit"])), tmp_path / "link", overwrite=True)
    assert json.loads((out / "config.json").read_text())["architecture"] == "test_vit"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "vit"]
    with pytest.raises(ValueError, match="is there and is no earlier export"):
        export(config, runs["vit"], overwrite=True)
    (out / ".git").mkdir()  # a clone of the Hub's repository
    with pytest.raises(
        ValueError, match="holds an export and .git, which --overwrite would delete; export into a new folder"
    ):
        export(config, out, overwrite=True)
    assert (out / ".git").is_dir()


def test_a_run_that_is_not_finished_and_one_without_its_facts(runs, tmp_path):
    run = shutil.copytree(runs["vit"], tmp_path / "run")
    (run / "DONE").unlink()
    text = (export(WeightsConfig(weights=str(run)), tmp_path / "out") / "README.md").read_text()
    assert "- training: **not finished**" in text
    (run / "meta.json").unlink()
    with pytest.raises(ValueError, match="meta.json cannot be read .*; restore it from a copy of the run"):
        export(WeightsConfig(weights=str(run)), tmp_path / "again")


def test_timm_alone_loads_the_folder_from_here_and_from_the_hub(exported, tmp_path):
    """A process that cannot import gsam, elsewhere; of the Hub the cache, as a download leaves it."""
    repository = tmp_path / "cache" / "models--user--net"
    shutil.copytree(exported["vit"], repository / "snapshots" / ("0" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    code = f"""if True:
        import sys; sys.modules["gsam"] = None
        import timm, torch
        names = ("local-dir:{exported["vit"]}", "hf-hub:user/net")
        here, hub = (timm.create_model(name, pretrained=True).eval() for name in names)
        x = torch.rand(2, 3, 64, 64)
        assert torch.equal(here(x), hub(x)) and hub.pretrained_cfg["label_names"] == {list(CLASSES)!r}"""
    env = {**os.environ, "HF_HUB_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_a_failed_export_leaves_nothing(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "check_loads", lambda *_: (_ for _ in ()).throw(RuntimeError("other logits")))
    with pytest.raises(RuntimeError, match="other logits"):
        export(WeightsConfig(weights=str(runs["vit"])), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_inside_a_run_folder_is_a_weights_file(exported, runs, tmp_path):
    run = shutil.copytree(runs["vit"], tmp_path / "run")
    shutil.copytree(exported["vit"], run / "export")
    subject = load_subject(EvalConfig(weights=str(run / "export" / "model.safetensors")), CPU)
    assert subject.facts["checkpoint"] == "model.safetensors" and subject.run is None


def test_wrong_words_are_one_message(tmp_path, monkeypatch, capsys):
    def said(*words):
        monkeypatch.setattr(sys, "argv", ["export.py", *words, "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as left:
            runpy.run_path(str(ROOT / "scripts" / "export.py"), run_name="__main__")
        assert left.value.code == 2 and not list(tmp_path.iterdir())
        return capsys.readouterr().err

    problems = said("wieghts=/no/run", "network")
    assert "3 problems" in problems and "did you mean weights?" in problems and "network: not key=value" in problems
    assert said("weights=/no/run").startswith("error: weights=/no/run: does not exist; give a run folder")
    assert "give a run folder" in said("weights=.")
