"""Run folders as files: what one holds, a record of it in one JSON object, and which one initial weights come from.

Imports no torch.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from gsam.files import write_atomic

SECTIONS = ("data", "model", "train")  # of a config.yaml, that its readers count on
ROWS = ("metrics", "results", "analysis")  # the JSONL files of a run folder


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(meta.json, config.yaml) of a run; None where one of them is not there or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        config = yaml.load((folder / "config.yaml").read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    whole = isinstance(config, dict) and all(isinstance(config.get(section), dict) for section in SECTIONS)
    return (meta, config) if whole and isinstance(meta, dict) else None


def shared_images(found: Iterable[int | None]) -> str:
    """m of several runs: "64", "64, 128" where they differ, "" where none perturbs."""
    return ", ".join(map(str, sorted({m for m in found if m})))


def json_lines(path: Path) -> list[tuple[int, Any]]:
    """(line number from 1, value) of every line of a JSONL file that is not empty; ValueError stands for what is no JSON. The
    last line, cut off where its writer was killed, is left out silently; [] without a file."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    found: list[tuple[int, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            found += [(number, json.loads(line))] if line.strip() else []
        except json.JSONDecodeError:
            found += [(number, ValueError)] if number < len(lines) else []
    return found


def pack(folder: Path) -> dict[str, Any] | None:
    """A finished run as one JSON object: its meta.json (experiment, config_hash, seed, git_hash, device, versions …), `config`
    without `paths`, which are this machine's, and the rows of its JSONL files; no weights. None for a run that is not finished
    or cannot be read."""
    found = read(folder)
    if found is None or not (folder / "DONE").exists():
        return None
    meta, config = found
    config.pop("paths", None)
    rows = {name: [row for _, row in json_lines(folder / f"{name}.jsonl") if row is not ValueError] for name in ROWS}
    return {**meta, "config": config, **{name: found for name, found in rows.items() if found}}


def unpack(record: dict[str, Any], root: Path) -> Path:
    """The run folder `<root>/<experiment>/<config_hash>` that `pack` has read, without weights; returns it."""
    folder = root / record["experiment"] / record["config_hash"]
    meta = {key: value for key, value in record.items() if key not in ("config", *ROWS)}
    write_atomic(folder / "meta.json", json.dumps(meta, indent=1))
    write_atomic(folder / "config.yaml", yaml.dump(record["config"], sort_keys=False, allow_unicode=True))
    for name in ROWS:
        if name in record:
            write_atomic(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in record[name]))
    write_atomic(folder / "DONE", "")
    return folder


def origin(init: str) -> Path:
    """The run folder that model.init means (the folder, its checkpoints/last.pt, either with @raw or @ema), or the file."""
    path = Path(re.sub(r"@(raw|ema)$", "", init))
    return path.parents[1] if path.parts[-2:] == ("checkpoints", "last.pt") else path


def names(path: Path, experiment: str) -> bool:
    """Whether a path says that weights are of this experiment: …/<experiment>/<hash>, or a file named after the experiment's
    last part, as reproduce.py finds them below --weights."""
    if re.fullmatch(r"[0-9a-f]{8}", path.name):
        return path.parent.parts[-len(Path(experiment).parts) :] == Path(experiment).parts
    return bool(path.suffix) and path.name.startswith(f"{Path(experiment).name}.")


def alike(one: str, other: str, experiment: str) -> bool:
    """Whether two values of model.init mean the same weights of `experiment`: one path however it is spelled, or the same run
    (experiment and hash) in another place."""
    a, b = origin(one), origin(other)
    if a.resolve() == b.resolve():
        return True
    return a.name == b.name and not a.suffix and names(a, experiment) and names(b, experiment)
