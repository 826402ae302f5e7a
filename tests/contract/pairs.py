"""All pairs: a small subset of a product of axes in which every two values of different axes meet."""

from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, product
from typing import Any


def all_pairs(axes: Mapping[str, Iterable], allowed: Callable[[dict], bool], size: int = 2) -> list[dict[str, Any]]:
    """The rows of a covering array, greedily chosen: each next row is the allowed one that covers most pairs not met yet, the
    first of them in the order of the product. Deterministic. Pairs that no allowed row has are left out. size=1: rows in
    which every single value is met."""
    rows = [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]
    pairs_of = [_pairs(row, size) if allowed(row) else set() for row in rows]
    open_pairs = set().union(*pairs_of)
    chosen = []
    while open_pairs:
        best = max(range(len(rows)), key=lambda i: len(pairs_of[i] & open_pairs))
        open_pairs -= pairs_of[best]
        chosen.append(rows[best])
    return chosen


def _pairs(row: dict[str, Any], size: int) -> set[tuple]:
    return set(combinations(row.items(), size))
