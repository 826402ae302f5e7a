"""`launcher=slurm` on a real cluster: two nodes on this machine (tests/slurm.py). Whatever ends a job, the training that it
continues has the weights and the records of one that was left alone."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gsam.train.checkpoint import read
from scripts.resume_check import differences, steps_done
from tests.integration.test_faults import SMALL
from tests.processes import ROOT, finish
from tests.slurm import Unavailable, cluster, environment, processes, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
LENGTH = 120
RUN = [*SMALL, "optimizer.group_size=20", f"train.epochs={LENGTH}st", "data.backend=folder", "data.workers=1"]
ONE = ["launcher=slurm", "launcher.gpus_per_node=0", "launcher.time=10m"]
TWO = [*ONE, "launcher.nodes=2"]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    try:
        with cluster(folder) as started:
            yield started
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def whole(slurm, fashion_root, tmp_path_factory):
    """A run of two processes that is left alone, without Slurm."""
    folder = tmp_path_factory.mktemp("whole")
    words = [*RUN, f"paths.fashion_mnist={fashion_root}", f"run.dir={folder}/run"]
    assert finish(words, folder / "log", world=2) == 0, (folder / "log").read_text()
    return folder / "run"


class Submission:
    """`python <script> …` on the cluster's login node, and what came of it."""

    def __init__(self, slurm, *words, script="train.py"):
        self.slurm = slurm
        command = [sys.executable, script, *words]
        run = subprocess.run(command, cwd=ROOT, env=slurm.env, capture_output=True, text=True, timeout=120)
        self.code, self.text = run.returncode, run.stdout + run.stderr
        self.numbers = re.findall(r"Slurm job (\d+)", run.stdout)

    @property
    def number(self):
        assert self.code == 0 and len(self.numbers) == 1, self.text
        return self.numbers[0]

    @property
    def log(self):
        """The file that the submission named."""
        return Path(re.search(r"tail -F (\S+)", self.text)[1])

    def until_step(self, folder, step):
        until(lambda: steps_done(folder) >= step, lambda: self.log.read_text() if self.log.exists() else self.text)

    def until_queued_again(self, times):
        """And held there until `scontrol release`."""
        until(lambda: self.slurm.job(self.number).get("Restarts") == str(times), self.log.read_text)
        self.slurm("scontrol", "hold", self.number)

    def finished(self):
        return self.slurm.wait(self.number, {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"})


@pytest.fixture
def train(slurm, fashion_root):
    def submit(*words):
        return Submission(slurm, *words, f"paths.fashion_mnist={fashion_root}")

    return submit


def no_process_of(number):
    return not [pid for pid in processes() if environment(pid).get("SLURM_JOB_ID") == number]


def test_the_time_limit_lets_a_training_save_and_its_job_start_again(slurm, train, whole, tmp_path):
    folder = tmp_path / "run"
    words = [*RUN, f"run.dir={folder}", *TWO]
    job = train(*words)
    job.until_step(folder, 10)
    slurm("scancel", "--signal=USR2", "--batch", job.number)  # as Slurm does launcher.grace_s before the end
    job.until_queued_again(1)
    assert 10 < read(folder / "checkpoints" / "last.pt")["step"] < LENGTH  # that of the signal
    again = train(*words)
    assert again.code == 2 and f"{folder}: Slurm job {job.number} is pending for this run already" in again.text
    slurm("scontrol", "release", job.number)
    end = job.finished()
    log = job.log.read_text()
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("COMPLETED", "1", "0:0"), log
    assert "saved, the same command continues" in log and "left and saved; starting again" in log
    assert len(re.findall(r"continuing at step \d+", log)) == 1 and "2 rank(s)" in log
    assert differences(whole, folder) == []
    done = train(*words)
    assert done.code == 0 and "finished; nothing to submit" in done.text and not done.numbers


def test_requeue_in_mid_run_saves_and_continues(slurm, train, whole, tmp_path):
    """`scontrol requeue`, as a cluster does that preempts jobs: SIGTERM, some seconds, SIGKILL."""
    folder = tmp_path / "run"
    job = train(*RUN, f"run.dir={folder}", *TWO)
    job.until_step(folder, 15)
    slurm("scontrol", "requeue", job.number)
    job.until_queued_again(1)
    slurm("scontrol", "release", job.number)
    assert job.finished()["JobState"] == "COMPLETED", job.log.read_text()
    assert re.search(r"SIG(TERM|USR1) at step \d+ of 120; saved", job.log.read_text())
    assert differences(whole, folder) == []


def test_a_lost_node_costs_the_steps_since_the_last_checkpoint(slurm, train, whole, tmp_path):
    folder = tmp_path / "run"
    job = train(*RUN, f"run.dir={folder}", *TWO)
    job.until_step(folder, 15)
    slurm.kill_node("n2")
    job.until_queued_again(1)
    slurm("scontrol", "release", job.number)
    slurm.wait(job.number, {"PENDING"})  # for the node
    slurm.start_node("n2")
    assert job.finished()["JobState"] == "COMPLETED", job.log.read_text()
    assert differences(whole, folder) == []


def test_scancel_saves_and_ends_it_for_good(slurm, train, tmp_path):
    folder = tmp_path / "run"
    words = [*RUN, f"run.dir={folder}", *TWO]
    job = train(*words)
    job.until_step(folder, 15)
    slurm("scancel", job.number)
    until(lambda: not slurm("squeue", "--noheader"), job.log.read_text)
    assert slurm.job(job.number)["JobState"] == "CANCELLED" and no_process_of(job.number)
    saved = read(folder / "checkpoints" / "last.pt")["step"]
    assert re.search(rf"at step {saved} of {LENGTH}; saved", job.log.read_text())
    again = train(*words, "launcher.extra.hold=true")  # not refused: no job is left
    assert slurm.job(again.number)["JobState"] == "PENDING"
    slurm("scancel", again.number)


def test_a_training_that_fails_is_not_started_again(slurm, train, tmp_path):
    job = train(*RUN, f"run.dir={tmp_path}/run", "base.lr=1e30", *TWO)
    end = job.finished()
    assert (end["JobState"], end["Restarts"]) == ("FAILED", "0")
    assert "is not finite" in job.log.read_text() and no_process_of(job.number)


def test_a_time_limit_before_the_first_checkpoint_does_not_repeat_for_ever(slurm, train, tmp_path):
    job = train(*RUN, f"run.dir={tmp_path}/run", *ONE)
    until(lambda: job.log.exists() and "start 1, nodes" in job.log.read_text(), lambda: job.text)
    slurm("scancel", "--signal=USR2", "--batch", job.number)
    end = job.finished()
    assert (end["JobState"], end["Restarts"], end["ExitCode"]) == ("FAILED", "0", "75:0")
    assert "give more launcher.time" in job.log.read_text()


def test_every_combination_of_a_multirun_is_a_job_of_its_own(slurm, train, tmp_path):
    words = ["train.max_steps=3", "optimizer=vanilla,sam", "data.backend=folder", f"run.root={tmp_path}"]
    asked = ["launcher.gpus_per_node=2", "launcher.cpus_per_node=2", "launcher.extra.mem=500"]
    both = train("-m", *SMALL, *words, *ONE, *asked, "launcher.setup=['export GREETING=hello']")
    assert both.code == 0 and len(both.numbers) == 2, both.text
    for number in both.numbers:
        assert slurm.wait(number, {"COMPLETED", "FAILED"})["JobState"] == "COMPLETED", both.text
        job = slurm.job(number)
        assert (job["MinMemoryNode"], job["TresPerNode"], job["CPUs/Task"]) == ("500M", "gres:gpu:2", "2")
    logs = [path.read_text() for path in tmp_path.glob("quickstart/*/slurm/*.out")]
    assert len(logs) == 2 and all("2 rank(s)" in log for log in logs)
    scripts = [path.read_text() for path in tmp_path.glob("quickstart/*/slurm/*_submission.sh")]
    assert len(scripts) == 2 and all("\nexport GREETING=hello\n" in text for text in scripts)
    for option in (
        "signal=B:USR2@180",
        "requeue",
        "open-mode=append",
    ):  # the time limit lets the job save, and start again
        assert all(f"\n#SBATCH --{option}\n" in text for text in scripts)


def test_what_sbatch_refuses_is_one_message_and_leaves_nothing(train, tmp_path):
    refused = train(*RUN, f"run.dir={tmp_path}/run", *ONE, "launcher.partition=nope")
    assert refused.code == 2 and "Traceback" not in refused.text
    assert "sbatch refuses the job: sbatch: error: invalid partition specified: nope" in refused.text
    assert not list(tmp_path.iterdir())


def test_an_array_of_workers_finishes_a_sweep_of_trainings_on_two_nodes_each(slurm, fashion_root, tmp_path):
    words = ["sweep=rho", "optimizer.rho=0.02,0.05,0.1", "train.epochs=20st", f"run.root={tmp_path}/runs"]
    words += ["data.backend=folder"]
    words += [word for word in SMALL if not word.startswith(("optimizer=", "train.e"))]
    workers = Submission(
        slurm, *words, f"paths.fashion_mnist={fashion_root}", *TWO, "launcher.workers=2", script="scripts/sweep.py"
    )
    for task in (0, 1):
        end = slurm.wait(f"{workers.number}_{task}", {"COMPLETED", "FAILED"})
        assert end["JobState"] == "COMPLETED", workers.text
    runs = [path.parent for path in tmp_path.glob("runs/quickstart/*/DONE")]
    assert [json.loads((run / "meta.json").read_text())["world"] for run in runs] == [2, 2, 2]
