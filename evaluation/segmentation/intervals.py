"""Means with standard deviations and bootstrap intervals, where fields of one patient or slide are not independent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """The mean of ``count`` values of ``groups`` groups, their standard deviation (n - 1), and where the mean may lie.

    The deviation is None of one value, the bounds of one group.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    count: int
    groups: int


def interval(values: Sequence[float], groups: Sequence[str], rounds: int, seed: int) -> Interval | None:
    """Mean of ``values``, and a percentile interval of 95 % for it: whole groups are drawn again, with replacement.

    None of no values.
    """
    if not values:
        return None
    numbers = np.asarray(values, dtype=np.float64)
    names, place = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums = np.bincount(place, weights=numbers, minlength=len(names))
    counts = np.bincount(place, minlength=len(names))
    low = high = None
    if len(names) > 1:
        rng = np.random.default_rng(seed)
        drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=rounds)  # [rounds, groups]
        means = drawn @ sums / (drawn @ counts)
        bounds = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        low, high = float(bounds[0]), float(bounds[1])
    return Interval(float(numbers.mean()), deviation(numbers.tolist()), low, high, len(numbers), len(names))


def deviation(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample; None of fewer than two values."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
