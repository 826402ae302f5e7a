"""What a model answered on every picture of one pass, as a small .npz: what scripts/compare.py pairs."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gsam.files import replacing

from .load import RESULT_KEY

TYPES = {"index": np.int32, "label": np.int16, "correct": np.bool_, "top5": np.int16, "nll": np.float32}


@dataclass(frozen=True)
class Predictions:
    """One pass, a row per scored picture, by increasing index.

    index: the picture's place in its set, int32 (N,) · label: its class, -1 where a set of labels counts, int16 (N,) ·
    correct: bool (N,) · top5: classes by decreasing logit, int16 (N, 5), fewer with fewer classes · nll: minus the
    logarithm of the summed probability of the picture's labels, in nats, NaN only where a logit was, float32 (N,) ·
    pictures: 8 hex digits of the pictures' names and of the settings that change their pixels.
    """

    index: np.ndarray
    label: np.ndarray
    correct: np.ndarray
    top5: np.ndarray
    nll: np.ndarray
    pictures: str


def file_name(row: dict) -> str:
    """The file of a row of results.jsonl: <evalset>[-<corruption>-<severity>]-<weights>-<checkpoint>[-bf16][-tta]-<8 hex
    digits>.npz. The digits are those of all of RESULT_KEY: rows that stand beside each other never share a file."""
    checkpoint = re.sub(r"\.(pt|pth|bin|safetensors)$", "", row["checkpoint"])
    parts = [row["evalset"], row.get("corruption"), row.get("severity"), row["weights"], checkpoint]
    precision = row.get("precision", "fp32")
    parts += [None if precision == "fp32" else precision, "tta" if row.get("flip_tta") else None]
    parts.append(hashlib.sha256(json.dumps([row.get(key) for key in RESULT_KEY]).encode()).hexdigest()[:8])
    return re.sub(r"[^\w.+-]", "-", "-".join(str(part) for part in parts if part is not None)) + ".npz"


def save(path: Path, *, index, label, correct, top5, nll, pictures: str) -> None:
    """Write the rows (arrays or sequences, in any order) to `path`, atomically and sorted by index.

    Raises ValueError for arrays that do not fit together, numbers that the types of `Predictions` cannot hold, and a
    picture that was counted twice.
    """
    given = {"index": index, "label": label, "correct": correct, "top5": top5, "nll": nll}
    arrays = {name: _cast(name, np.asarray(value), TYPES[name]) for name, value in given.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len({shape[:1] for shape in shapes.values()}) != 1 or any(
        len(s) != 1 + (n == "top5") for n, s in shapes.items()
    ):
        raise ValueError(f"predictions for {path.name} do not fit together: their shapes are {shapes}")
    order = np.argsort(arrays["index"], kind="stable")
    arrays = {name: array[order] for name, array in arrays.items()}
    repeated = arrays["index"][1:][arrays["index"][1:] == arrays["index"][:-1]]
    if len(repeated):
        raise ValueError(
            f"predictions for {path.name}: picture {repeated[0]} was counted twice ({len(repeated)} repeats)"
        )
    with replacing(path) as file:
        np.savez_compressed(file, pictures=np.array(pictures), **arrays)


def load(path: Path) -> Predictions:
    """The predictions at `path`; runs no code from the file. Raises ValueError for a file that is not there, is damaged
    or holds something else."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in TYPES}
            return Predictions(**arrays, pictures=str(stored["pictures"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"predictions {path} cannot be read ({type(error).__name__}: {error}); evaluate again with force=true"
        ) from error


def _cast(name: str, array: np.ndarray, kind: type) -> np.ndarray:
    if np.issubdtype(kind, np.integer) and array.size:
        bounds = np.iinfo(kind)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise ValueError(f"predictions: {name} reaches {array.max()}, the file holds at most {bounds.max}")
    return array.astype(kind)
