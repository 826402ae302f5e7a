"""Submitting Slurm jobs, by submitit. It writes sbatch's file and carries the job's object there; all else is job.py."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from gsam.launch.job import TIME_LIMIT, Job
from gsam.launch.settings import GPUS, SlurmConfig

ROOT = Path(__file__).resolve().parents[2]


def submit(script: str, overrides: Sequence[str], name: str, folder: Path, settings: SlurmConfig) -> None:
    """One job that runs a script of ours on all nodes, `settings.processes` ranks each, and prints where to look.

    name: of the job, the same for the same run. folder: of the run; logs go to its slurm/. Raises ValueError where there is no
    Slurm, sbatch refuses, or a job for this folder is queued or running.
    """
    _refuse_here()
    _refuse_second(name, folder)
    job = Job([str(ROOT / script), *overrides], settings.processes, str(folder.absolute()))
    (number,) = _submit([job], name, folder / "slurm", settings)
    gpus = f"{settings.gpus_per_node} GPUs" if settings.gpus_per_node else "1 process"
    cores = f"{settings.cpus_per_node} cores" if settings.cpus_per_node else "the cluster's default number of cores"
    print(f"{name}: Slurm job {number}, {settings.nodes} node(s) with {gpus} and {cores} each, {settings.time}")
    _where(number, folder / "slurm" / f"{number}_0_log.out", "it saves and leaves; the same command submits it again")


def submit_workers(
    script: str, arguments: Sequence[str], name: str, folder: Path, runs: Path, settings: SlurmConfig
) -> None:
    """An array of `settings.workers` jobs that each run the script, without launcher, on the first of its nodes; it starts its
    trainings by allocation.training_command, in folders below `runs`. Logs go to slurm/ in `folder`. Raises ValueError."""
    _refuse_here()
    job = Job([str(ROOT / script), *arguments], None, str(runs.absolute()))
    numbers = _submit([job] * settings.workers, name, folder / "slurm", settings)
    number = numbers[0].partition("_")[0]
    print(f"{name}: Slurm job {number}, {len(numbers)} worker(s)")
    file = f"{number}_*_0_log.out" if len(numbers) > 1 else f"{number}_0_log.out"
    _where(number, folder / "slurm" / file, "the workers save and leave; the same command submits new ones")


def _where(number: str, log: Path, then: str) -> None:
    print(f"  watch   squeue --jobs={number}; tail -F {shlex.quote(str(log.parent))}/{log.name}")
    print(f"  cancel  scancel {number}    # {then}", flush=True)


def _refuse_here() -> None:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError(
            "launcher=slurm under torchrun would submit from every rank; leave torchrun out, the job starts it"
        )
    if not shutil.which("sbatch"):
        raise ValueError(
            "launcher=slurm: no sbatch on this machine; submit from a login node of the cluster, or leave it out"
        )


def _refuse_second(name: str, folder: Path) -> None:
    """Jobs submitted for this folder are known by their files in it."""
    query = ["squeue", "--noheader", f"--name={name}", "--format=%i %T"]
    lines = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()  # what is wrong, sbatch will say
    for number, state in map(str.split, lines):
        if (folder / "slurm" / f"{number}_submission.sh").exists():
            raise ValueError(
                f"{folder}: Slurm job {number} is {state.lower()} for this run already, and continues by itself; wait for it, "
                f"or scancel {number} and submit again"
            )


def _submit(jobs: list[Job], name: str, logs: Path, settings: SlurmConfig) -> list[str]:
    """The numbers of one job, or of an array's tasks."""
    try:
        from submitit import SlurmExecutor
        from submitit.core.utils import FailedJobError, FailedSubmissionError
    except ImportError:
        raise ValueError("launcher=slurm needs submitit: pip install submitit") from None
    _forget_this_job()
    # exec: the job's shell becomes Python, which so gets the signal that goes to the shell alone.
    executor = SlurmExecutor(folder=logs, python=f"exec {shlex.quote(sys.executable)}")
    options = settings.options
    executor.update_parameters(
        job_name=name, nodes=settings.nodes, ntasks_per_node=1, time=settings.minutes, use_srun=False, stderr_to_stdout=True,
        gpus_per_node=None if GPUS & options.keys() else settings.gpus_per_node or None, cpus_per_task=settings.cpus_per_node,
        partition=settings.partition, account=settings.account, qos=settings.qos, constraint=settings.constraint, wckey=None,
        array_parallelism=settings.workers,
        setup=[*settings.setup, f"export PYTHONPATH={shlex.quote(str(ROOT))}${{PYTHONPATH:+:$PYTHONPATH}}"],
        additional_parameters={**options, "requeue": True, "signal": f"B:{TIME_LIMIT.name[3:]}@{settings.grace_s}"},
    )  # fmt: skip
    with _leaving_nothing(logs):
        try:
            return [job.job_id for job in executor.submit_array(jobs)]
        except (FailedJobError, FailedSubmissionError) as error:
            raise ValueError(
                f"sbatch refuses the job: {error}; its options are launcher.* (docs/machines.md)"
            ) from None


def _forget_this_job() -> None:
    """Submitted from within a job, the new one would inherit what is said of this one: its array, its cores per task."""
    if "SLURM_JOB_ID" in os.environ:
        for key in [key for key in os.environ if key.startswith(("SLURM", "SRUN_")) and key != "SLURM_CONF"]:
            del os.environ[key]


@contextmanager
def _leaving_nothing(logs: Path):
    """A submission that fails leaves no folders, and no files where there were none: the corrected command may use them. Files
    among those of another submission stay: they may be its own."""
    new = [folder for folder in (logs, *logs.parents) if not folder.exists()]
    try:
        yield
    except BaseException:
        if logs in new and logs.is_dir():
            for file in logs.iterdir():
                file.unlink()
        for folder in new:
            with suppress(OSError):  # not empty
                folder.rmdir()
        raise
