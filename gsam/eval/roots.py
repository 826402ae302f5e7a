"""Where the sets lie: configs/paths/default.yaml and the user's own file that wins over it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import yaml
from omegaconf import OmegaConf

from gsam.cli import CONFIGS
from gsam.files import write_atomic

LOCAL = CONFIGS / "local" / f"{os.environ.get('GSAM_PATHS', 'paths')}.yaml"


def data_folder(local: Path) -> Path:
    """`paths.data` as evaluate.py sees it: GSAM_DATA, or the user's own file."""
    own = [OmegaConf.load(local)] if local.exists() else []
    return Path(
        OmegaConf.create({"paths": OmegaConf.merge(OmegaConf.load(CONFIGS / "paths/default.yaml"), *own)}).paths.data
    )


def write_paths(local: Path, roots: dict[str, Path]) -> None:
    """Set keys of the user's paths file, keeping every other line; atomic. Raises ValueError if it is no plain list of keys."""
    text = local.read_text() if local.exists() else "# Your own roots; they win over configs/paths/default.yaml.\n"
    wanted = {**(yaml.safe_load(text) or {}), **{key: str(root.resolve()) for key, root in roots.items()}}
    for key in roots:
        line = f"{key}: {json.dumps(wanted[key])}"
        text, replaced = re.subn(rf"^{key}\s*:.*$", lambda _, line=line: line, text, flags=re.M)
        text = text if replaced else text.rstrip("\n") + f"\n{line}\n"
    if not _says(text, wanted):
        lines = "; ".join(f"{key}: {root}" for key, root in roots.items())
        raise ValueError(f"{local} cannot be edited line by line; add these yourself: {lines}")
    write_atomic(local, text)


def _says(text: str, wanted: dict[str, str]) -> bool:
    try:
        return yaml.safe_load(text) == wanted
    except yaml.YAMLError:
        return False
