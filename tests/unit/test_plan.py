"""What reproduce.py plans from run folders that real trainings left."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from gsam.reproduce.check import check
from gsam.reproduce.cost import evaluations
from gsam.reproduce.execute import train_command
from gsam.reproduce.found import damaged, scan
from gsam.reproduce.plan import plan, results, select, unfinished
from gsam.reproduce.show import listing, passed_over, plan_table, speeds
from gsam.reproduce.task import Request, Task, left_out
from tests.runs import train

MINIATURE = (
    *("data=fashion_mnist", "data.backend=folder", "data.workers=0", "data.limit_train=40", "data.limit_eval=20"),
    *("model=small_convnet", "augment=fashion_mnist", "train.loss=softmax", "train.batch_size=20", "train.epochs=2st"),
    *("schedule.warmup_steps=1", "train.precision=fp32", "optimizer.group_size=10"),
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, fashion_root) -> Path:
    """table6/decayed in miniature: seed 0 finished, seed 1 stopped at the first of its two steps."""
    root = tmp_path_factory.mktemp("runs")
    for seed, more in ((0, []), (1, ["train.max_steps=1", "train.log_every=1st"])):
        train(*MINIATURE, f"paths.fashion_mnist={fashion_root}", f"run.root={root}", f"train.seed={seed}", *more,
              experiment="table6/decayed")  # fmt: skip
    return root


def request(root: Path, target: str = "table6/decayed", *extra: str, **options) -> Request:
    return Request(select(target), extra=(*MINIATURE, *extra), root=root, **options)


def test_finished_started_and_missing_runs_are_told_apart(runs):
    tasks = plan(request(runs, seeds=(0, 1, 2)))
    assert [(task.done, task.found and task.found.step) for task in tasks] == [(True, 2), (False, 1), (False, None)]
    assert [task.job.seed for task in unfinished(tasks, failed=set())] == [1, 2]
    assert [run.folder for run in results(request(runs), tasks)] == [tasks[0].found.folder]


def test_settings_that_decide_the_weights_make_it_another_run(runs):
    assert plan(request(runs, "table6/decayed", "base.lr=0.001"))[0].found is None
    assert plan(request(runs, "table6/decayed", "train.log_every=3st"))[0].done


def test_a_run_of_another_experiment_with_the_same_settings_is_not_this_one(runs):
    same = ("optimizer=sam", "optimizer.rho=null", "optimizer.rho_max=0.6", "optimizer.rho_min=0.1")
    assert plan(request(runs, "table1/vit_b32_sam", *same))[0].found is None


def test_how_it_was_computed_is_kept_so_that_the_same_folder_continues(runs):
    (task,) = plan(request(runs, "table6/decayed", "data.backend=ffcv", seeds=(1,)))
    assert task.found is not None and task.overrides[-1] == "data.backend=folder"


def test_vanilla_is_computed_64_images_at_a_time():
    options = {"root": Path("nowhere"), "gpus": 8}
    (vanilla,) = plan(Request(select("table1/resnet50_vanilla"), **options))
    (gsam,) = plan(Request(select("table1/resnet50_gsam"), **options))
    (given,) = plan(Request(select("table1/resnet50_vanilla"), extra=("train.accumulate=4",), **options))
    assert vanilla.overrides[-1] == "train.accumulate=8" and given.overrides[-1] == "train.accumulate=4"
    assert gsam.overrides == ["experiment=table1/resnet50_gsam", "train.seed=0"]
    command = train_command(gsam.overrides, Request(select("table1"), **options))
    assert command[1].endswith("scripts/launch.py") and command[2:4] == ["--standalone", "--nproc-per-node=8"]
    assert command[-1] == "run.root=nowhere"


def test_gradient_evaluations_are_those_of_the_recipes_page():
    """1,281,167 pictures, 300 epochs, 4096 at a time; two passes for GSAM."""
    names = ("table1/vit_b32_vanilla", "table1/vit_b32_gsam", "table5/vit_b32_vanilla_600", "table3/vit_s16_sam_pets")
    cost = {name: evaluations(plan(Request(select(name)))[0].config) for name in names}
    assert cost == {
        "table1/vit_b32_vanilla": 93_835 * 4096, "table1/vit_b32_gsam": 2 * 93_835 * 4096,
        "table5/vit_b32_vanilla_600": 187_671 * 4096, "table3/vit_s16_sam_pets": 500 * 512,
    }  # fmt: skip
    unknown = OmegaConf.merge(plan(Request(select("table1/vit_b32_gsam")))[0].config, {"data": {"name": "imagefolder"}})
    assert evaluations(unknown) is None
    held_out = plan(Request(select("mini/search/vit_sam")))[0].config  # 5,000 pictures of the four fifths that are left
    assert evaluations(held_out) == 2 * 1562 * 128


def test_vanilla_at_equal_gradient_evaluations_is_asked_for():
    def names(target: str) -> list[str]:
        return [task.overrides[0] for task in plan(Request(select(target), matched_compute=True))]

    assert names("table1/vit_b32_vanilla") == [
        "experiment=table1/vit_b32_vanilla",
        "experiment=table5/vit_b32_vanilla_600",
    ]
    assert len(names("table5")) == 3  # its 600 epochs are the matched run of its 300
    with pytest.raises(ValueError, match="--matched-compute sets train.epochs"):
        plan(Request(select("table1/vit_b32_vanilla"), matched_compute=True, extra=("train.epochs=2",)))


def test_fine_tuning_waits_for_weights_then_for_the_choice(tmp_path):
    target = "table3/vit_s16_gsam_pets"
    tasks = plan(Request(select(target), root=tmp_path))
    assert len(tasks) == 5 and all("weights of table1/vit_s16_gsam" in task.waits for task in tasks)
    (tmp_path / "vit_s16_gsam.safetensors").touch()
    tasks = plan(Request(select(target), root=tmp_path, weights=tmp_path))
    assert [task.waits for task in tasks] == [None] * 4 + ["the choice of base.lr on 10% of the training pictures"]
    assert f"model.init={tmp_path}/vit_s16_gsam.safetensors" in tasks[0].overrides


TUNED = "table3/vit_s16_vanilla_pets"


def tuning(root: Path, fashion_root: Path) -> Request:
    plain = [each for each in MINIATURE if "group_size" not in each]
    extra = (*plain, "train.epochs=1st", f"paths.fashion_mnist={fashion_root}")
    return Request(select(TUNED), extra=extra, root=root, weights=root)


def tune(root: Path, fashion_root: Path, count: int) -> list[Task]:
    """One step of pretraining, and of the first of the trainings that choose. Returns those."""
    asked = tuning(root, fashion_root)
    train(*asked.extra, f"run.root={root}", experiment="table1/vit_s16_vanilla")
    tried = plan(asked)[:count]
    for task in tried:
        train(*task.overrides[1:], f"run.root={root}", experiment=TUNED)
    return tried


def test_fine_tunings_are_found_again_when_the_runs_have_moved_or_are_spelled_otherwise(
    tmp_path, fashion_root, monkeypatch
):
    def done(root: Path) -> list[bool]:
        return [task.done for task in plan(tuning(root, fashion_root))]

    first, moved, only_the_first = tmp_path / "runs", tmp_path / "moved", [True, False, False, False, False]
    (tried,) = tune(first, fashion_root, 1)
    monkeypatch.chdir(tmp_path)
    assert done(first) == done(tmp_path / "runs" / ".." / "runs") == done(Path("runs")) == only_the_first
    first.rename(moved)
    assert done(moved) == only_the_first
    (run,) = [run for run in scan(moved) if run.experiment.endswith("/choice")]
    (run.folder / "DONE").unlink()  # broken off: the weights it started from are not there any more
    assert plan(tuning(moved, fashion_root))[0].found is None
    moved.rename(first)
    (begun,) = [task for task in plan(tuning(Path("runs"), fashion_root)) if task.found]
    assert begun.config.model.init == tried.config.model.init  # as it was spelled: another would be another folder


def test_all_seeds_of_a_fine_tuning_start_from_the_same_weights(tmp_path, fashion_root):
    """The report has no mean over different pretrainings."""
    asked = tuning(tmp_path, fashion_root)
    train(*asked.extra, f"run.root={tmp_path}", "train.seed=1", experiment="table1/vit_s16_vanilla")
    tune(tmp_path, fashion_root, 4)
    one, two = [task for task in plan(replace(asked, seeds=(0, 1))) if not task.job.overrides[-1].endswith("choice")]
    assert (one.job.seed, two.job.seed) == (0, 1) and one.config.model.init == two.config.model.init
    first = [
        run.folder for run in scan(tmp_path) if run.config["train"]["seed"] == 0 and run.experiment.startswith("table1")
    ]
    assert Path(one.config.model.init) == first[0].resolve()


def test_a_training_without_a_finite_top1_is_not_chosen(tmp_path, fashion_root):
    tune(tmp_path, fashion_root, 4)
    asked = tuning(tmp_path, fashion_root)
    tasks = plan(asked)
    assert [task.done for task in tasks] == [True] * 4 + [False] and tasks[-1].waits is None
    tops = [task.found.top1() for task in tasks[:4]]

    def spoil(task: Task) -> None:
        file = task.found.folder / "metrics.jsonl"
        file.write_text(re.sub(r'"top1": ?[\d.]+', '"top1": NaN', file.read_text()))

    spoil(tasks[0])
    best = 1 + tops[1:].index(max(tops[1:]))
    assert plan(asked)[-1].job.values == tasks[best].job.values
    for task in tasks[1:4]:
        spoil(task)
    assert plan(asked)[-1].waits.endswith("of the training pictures: none of 4 trainings ended with a top-1")


@pytest.mark.parametrize(
    ("target", "extra", "message"),
    [
        ("table7", (), "table7: not in configs/catalogue.yaml; choose one of table1, "),
        ("table1/vit_b33_gsam", (), "table1 has no row vit_b33_gsam; choose one of vit_b32_gsam"),
        ("table4/oops", (), "table4 has no row oops; choose one of "),
        ("fig1/x", (), "fig1 has no row x; choose one of none: it has no rows"),
        ("fig1", ("foo=1",), "foo=1: fig1 trains nothing; use python scripts/analyze.py analysis=fig1 foo=1"),
        ("table4", ("base.lr=1",), "base.lr=1: table4 trains nothing; leave it out"),
        ("fig4", ("optimizer.rho=1",), "optimizer.rho=1: the grid of fig4 decides optimizer.rho"),
        ("table6", ("train.seed=1",), "train.seed=1: --seeds decides train.seed"),
        ("table6", ("fast",), "fast: not an override; write key=value"),
        ("table6/decayed", ("data=nowhere",), "Could not find 'data/nowhere'"),
    ],
)
def test_wrong_requests_are_refused_with_the_way_out(target, extra, message):
    with pytest.raises(ValueError) as error:
        plan(Request(select(target), extra=extra))
    assert message in str(error.value)


def problems(target: str, fashion_root: Path, *extra: str) -> list[str]:
    asked = request(Path("nowhere"), target, f"paths.fashion_mnist={fashion_root}", *extra)
    return check(asked, plan(asked))


def test_every_training_is_checked_before_the_first_one_starts(fashion_root):
    assert problems("table6", fashion_root) == []
    (one,) = problems("table6", fashion_root, "train.batch_size=25")  # nothing wrong with it for vanilla
    assert one.startswith("optimizer.group_size=10 does not divide the 25 images")
    assert one.endswith("(in table1/vit_b32_sam, table6/constant_ascent, table6/decayed, table1/vit_b32_gsam)")
    (one,) = problems("table6", fashion_root, "train.batch_size=0")  # of all rows: no list of them
    assert one.startswith("train.batch_size=0") and "(in " not in one
    (one,) = problems("fig4", fashion_root, "optimizer.eta=-1")
    assert one.startswith("optimizer.eta=-1")


def test_an_override_is_for_the_rows_that_have_its_key(fashion_root):
    asked = request(Path("nowhere"), "table6")
    assert left_out("table5/vit_b32_vanilla_600", asked) == ["optimizer.group_size=10"]
    vanilla, *others = plan(asked)
    assert "optimizer.group_size=10" not in vanilla.overrides
    assert all(
        "optimizer.group_size=10" in task.overrides and task.config.optimizer.group_size == 10 for task in others
    )
    assert left_out("table6/decayed", request(Path("nowhere"), "table6", "optimizer.alpha=0.1")) == [
        "optimizer.alpha=0.1"
    ]
    unknown = problems("table6", fashion_root, "optimizer.alfa=0.1")  # a key of no row
    assert all(each.startswith("optimizer.alfa: unknown key") for each in unknown) and len(unknown) == 3


def shown(what, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(what)
    return console.export_text()


def test_a_narrow_terminal_breaks_no_number_of_a_grid():
    text = shown(listing(Request(select("fig5/asam"), root=Path("nowhere")), None), 80)
    numbers = [
        word for line in text.splitlines() for word in re.findall(r"[\d.]+", line.split("│")[2] if "│" in line else "")
    ]
    assert numbers == ["1.0", "2.0", "3.0", "4.0", "5.0", "6.0", "7.0"]


def test_the_hours_of_a_plan_say_what_is_not_in_them(fashion_root, tmp_path):
    asked = request(tmp_path, "table6/decayed", f"paths.fashion_mnist={fashion_root}")
    text = shown(plan_table(asked, plan(asked), print, hours=True), 200)
    assert re.search(
        r"gradient evaluations, \S+ hours \(evaluations and analyses come on top, they are not counted\)", text
    )


@pytest.mark.parametrize("text", ["{", '{"a": "fast"}'])
def test_damaged_speeds_are_said_and_measured_again(text, tmp_path):
    said: list[str] = []
    (tmp_path / "speeds.json").write_text(text)
    (task,) = plan(request(tmp_path))
    with speeds(tmp_path, said.append, True) as known:
        assert known.rate(task.config) > 0
    assert said[0] == f"{tmp_path}/speeds.json is damaged: not read, networks are measured again"
    with speeds(tmp_path, said.append, True) as known:
        known.rate(task.config)
    assert len(said) == 2 and said[1].startswith("measuring small_convnet")  # the second time the file is whole


def test_where_the_pictures_are_may_be_said_of_an_experiment_of_theory_too():
    assert plan(Request(select("fig2"), extra=("paths.fashion_mnist=/pictures",))) == []


def test_folders_without_a_started_run_are_passed_over(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "config.yaml").write_text("train: {seed: 0}\n")
    assert scan(tmp_path) == []


@pytest.mark.parametrize(
    ("meta", "config"), [("[1]", "a: 1"), ("{}", ""), ("{}", "[1]"), ("{", "a: 1"), ("{}", "a: ["), ("{}", "a: 1")]
)
def test_damaged_folders_are_passed_over_and_named(meta, config, tmp_path):
    folder = tmp_path / "table6" / "decayed" / "0a1b2c3d"
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(meta)
    (folder / "config.yaml").write_text(config)
    assert scan(tmp_path) == [] and damaged(tmp_path) == [folder]
    (task,) = plan(request(tmp_path))
    assert not task.done
    assert passed_over(tmp_path) == [f"passed over: {folder}: its config.yaml or meta.json is damaged"]
