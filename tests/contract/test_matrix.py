"""The contract of every method in every mode: properties.py over the matrix of matrix.py, see conftest.py."""

import traceback
from functools import lru_cache

import pytest
import torch

from gsam.runtime import Precision
from tests.contract.matrix import AXES, METHODS, Case, allowed
from tests.contract.pairs import all_pairs
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
    rows = all_pairs(AXES, allowed)
    met = {frozenset([(a, r[a]), (b, r[b])]) for r in rows for a in AXES for b in AXES if a < b}
    for a in AXES:
        for b in AXES:
            for u in AXES[a]:
                for v in AXES[b]:
                    possible = a < b and any(r[a] == u and r[b] == v and allowed(r) for r in everything())
                    assert not possible or frozenset([(a, u), (b, v)]) in met, (u, v)
    assert {row["method"] for row in rows} == set(METHODS)
    assert len(rows) < 120 and Precision.fp16 in {row["precision"] for row in rows}


@lru_cache
def everything() -> list[dict]:
    rows = [{}]
    for key, values in AXES.items():
        rows = [{**row, key: value} for row in rows for value in values]
    return rows
