"""The files that install the project agree with each other and with what the code imports."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DISTRIBUTION = {"hydra": "hydra-core", "PIL": "pillow", "cv2": "opencv-python-headless", "yaml": "pyyaml"}
UNCONSTRAINED = {"torch", "torchvision"}  # an installed torch is never replaced
SHELL_SCRIPTS = sorted([*(ROOT / "scripts").rglob("*.sh"), ROOT / ".ci" / "run"])


def names(requirements: list[str]) -> set[str]:
    """The distributions that a list of requirements names."""
    return {canonicalize_name(Requirement(line).name) for line in requirements}


def imported(*paths: Path) -> dict[str, str]:
    """Distribution -> one file that imports it, anywhere in the file; without the standard library and our own code."""
    own = {"gsam", "scripts", "tests", "conftest"} | {path.stem for path in (ROOT / "scripts").rglob("*.py")}
    found = {}
    for path in (file for root in paths for file in ([root] if root.suffix else sorted(root.rglob("*.py")))):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for top in {module.split(".")[0] for module in modules} - own - set(sys.stdlib_module_names):
                found[canonicalize_name(DISTRIBUTION.get(top, top))] = str(path.relative_to(ROOT))
    return found


def setup_steps() -> list[str]:
    """The steps that scripts/setup.sh runs without arguments."""
    return re.search(r"^STEPS=\((.*)\)$", (ROOT / "scripts/setup.sh").read_text(), re.M)[1].split()


def test_core_dependency_is_torch_only():
    assert names(PROJECT["dependencies"]) == {"torch"}


def test_every_import_of_the_package_is_declared():
    extras = ("train", "ffcv", "optimizers", "parquet")
    declared = names(PROJECT["dependencies"] + [line for extra in extras for line in EXTRAS[extra]])
    entry_points = [path for name in ("train.py", "evaluate.py", "scripts") if (path := ROOT / name).exists()]
    missing = {name: file for name, file in imported(ROOT / "gsam", *entry_points).items() if name not in declared}
    assert not missing, f"declare in pyproject.toml's extras, or do not import: {missing}"


def test_every_import_of_the_tests_is_declared():
    everything = names(PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra])
    everything |= {"packaging", "pip", "tomllib"}  # pytest's, the venv's, and the library of Python >= 3.11
    missing = {name: file for name, file in imported(ROOT / "tests").items() if name not in everything}
    assert not missing, f"declare in pyproject.toml's extras: {missing}"


def test_constraints_cover_every_extra_with_allowed_versions():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    pinned = {canonicalize_name(Requirement(line).name): Requirement(line).specifier for line in lines}
    assert not pinned.keys() & UNCONSTRAINED
    for requirement in (Requirement(line) for extra in EXTRAS.values() for line in extra):
        name = canonicalize_name(requirement.name)
        if name in UNCONSTRAINED:
            continue
        assert name in pinned, f"constraints.txt has no tested version of {name}"
        version = str(pinned[name]).removeprefix("==")
        assert requirement.specifier.contains(version), f"{name}: {version} is outside {requirement.specifier}"


def test_the_public_names_need_torch_only():
    heavy = names(EXTRAS["train"] + EXTRAS["ffcv"] + EXTRAS["dev"])
    # torch itself imports these where they are installed
    heavy -= {"numpy", "setuptools", "tqdm", "psutil", "packaging"}
    modules = {name.replace("-", "_") for name in heavy} | set(DISTRIBUTION)
    code = "import sys; from gsam import *; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "torch" in loaded and not modules & loaded


def test_dockerfile_runs_exactly_the_steps_of_setup_sh():
    text = (ROOT / "Dockerfile").read_text()
    runs = re.findall(r"^RUN (.*)$", text, re.M)
    called = [re.match(r"scripts/setup\.sh ([a-z ]+?)(?: &&|$)", line) for line in runs]
    assert all(called), f"each RUN calls scripts/setup.sh: {runs}"
    assert [step for match in called for step in match[1].split()] == setup_steps()


@pytest.mark.parametrize("step", setup_steps())
def test_every_step_is_a_function_and_is_explained(step):
    text = (ROOT / "scripts/setup.sh").read_text()
    assert f"\nstep_{step}() {{" in text
    assert re.search(rf"^#[ S].*\b{step}  ", text, re.M), f"the header of setup.sh does not explain {step}"


def test_setup_refuses_an_unknown_step_before_doing_anything():
    run = subprocess.run(
        ["bash", str(ROOT / "scripts/setup.sh"), "check", "chekc"], capture_output=True, text=True, timeout=20
    )
    assert run.returncode == 2
    assert "no step 'chekc'" in run.stderr and run.stdout == ""


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_parse(script):
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


def test_ci_runs_the_test_script():
    assert "scripts/test.sh" in (ROOT / ".ci/run").read_text()
