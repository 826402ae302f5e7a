"""A training picture that cannot be read: the end, or another picture of its batch in its place."""

from __future__ import annotations

import sys

import numpy as np

from gsam.data import OnBad


class Skips:
    """What one loader does about its bad pictures. `count`: how often another picture has stood in, over all epochs."""

    def __init__(self, on_bad: OnBad, train: bool) -> None:
        self.allowed = on_bad is OnBad.skip and train  # evaluation counts every picture or none
        self.count = 0
        self._named: set[int] = set()

    def note(self, index: int, problem: str) -> None:
        """Count one; the first time a picture is met, name it on stderr."""
        self.count += 1
        if index not in self._named:
            self._named.add(index)
            print(
                f"data.on_bad=skip: {problem}; another picture of its batch takes its place",
                file=sys.stderr,
                flush=True,
            )


def stand_ins(bad: np.ndarray, problem: str = "") -> np.ndarray:
    """For each True of `bad` (bool (B,)) the position of the next good picture of the batch, around its end: int64.

    Raises RuntimeError, with the `problem` of one picture, if the batch has none.
    """
    good = np.flatnonzero(~bad)
    if not len(good):
        raise RuntimeError(
            f"none of the {len(bad)} pictures of a batch can be read; are the disk and the files there? The first: {problem}"
        )
    return good[np.searchsorted(good, np.flatnonzero(bad)) % len(good)]
