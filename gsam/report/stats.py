"""Intervals and paired tests of accuracies."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z95 = 1.959963984540054  # normal quantile of a two-sided 95 % interval


def wilson(rate: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval (low, high), both in [0, 1], of a fraction `rate` seen in n independent trials.

    Raises ValueError if n < 1 or rate is outside [0, 1].
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n < 1 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"a Wilson interval needs n >= 1 and a rate in [0, 1], not n={n}, rate={rate}")
    z = Z95
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return min(rate, max(0.0, centre - half)), max(rate, min(1.0, centre + half))  # rounding must not exclude 0 and 1


def t_interval(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, low, high): the 95 % confidence interval of the mean of independent, about normal values (Student 1908); of paired
    differences it is the paired t interval. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, not {len(values)}")
    from scipy.stats import t

    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    half = float(t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return mean, mean - half, mean + half


def mcnemar(only_a: int, only_b: int) -> float:
    """Exact two-sided p of McNemar's test (1947): of the pictures that one model alone gets right, is either model's
    share compatible with one half? 1.0 if there is no such picture."""
    from scipy.stats import binomtest

    return float(binomtest(only_a, only_a + only_b, 0.5).pvalue) if only_a + only_b else 1.0


def holm(p: Sequence[float]) -> list[float]:
    """p values adjusted for their number (Holm 1979), in the order given: below 0.05 at a family-wise error of 5 %."""
    order = np.argsort(p, kind="stable")
    factors = np.arange(len(p), 0, -1)
    adjusted = np.minimum(1.0, np.maximum.accumulate(np.asarray(p, float)[order] * factors))
    out = np.empty(len(p))
    out[order] = adjusted
    return out.tolist()


def bootstrap_means(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Means of every column over pictures drawn with replacement (Efron 1979): (N, K) floating -> (resamples, K).

    All columns are resampled together, so that a mean over columns (the corruptions of the same pictures) may be taken
    afterwards. The same seed and N draw the same pictures.
    """
    rng = np.random.default_rng(seed)
    n = len(values)
    values = np.ascontiguousarray(values, dtype=np.float64)
    out = np.empty((resamples, values.shape[1]))
    for start in range(0, resamples, 50):  # 50 at a time: 20 MB of counts at 50,000 pictures
        rows = min(50, resamples - start)
        counts = np.stack([np.bincount(rng.integers(0, n, n, dtype=np.int32), minlength=n) for _ in range(rows)])
        out[start : start + rows] = counts.astype(np.float64) @ values / n
    return out


def percentile95(draws: np.ndarray) -> tuple[float, float]:
    """The central 95 % of a bootstrap distribution."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)
