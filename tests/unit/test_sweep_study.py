"""Workers on one study: every configuration is tried once, whoever dies; nothing here trains."""

import time

import pytest
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from gsam.sweep.results import rows
from gsam.sweep.space import point_of
from gsam.sweep.storage import open_storage
from gsam.sweep.study import FAILED, LOST, RETRIES, ended, ordinals
from tests.sweeps import ledger_of, plan_of

GRACE_S = 0.8


@pytest.fixture(params=["journal", "sqlite"])
def words(request, tmp_path):
    where = [f"sweep.storage=sqlite:///{tmp_path}/study.db"] if request.param == "sqlite" else []
    return [*where, f"sweep.grace_s={GRACE_S}", "optimizer.rho=0.1,0.2,0.3"]


def die(ledger, watcher):
    """Let a trial of `ledger` be given up by `watcher`."""
    watcher.watch(())
    deadline = time.monotonic() + 20
    while any(trial.state is TrialState.RUNNING for trial in ledger.trials()):
        assert time.monotonic() < deadline
        time.sleep(GRACE_S / 4)
        watcher.watch(())


def test_workers_take_every_point_once_in_the_order_of_the_grid(tmp_path, words):
    one, two = ledger_of(plan_of(tmp_path, *words)), ledger_of(plan_of(tmp_path, *words))
    taken = [one.take(), two.take(), one.take()]
    assert one.take() is None and two.take() is None
    assert [each.point.settings for each in taken] == [[f"optimizer.rho={rho}"] for rho in (0.1, 0.2, 0.3)]
    assert [each.ordinal for each in taken] == [0, 1, 2]
    for each in taken:
        one.complete(each.trial, 0.5)
    assert two.take() is None and all(ended(trials) for trials in ordinals(two.trials()).values())


def test_the_order_of_the_words_means_nothing(tmp_path):
    """Neither to which trial is which configuration nor to what is told of it."""
    words = ["experiment=fig5/asam,fig5/sam", "optimizer.rho=0.1,0.2", "base.lr=0.003,0.01"]
    one = ledger_of(plan_of(tmp_path, *words))
    two = ledger_of(plan_of(tmp_path, words[2], words[1], "experiment=fig5/sam,fig5/asam"))
    assert one.plan.folder == two.plan.folder
    taken = [(one, two)[n % 2].take() for n in range(8)]
    assert len({each.point.text for each in taken}) == 8
    for each in taken:
        one.complete(each.trial, 0.5)
    assert rows(one.plan, one.trials()) == rows(two.plan, two.trials())
    assert [row["settings"] for row in rows(two.plan, two.trials())] == [each.point.values for each in taken]


def test_a_lost_trial_is_started_again_by_one_worker_and_given_up_after_two_retries(tmp_path, words):
    dead, one, two = (ledger_of(plan_of(tmp_path, *words)) for _ in range(3))
    for attempt in range(RETRIES + 1):
        lost = dead.take()
        assert (lost.ordinal, lost.attempt) == (0, attempt) and lost.point.settings == ["optimizer.rho=0.1"]
        if attempt == 0:
            die(dead, one)
        else:
            one._lost(one.trials()[lost.trial.number], 0, "its host")
        with pytest.raises(
            UpdateFinishedTrialError
        ):  # it was only standing still: it hears of it, and cannot tell a value
            dead.beat(lost.trial)
        dead.complete(lost.trial, 0.9)
    rest = [one.take(), two.take()]
    assert [each.ordinal for each in rest] == [1, 2] and one.take() is None
    trials = ordinals(one.trials())[0]
    assert [trial.user_attrs["end"] for trial in trials] == [LOST] * (RETRIES + 1) and ended(trials)
    assert trials[-1].user_attrs["reason"].startswith("no sign of life of ")


def test_signs_of_life_keep_a_trial(tmp_path, words):
    one, two = ledger_of(plan_of(tmp_path, *words)), ledger_of(plan_of(tmp_path, *words))
    taken = one.take()
    until = time.monotonic() + 3 * GRACE_S
    while time.monotonic() < until:
        one.beat(taken.trial)
        assert two.watch(()) == 1
        time.sleep(GRACE_S / 20)
    one.complete(taken.trial, 0.5)


def test_a_worker_does_not_watch_its_own_trials(tmp_path, words):
    one, two = ledger_of(plan_of(tmp_path, *words)), ledger_of(plan_of(tmp_path, *words))
    mine = [one.take().trial.number, one.take().trial.number]
    assert one.watch(iter(mine)) == 0
    two.take()
    assert one.watch(iter(mine)) == 1 and two.watch(iter([2])) == 2


def test_two_workers_that_queue_a_lost_trial_at_once_run_it_once(tmp_path, words):
    dead, one, two = (ledger_of(plan_of(tmp_path, *words)) for _ in range(3))
    lost = dead.take().trial.number
    one._lost(one.trials()[lost], 0, "")
    seen = ordinals(one.trials())
    one._queue_again(seen)
    two._queue_again(seen)  # what it saw before the other's write
    taken = [one.take(), two.take(), one.take()]
    assert [(each.ordinal, each.attempt) for each in taken] == [(0, 1), (1, 0), (2, 0)] and two.take() is None


def test_a_trial_that_was_put_back_is_the_same_trial(tmp_path, words):
    one, two = ledger_of(plan_of(tmp_path, *words)), ledger_of(plan_of(tmp_path, *words))
    first = one.take()
    first.trial.report(0.25, 0)
    one.put_back(first.trial)
    again = two.take()
    assert again.trial.number == first.trial.number and (again.ordinal, again.attempt) == (0, 0)
    assert two.trials()[0].intermediate_values == {0: 0.25} and again.point == first.point


def test_failures_stay_until_they_are_asked_for_again(tmp_path, words):
    one = ledger_of(plan_of(tmp_path, *words))
    one.fail(one.take().trial, FAILED, "nan")
    assert [one.take().ordinal, one.take().ordinal, one.take()] == [1, 2, None]
    one.queue_failed()
    again = one.take()
    assert (again.ordinal, again.attempt) == (0, 1) and again.point.settings == ["optimizer.rho=0.1"]
    two = ledger_of(one.plan)
    for attempt in range(2, RETRIES + 2):  # with the retries of a new one
        two._lost(two.trials()[again.trial.number], 0, "")
        again = two.take()
        assert (again.ordinal, again.attempt) == (0, attempt)
    two._lost(two.trials()[again.trial.number], 0, "")
    assert two.take() is None
    two.queue_failed()
    again = two.take()
    two._lost(two.trials()[again.trial.number], 0, "")
    assert (again.ordinal, two.take().ordinal) == (0, 0)


def test_more_trials_of_a_search_can_be_asked_for(tmp_path, words):
    search = [*words[:-1], "optimizer.rho=tag(log, interval(0.01, 1))", "sweep.sampler=random"]
    one = ledger_of(plan_of(tmp_path, *search, "sweep.trials=2"))
    taken = [one.take(), one.take()]
    values = [each.point.values["optimizer.rho"] for each in taken]
    assert one.take() is None and all(0.01 <= value <= 1 and value == float(f"{value:.4g}") for value in values)
    assert [point_of(trial.params, one.plan.space) for trial in one.trials()] == [each.point for each in taken]
    assert ledger_of(plan_of(tmp_path, *search, "sweep.trials=3")).take().ordinal == 2


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_two_workers_search_over_experiments_with_ranges_of_their_own(sampler, tmp_path):
    """TPE's own choice begins with its eleventh trial. What the study has of a trial is the point that was trained."""
    words = ["experiment=fig5/asam,fig5/sam", "base.lr=tag(log, interval(1e-4,1e-2))", f"sweep.sampler={sampler}",
             "sweep.trials=16"]  # fmt: skip
    plan = plan_of(tmp_path, *words, sweep="fig5_asam")
    workers, points, held = [ledger_of(plan), ledger_of(plan)], [], []
    for number in range(16):
        held.append(workers[number % 2].take())
        points.append(held[-1].point)
        if len(held) == 3:  # two are running whenever one is made up
            workers[number % 2].complete(held.pop(0).trial, number / 16)
    assert [each.ordinal for each in held] == [14, 15] and workers[0].take() is workers[1].take() is None
    assert [point_of(trial.params, plan.space) for trial in workers[0].trials()] == points
    assert {point.experiment for point in points} == {"fig5/asam", "fig5/sam"}
    for trial, point in zip(workers[1].trials(), points, strict=True):
        assert set(trial.params) == {"experiment", "base.lr", f"{point.experiment}:optimizer.rho"}
        assert point.values["optimizer.rho"] in plan.space[point.experiment]["optimizer.rho"].values
        assert 1e-4 <= point.values["base.lr"] <= 1e-2


def test_another_sweep_of_the_same_name_is_refused_with_the_difference(tmp_path, words):
    ledger_of(plan_of(tmp_path, *words))
    ledger_of(plan_of(tmp_path, *words, "train.log_every=1st", "data.workers=0"))  # what decides nothing may differ
    with pytest.raises(ValueError, match="is another one") as error:
        ledger_of(plan_of(tmp_path, *words, "train.batch_size=100", "sweep.seeds=[0,1]", "optimizer.rho=0.1,0.2"))
    assert str(error.value).splitlines()[1:] == [
        "  - sweep seeds: [0] before, now [0, 1]",
        "  - space quickstart optimizer.rho: [0.1, 0.2, 0.3] before, now [0.1, 0.2]",
        "  - fixed quickstart train.batch_size: 250 before, now 100",
        "give sweep.name=<another name> for this one, or the settings that rho has",
    ]
    ledger_of(plan_of(tmp_path, *words, "train.batch_size=100", "sweep.name=other"))


def test_a_line_that_a_dead_writer_left_unfinished_costs_the_journal_nothing(tmp_path):
    plan = plan_of(tmp_path, "optimizer.rho=0.1,0.2")
    one = ledger_of(plan)
    one.complete(one.take().trial, 0.5)
    with (plan.folder / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 8, "worker_id": "x", "trial_')
    two = ledger_of(plan)
    two.complete(two.take().trial, 0.7)
    assert [trial.value for trial in ledger_of(plan).trials()] == [0.5, 0.7]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nonsense://x/y", "sweep.storage=nonsense://x/y: "),
        ("word://me:secret@host/x", r"sweep.storage=word://me:\*\*\*@host/x: "),
        ("sqlite:////nowhere/at/all.db", "unable to open database file"),
    ],
)
def test_a_storage_that_cannot_be_had_is_one_message_without_the_password(url, message, tmp_path, monkeypatch):
    monkeypatch.setattr("gsam.sweep.storage.TRIES", 1)
    with pytest.raises(ValueError, match=message):
        open_storage(tmp_path, url)
