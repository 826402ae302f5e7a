"""`python -m pytest tests/contract` runs a subset of the matrix that covers every pair; `--full-matrix` runs all of it."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--full-matrix", action="store_true", help="every case of the contract matrix, compiled ones too")


def pytest_generate_tests(metafunc):
    """Tests with the arguments (property_name, case) run once per property and case it holds for."""
    if {"property_name", "case"} <= set(metafunc.fixturenames):
        from tests.contract.matrix import cases
        from tests.contract.properties import PROPERTIES, holds_for

        full = metafunc.config.getoption("--full-matrix", default=False)
        pairs = [(name, case) for case in cases(full) for name in PROPERTIES if holds_for(name, case)]
        # Of the full matrix, hundreds of cases run in one start of processes.
        long = pytest.mark.timeout(6 * 3600) if full else pytest.mark.slow
        values = [
            pytest.param(name, case, id=f"{name}-{case.id}", marks=[long] * (full or case.compile))
            for name, case in pairs
        ]
        metafunc.parametrize(("property_name", "case"), values)
