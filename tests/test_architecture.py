"""Who may import whom, and the shape of the source. Reads the source, runs nothing."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p.relative_to(ROOT) for p in (ROOT / "gsam").rglob("*.py"))
HEAVY = {"torch", "torchvision", "timm", "ffcv", "numba", "cv2", "scipy", "matplotlib", "rich", "wandb", "PIL"}

# A module may import from these parts of gsam only (at any depth); a part may always import itself.
ALLOWED = {
    "files": set(),
    "identity": set(),
    "optim": set(),
    "runtime": set(),
    "cli": {"runtime", "launch"},
    "launch": {"cli"},
    "losses": {"runtime"},
    "models": {"runtime"},
    "data": {"runtime", "files"},
    "augment": {"data", "runtime"},
    "eval": {"models", "data", "losses", "runtime"},
    "fill": {"optim", "runtime"},
    "config": {
        "optim",
        "models",
        "data",
        "losses",
        "eval",
        "runtime",
        "train.settings",
        "cli",
        "identity",
        "fill",
        "launch.settings",
    },
    "verify": {"optim", "runtime", "files"},
    "train": {
        "augment",
        "optim",
        "models",
        "data",
        "losses",
        "eval",
        "runtime",
        "config",
        "files",
        "identity",
        "verify.certificate",
        "analysis.during",
        "launch.slurm",
    },
    "analysis": {
        "config",
        "data",
        "eval",
        "files",
        "fill",
        "losses",
        "models",
        "optim",
        "cli",
        "report",
        "runtime",
        "train",
    },
    "report": {"files", "identity", "catalogue", "recipes", "runs"},
    "export": {"cli", "config", "data", "eval", "files", "identity", "models", "recipes", "report", "runtime"},
    "recipes": {"cli", "identity"},
    "scaling": {"config", "files", "models", "optim", "recipes", "report", "train"},
    "runs": {"files"},
    "catalogue": {"recipes", "identity", "runs"},
    "sweep": {
        "catalogue",
        "cli",
        "config",
        "files",
        "fill",
        "launch",
        "recipes",
        "report.figures.sweep",
        "reproduce.cost",
        "reproduce.show",
        "runs",
    },
    "reproduce": {
        "runs",
        "catalogue",
        "recipes",
        "identity",
        "cli",
        "config",
        "data",
        "files",
        "fill",
        "launch.allocation",
        "optim",
        "runtime",
        "train",
    },
}
# The two that put whole commands together receive the whole configuration.
EXTRA = {
    "data/doctor.py": {"config", "eval"},
    "data/inspection.py": {"eval.inspection"},
    "eval/card.py": {"config", "train", "report"},
    "eval/subject.py": {"config", "train", "cli"},
    "eval/make_c.py": {"files"},
    "eval/doctor.py": {"config", "train"},
    "eval/prepare.py": {"cli"},
    "eval/published.py": {"report"},
    "eval/roots.py": {"cli", "files"},
}


def imports(path, top_only=False):
    """Dotted names that a file imports; relative ones resolved."""
    tree = ast.parse((ROOT / path).read_text())
    nodes = tree.body if top_only else list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(path.with_suffix("").parts[: -node.level]) if node.level else []
            module = ".".join(base + ([node.module] if node.module else []))
            if module == "gsam":
                yield from (f"gsam.{alias.name}" for alias in node.names)
            else:
                yield module


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_layers(path):
    inside = path.relative_to("gsam")
    part = inside.parts[0].removesuffix(".py")
    if part == "__init__":
        return
    allowed = ALLOWED[part] | EXTRA.get(inside.as_posix(), set())
    for name in imports(path):
        if name.startswith("gsam.") and not name.startswith(f"gsam.{part}"):
            target = name.removeprefix("gsam.")
            assert any(target == a or target.startswith(a + ".") for a in allowed), f"{path} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[1] == "optim"], ids=str)
def test_optim_is_a_library_of_its_own(path):
    """Other libraries' optimizers are imported when they are asked for by name, and only in base.py."""
    third = {name.split(".")[0] for name in imports(path, top_only=True)} & (HEAVY | {"numpy", "hydra", "omegaconf"})
    assert third <= {"torch"}
    if path.name != "base.py":
        assert {name.split(".")[0] for name in imports(path)} & HEAVY <= {"torch"}


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if p.parts[1] in ("report", "launch", "files.py", "identity.py", "catalogue.py")],
    ids=str,
)
def test_report_and_launch_never_import_torch(path):
    assert "torch" not in {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize(
    "path", [p for p in FILES if p.parts[1] in ("data", "augment", "models", "train", "config.py", "cli.py")], ids=str
)
def test_optional_packages_are_imported_where_they_are_used(path):
    """The folder backend must work without FFCV, and `import gsam.optim` without anything but torch."""
    if path.name.startswith("ffcv") or path.name == "zoo.py":  # imported only where they are used, themselves
        return
    heavy = {name.split(".")[0] for name in imports(path, top_only=True)} & {
        "ffcv",
        "cv2",
        "wandb",
        "timm",
        "matplotlib",
        "rich",
    }
    assert not heavy, f"{path} imports {heavy} at module level"


@pytest.mark.parametrize("name", ["train.py", "evaluate.py"])
def test_entry_points_import_hydra_only(name):
    assert {n.split(".")[0] for n in imports(Path(name), top_only=True)} <= {"hydra", "omegaconf", "gsam"}
    assert len((ROOT / name).read_text().splitlines()) <= 30


def test_the_training_step_fits_one_screen():
    tree = ast.parse((ROOT / "gsam/train/stepper.py").read_text())
    (step,) = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "train_step"]
    assert step.end_lineno - step.lineno < 40


@pytest.mark.parametrize("path", FILES, ids=str)
def test_modules_stay_small(path):
    assert len((ROOT / path).read_text().splitlines()) <= 300
