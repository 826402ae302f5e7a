"""The contract of every method in every mode: properties.py over the matrix of matrix.py, see conftest.py."""

import traceback
from functools import lru_cache
from itertools import combinations

import pytest
import torch

from gsam.runtime import Precision
from tests.contract.matrix import METHODS, Case, cases
from tests.contract.properties import PROPERTIES
from tests.ranks import run_ranks


def test_contract(property_name, case, request):
    if case.world == 1 and not case.compile:
        run(property_name, case)
        return
    for rank, failures in enumerate(elsewhere(request.session, case.method, case.world, case.compile)):
        failure = failures[f"{property_name} {case.id}"]
        assert not failure, f"rank {rank}: {failure}"


def run(property_name: str, case: Case) -> None:
    if case.compile:
        torch._dynamo.reset()
    PROPERTIES[property_name](case)


@lru_cache
def elsewhere(session: pytest.Session, method: str, world: int, compiled: bool) -> list[dict[str, str]]:
    """All selected cases of this kind in one start of processes; on each rank: property and case -> what went wrong, "" for
    nothing. Compiled ones never run in pytest's own process: the compiler starts autograd threads there, and later tests fork.
    """
    selected = [i.callspec.params for i in session.items if getattr(i, "originalname", "") == "test_contract"]
    jobs = [(params["property_name"], params["case"]) for params in selected]
    jobs = [job for job in jobs if (job[1].method, job[1].world, job[1].compile) == (method, world, compiled)]
    return run_ranks(world, run_all, jobs, start="spawn" if compiled else "fork")


def run_all(rank: int, jobs: list[tuple[str, Case]]) -> dict[str, str]:
    outcome = {}
    for name, case in jobs:
        try:
            run(name, case)
            outcome[f"{name} {case.id}"] = ""
        except AssertionError:
            outcome[f"{name} {case.id}"] = traceback.format_exc()
    return outcome


def test_the_normal_suite_covers_every_possible_pair():
    """Also of a method that was added to the table a minute ago."""
    rows = [vars(case) for case in cases(full=False)]
    assert pairs(rows) == pairs([vars(case) for case in cases(full=True)])
    assert {row["method"] for row in rows} == set(METHODS)
    assert len(rows) < 140 and Precision.fp16 in {row["precision"] for row in rows}


def pairs(rows: list[dict]) -> set[tuple]:
    return {pair for row in rows for pair in combinations(sorted(row.items()), 2)}
