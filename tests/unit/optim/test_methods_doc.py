"""docs/methods.md has a section for every method, names every key, and no key that does not exist."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

import gsam
from gsam.optim import ESTIMATORS, Form
from gsam.optim.estimator import Perturbing
from gsam.optim.perturb import START

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "methods.md").read_text()
SECTIONS = {m[1]: m[2] for m in re.finditer(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.M | re.S)}
COMMON = SECTIONS["Keys of every perturbing method"]
NAMES = {name: {f.name for f in fields(method)} - {"name"} for name, method in ESTIMATORS.items()}


def keys(text):
    return set(re.findall(r"`optimizer\.(\w+)[`=]", text))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_method_has_a_section_with_its_equation_and_all_its_keys(name):
    section = SECTIONS[f"`{name}`"]
    named = keys(section) | (keys(COMMON) if issubclass(ESTIMATORS[name], Perturbing) else set())
    assert NAMES[name] <= named, f"not described: {NAMES[name] - named}"
    own = keys(section.split("Keys:")[1].split("\n\n")[0])
    assert own <= NAMES[name], f"no such keys: {own - NAMES[name]}"
    assert re.search(r"^    .*u = ", section, re.M) and (ROOT / "configs" / "optimizer" / f"{name}.yaml").exists()


def test_every_key_named_anywhere_exists():
    assert keys(TEXT) <= set().union(*NAMES.values())
    assert keys(COMMON) == {f.name for f in fields(Perturbing)}
    assert all(f"`{name}`" in COMMON for name, method in ESTIMATORS.items() if issubclass(method, Perturbing))


def test_the_cost_table_is_the_codes():
    rows = dict(re.findall(r"^\|[^|]+\| `(\w+)` \|[^|]+\| (\d)", TEXT, re.M))
    assert {name: int(n) for name, n in rows.items()} == {
        name: method().passes if name == "entropy_sgd" else method.passes for name, method in ESTIMATORS.items()
    }
    assert set(re.findall(r"`gsam\.([A-Z]\w+)`", TEXT)) == set(gsam.__all__)


def test_asams_radii_are_the_codes():
    section = SECTIONS["`asam`"]
    assert START == {Form.elementwise: 2.0, Form.original: 0.5, Form.big_vision: 0.5}
    assert "ρ = 2.0 for `elementwise` and 0.5 for `original`" in section and "0.5 for `big_vision`" in section


def test_the_number_of_checks_is_the_full_matrixs():
    from tests.contract.matrix import cases
    from tests.contract.properties import PROPERTIES, holds_for

    count = sum(holds_for(name, case) for case in cases(full=True) for name in PROPERTIES)
    assert f"{count:,} checks" in " ".join(SECTIONS["Proofs"].split())
