"""The catalogue of tables and figures: whole, consistent with the paper's numbers, and exact about which runs belong."""

import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from gsam import catalogue
from gsam.catalogue import CONFIGS, Row, choosing, departures, differing, entries, entry, expected, jobs, matched, paper
from gsam.recipes import compose

ROOT = Path(__file__).parents[2]
ENTRIES = entries()
MINIATURES = entries("mini/")
NAMES = [path.relative_to(CONFIGS / "experiment").with_suffix("").as_posix()
         for path in sorted((CONFIGS / "experiment").rglob("*.yaml"))]  # fmt: skip
OURS = [name for name in NAMES if not name.startswith(("mini/", "table1/", "quickstart"))]


def row(name: str, experiment: str) -> Row:
    return next(each for each in ENTRIES[name].rows if each.experiment == experiment)


def config_of(experiment: str, *overrides: str) -> dict:
    return OmegaConf.to_container(compose([f"experiment={experiment}", f"run.experiment={experiment}", *overrides]))


# ---- whole and consistent -------------------------------------------------------------------------------------------


def test_every_table_and_figure_of_the_paper_is_there():
    assert list(ENTRIES) == [*(f"table{i}" for i in range(1, 7)), *(f"fig{i}" for i in range(1, 10))]


def test_every_experiment_file_is_shown_somewhere():
    shown = {each.experiment for one in ENTRIES.values() for each in one.rows}
    assert shown == {name for name in NAMES if not name.startswith("mini/")} - {"quickstart"}


@pytest.mark.parametrize("one", ENTRIES.values(), ids=lambda one: one.name)
def test_rows_and_the_papers_numbers_name_each_other(one):
    numbers = paper(one.name)
    assert numbers["source"].split(" and ")[0] == one.source.split(" and ")[0]
    wanted = {each.paper for each in one.rows} - {None}
    assert wanted == set(numbers.get("rows", {}))
    if one.rows and "rows" in numbers:
        assert numbers["columns"] == list(one.settings or one.columns)
        assert all(len(values) == len(numbers["columns"]) for values in numbers["rows"].values())


def test_columns_and_theories_are_files():
    for one in ENTRIES.values():
        for evalset in one.columns.values():
            assert evalset == "val" or (CONFIGS / "evalset" / f"{evalset}.yaml").is_file()


@pytest.mark.parametrize("name", OURS)
def test_files_begin_with_their_command(name):
    header, command, *_ = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert header == "# @package _global_"  # Hydra reads it in the first line only
    shown = next(each for one in ENTRIES.values() for each in one.rows if each.experiment == name)
    if shown.holdout:
        assert command == f"# python train.py experiment={name} model.init=<weights> base.lr=<chosen>"
    elif shown.over:
        assert command == f"# python train.py -m experiment={name}"
    else:
        assert command == f"# torchrun --nproc-per-node=8 train.py experiment={name}"


def test_the_page_counts_the_trainings():
    page = (ROOT / "docs" / "catalogue.md").read_text()
    for name, one in ENTRIES.items():
        count = len(jobs(one)) + sum(len(choosing(each)) for each in one.rows if each.holdout)
        assert f"| `{name}` | {one.title} | {count or 'none'}" in page


# ---- the paper's numbers against each other: two tables that print one number print the same one --------------------


def test_numbers_that_the_paper_prints_twice_are_equal():
    table1 = paper("table1")["rows"]
    gsam = table1["vit_b32_gsam"]
    assert paper("table2")["rows"]["gsam"] == paper("table5")["rows"]["gsam_300"] == gsam[:4]
    assert paper("table5")["rows"]["vanilla_300"] == table1["vit_b32_vanilla"][:4]
    table6 = paper("table6")["rows"]
    assert table6["decayed_ascent"] == gsam[:1] and table6["vanilla"] == paper("table5")["rows"]["vanilla_600"][:1]
    assert paper("fig5")["rows"]["vanilla"] == table1["mixer_s32_vanilla"][:2]
    assert paper("fig6")["rows"]["gsam_light"] == gsam[:3]


def test_the_improvements_that_the_text_names():
    """Section 6.1: ViT-B/32 +5.4 and +3.2, Mixer-B/32 +11.1 and +1.2; on R +5.1 and C +5.9."""
    rows = {
        name: dict(zip("ImageNet ReaL V2 R C".split(), v, strict=True)) for name, v in paper("table1")["rows"].items()
    }

    def gain(model, over, column="ImageNet"):
        return round(rows[f"{model}_gsam"][column] - rows[f"{model}_{over}"][column], 1)

    assert (gain("vit_b32", "vanilla"), gain("vit_b32", "sam")) == (5.4, 3.2)
    assert (gain("mixer_b32", "vanilla"), gain("mixer_b32", "sam")) == (11.1, 1.2)
    assert (gain("mixer_b32", "sam", "R"), gain("mixer_b32", "sam", "C")) == (5.1, 5.9)


def test_the_means_of_table_3():
    numbers = paper("table3")
    for name, printed in numbers["means"].items():
        cells = [values[0] for key, values in numbers["rows"].items() if key.startswith(f"{name}_")]
        assert len(cells) == 4 and sum(cells) / 4 == pytest.approx(printed, abs=0.051)


def test_table_4_is_what_the_recipes_have_but_for_the_resnets_decay():
    one = ENTRIES["table4"]
    for each in one.rows:
        found, printed = expected(each.experiment), paper("table4")["rows"][each.paper]
        for (heading, key), value in zip(one.settings.items(), printed, strict=True):
            ours = str(found[key]).removesuffix("ep").removesuffix("st")
            if heading == "weight decay" and "resnet" in each.experiment:
                assert (value, ours) == (0.3, "0.001")
            else:
                assert catalogue._same(ours, value), (each.experiment, heading)


# ---- jobs -----------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_point_once_per_seed():
    found = jobs(ENTRIES["fig4"], [0, 1])
    assert len(found) == 36
    assert found[1].overrides == ("experiment=fig4", "optimizer.rho=0.05", "optimizer.alpha=0.05", "train.seed=1")
    points = {(job.values["optimizer.rho"], job.values["optimizer.alpha"]) for job in found}
    assert points == {(rho, alpha) for rho in (0.05, 0.15, 0.2) for alpha in (0.05, 0.1, 0.15, 0.2, 0.25, 0.3)}


def test_what_two_entries_share_is_one_job():
    table1, table5, fig6 = ({job.overrides for job in jobs(ENTRIES[name])} for name in ("table1", "table5", "fig6"))
    assert {("experiment=table1/vit_b32_gsam", "train.seed=0")} <= table1 & table5 & fig6
    assert sum("vit_b32_gsam" in job.overrides[0] for job in jobs(ENTRIES["fig6"])) == 1  # of three bars
    assert jobs(ENTRIES["table4"]) == []  # it is read from the configurations


def test_fine_tunings_choose_the_learning_rate_without_the_test_pictures():
    one = row("table3", "table3/vit_b16_gsam_cifar10")
    found = choosing(one)
    assert [job.values["base.lr"] for job in found] == [0.001, 0.003, 0.01, 0.03]
    assert all(
        {"data.holdout=0.02", "run.experiment=table3/vit_b16_gsam_cifar10/choice"} <= {*job.overrides} for job in found
    )
    final = jobs(ENTRIES["table3"])
    assert len(final) == 24 and final[0].values == {}


def test_equal_gradient_evaluations():
    table1, table5 = ENTRIES["table1"], ENTRIES["table5"]
    vit = row("table1", "table1/vit_b32_vanilla")
    assert matched(table1, vit) == ("table5/vit_b32_vanilla_600", ())  # an experiment that is just that, trained once
    assert matched(table1, row("table1", "table1/resnet50_vanilla")) == (
        "table1/resnet50_vanilla",
        ("train.epochs=180ep",),
    )
    assert matched(table1, row("table1", "table1/vit_b32_gsam")) is None
    assert matched(table5, row("table5", "table5/vit_b32_vanilla_600")) is None  # has them already


# ---- which runs belong ----------------------------------------------------------------------------------------------


def test_a_run_of_the_experiment_belongs_and_may_be_computed_otherwise():
    one = row("table1", "table1/vit_b32_gsam")
    same = (
        "train.seed=3",
        "train.accumulate=2",
        "data.backend=folder",
        "train.log_every=7st",
        "paths.imagenet=/elsewhere",
    )
    assert departures(config_of("table1/vit_b32_gsam", *same), one) == {}


def test_a_run_that_departs_is_told_with_both_values():
    one = row("table1", "table1/vit_b32_gsam")
    config = config_of("table1/vit_b32_gsam", "optimizer.alpha=0.2", "data.limit_train=500", "++model.kwargs.depth=2")
    assert departures(config, one) == {
        "optimizer.alpha": (0.6, 0.2), "data.limit_train": (None, 500), "model.kwargs.depth": (None, 2),
    }  # fmt: skip


def test_with_batchnorm_the_pieces_of_a_step_decide_the_weights():
    def told(experiment: str, *overrides: str) -> dict:
        return departures(config_of(experiment, *overrides), Row(experiment, experiment))

    assert told("table1/resnet50_gsam", "train.accumulate=2") == {"train.accumulate": (1, 2)}  # over 32 images, not 64
    assert (
        told("table1/resnet50_vanilla", "train.accumulate=8") == {}
    )  # as docs/recipes.md has it: 64 on each of 8 GPUs
    assert told("table1/resnet50_vanilla", "train.accumulate=128") == {"train.accumulate": (1, 128)}  # 32 on one
    assert told("table1/mixer_s32_gsam", "train.accumulate=2") == {}
    assert "train.accumulate" in told("table1/vit_b32_gsam", "model=small_convnet", "train.accumulate=2")


def test_a_point_of_the_grid_belongs_and_another_does_not():
    one = row("fig4", "fig4")
    assert departures(config_of("fig4", "optimizer.rho=0.15", "optimizer.alpha=0.3"), one) == {}
    assert departures(config_of("fig4", "optimizer.rho=0.1"), one) == {"optimizer.rho": ([0.05, 0.15, 0.2], 0.1)}


def pretrained(folder: Path, experiment: str, *overrides: str, done: bool = True) -> str:
    """The files of a training: its configuration as it is composed. Returns model.init of one that starts from it."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(experiment, *overrides)))
    (folder / "meta.json").write_text(json.dumps({"experiment": experiment}))
    if done:
        (folder / "DONE").touch()
    return f"model.init={folder}"


def test_a_fine_tuning_belongs_if_it_starts_from_a_run_of_the_rows_experiment(tmp_path):
    name, weights = "table3/vit_s16_sam_pets", "table1/vit_s16_sam"
    one = row("table3", name)

    def init_departs(init: str) -> bool:
        found = departures(config_of(name, init, "base.lr=0.003"), one)
        assert found.keys() <= {"model.init"} and all(wanted == f"weights of {weights}" for wanted, _ in found.values())
        return bool(found)

    good = pretrained(tmp_path / "anywhere", weights, "train.seed=4")
    (tmp_path / "anywhere" / "checkpoints").mkdir()
    for spelling in (good, f"{good}@raw", f"{good}/checkpoints/last.pt"):
        assert not init_departs(spelling)
    assert init_departs(f"{good}/checkpoints/step_100.pt")  # of the middle of it
    assert init_departs(pretrained(tmp_path / "other", "table1/vit_s16_gsam"))
    assert init_departs(pretrained(tmp_path / "miniature" / weights / "0a1b2c3d", weights, "data.limit_train=500"))
    assert init_departs(pretrained(tmp_path / "started" / weights / "0a1b2c3d", weights, done=False))
    assert not init_departs(f"model.init=/gone/{weights}/0a1b2c3d") and not init_departs(
        "model.init=/x/vit_s16_sam.npz"
    )
    for gone in ("/gone/table1/vit_s16_gsam/0a1b2c3d", "/gone/weights.pt", "timm:vit_small_patch16_224", "null"):
        assert init_departs(f"model.init={gone}")
    assert departures(config_of("fig4", good), row("fig4", "fig4")).keys() == {"model.init"}  # starts from none


# ---- miniatures, wrong files ----------------------------------------------------------------------------------------


def test_every_miniature_is_shown_and_begins_with_its_command():
    names = [name for name in NAMES if name.startswith("mini/")]
    assert {each.experiment for one in MINIATURES.values() for each in one.rows} == {*names}
    for name in names:
        header, command, *_ = (CONFIGS / "experiment" / f"{name}.yaml").read_text().splitlines()
        shown = next(each for one in MINIATURES.values() for each in one.rows if each.experiment == name)
        assert header == "# @package _global_"
        assert command == f"# python train.py {'-m ' if shown.over else ''}experiment={name}"


def test_every_method_is_searched_with_six_settings_vanilla_with_more_and_one_seed_without_the_test_pictures():
    for each in MINIATURES["mini/search"].rows:
        values = expected(each.experiment)
        places = [dict(zip(each.over, place, strict=True)) for place in itertools.product(*each.grid().values())]
        for place in places:
            if place.get("optimizer.iterations") == 1:  # of Entropy-SGD: one inner step, in which gamma does nothing
                place["optimizer.gamma"] = 0.0
        count = len({tuple(place.values()) for place in places})
        more = 1 if "entropy" in each.experiment else 0
        assert (count > 6 if "vanilla" in each.experiment else count == 6 + more) and each.best
        assert values["data.holdout"] == 0.2 and values["data.limit_train"] == 5000 and values["train.seed"] == 0


def test_miniatures_of_one_model_differ_in_their_method_only():
    """The lengths apart: vanilla with 80 epochs, and Entropy-SGD with one pass per picture, cost as much as the others."""
    for model in ("resnet", "vit", "mixer"):
        names = {each.experiment for one in MINIATURES.values() for each in one.rows}
        mine = [
            expected(name)
            for name in names
            if expected(name)["model.name"] == expected(f"mini/table1/{model}_sam")["model.name"]
        ]
        keys = {key for values in mine for key in values if not key.startswith(("optimizer.", "data.holdout"))}
        differing = {key for key in keys if len({str(values.get(key)) for values in mine}) > 1}
        assert differing <= {"train.epochs"}, model
        assert {str(values["train.epochs"]) for values in mine} == {"40ep", "80ep"}


def test_miniatures_are_measured_on_the_sets_that_they_name():
    assert catalogue.sets(entry("mini/table1"), "fashion_mnist") == {"test": "val", "C": "fashion_mnist_c15"}
    with pytest.raises(
        ValueError, match=r"mini/table3: not in configs/mini.yaml; choose one of mini/search, mini/table1"
    ):
        entry("mini/table3")
    assert matched(entry("mini/table1"), entry("mini/table1").rows[0]) == ("mini/table1/resnet_vanilla_80", ())


def test_columns_on_other_data():
    one = ENTRIES["table1"]
    assert catalogue.sets(one, "imagenet")["R"] == "imagenet_r"
    assert catalogue.sets(one, "fashion_mnist") == {"ImageNet": "fashion_mnist", "C": "fashion_mnist_c"}
    assert catalogue.sets(one, "imagefolder") == {"ImageNet": "val"}
    assert catalogue.sets(ENTRIES["table3"], "pets") == {"top-1": "val"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("over: [optimizer.lam]", "ovre: [optimizer.lam]", "table2: .*unexpected keyword argument 'ovre'"),
        ("over: [optimizer.lam]", "over: [optimizer.lamb]", r"over=\['optimizer.lamb'\], but hydra.sweeper.params"),
    ],
)
def test_mistakes_in_the_file_are_named(old, new, message, tmp_path, monkeypatch):
    shutil.copytree(CONFIGS / "experiment", tmp_path / "experiment")
    text = (CONFIGS / "catalogue.yaml").read_text()
    assert old in text
    (tmp_path / "catalogue.yaml").write_text(text.replace(old, new))
    monkeypatch.setattr(catalogue, "CONFIGS", tmp_path)
    with pytest.raises(ValueError, match=message):
        entries()


def test_neither_torch_nor_hydra_is_imported_for_reading_it():
    code = "import sys; from gsam.catalogue import entries, jobs; [jobs(e) for e in entries().values()]; print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert not {"torch", "hydra"} & set(result.stdout.split())


# ---- sources --------------------------------------------------------------------------------------------------------

LEDGER = yaml.safe_load((CONFIGS / "ledger.yaml").read_text())


@pytest.mark.parametrize("name", OURS)
def test_what_an_experiment_changes_has_a_source(name):
    """configs/ledger.yaml, `experiments`: every value in which a file differs from the recipe it is like, grid included."""
    (found,) = [each for each in LEDGER["experiments"] if re.fullmatch(each["experiments"], name)]
    changes: dict = {}
    for part in found["changes"]:
        assert part["source"].replace(",", " ").split()[0] in LEDGER["sources"]
        assert not changes.keys() & part["values"].keys(), "two sources for one value"
        changes |= part["values"]
    like = found["like"].format(**re.fullmatch(found["experiments"], name).groupdict())
    grid = Row(name, name, over=tuple(catalogue._sweep(name))).grid()
    differs = differing(expected(like), expected(name)).keys() | grid.keys()
    assert differs == changes.keys()
    for key, value in changes.items():
        ours = grid.get(key, expected(name).get(key))
        assert value == "see file" or ours == value or catalogue._same(ours, value), key
    text = (CONFIGS / "experiment" / f"{name}.yaml").read_text()
    if not all(part.get("verified", True) for part in found["changes"]) and not name.startswith("table3/"):
        assert "unverified" in text, "the file has to say so"
