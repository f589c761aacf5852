"""What the annotated images alone come to, as a curve over their number, and where others lie on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def monotone(values: Sequence[float], weights: Sequence[float]) -> list[float]:
    """The rising sequence nearest to ``values`` in weighted squares: neighbours that fall are pooled (isotonic)."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        block = (float(value), float(weight), 1)
        while blocks and blocks[-1][0] > block[0]:
            before = blocks.pop()
            total = before[1] + block[1]
            block = ((before[0] * before[1] + block[0] * block[1]) / total, total, before[2] + block[2])
        blocks.append(block)
    return [value for value, _, count in blocks for _ in range(count)]


def worth(counts: Sequence[float], curve: Sequence[float], score: float) -> float:
    """How many annotated images the rising ``curve`` over ``counts`` (rising, too) wants for ``score``.

    Straight between its points over the logarithm of the count. Infinite above the curve, 0 below it.
    """
    if score < curve[0]:
        return 0.0
    for place in range(len(counts)):
        if score <= curve[place]:
            if place == 0 or curve[place] == curve[place - 1]:
                return float(counts[place])
            part = (score - curve[place - 1]) / (curve[place] - curve[place - 1])
            low, high = math.log(counts[place - 1]), math.log(counts[place])
            return math.exp(low + part * (high - low))
    return math.inf


@dataclass(frozen=True)
class Worth:
    """``images`` annotated ones would do as well, with an interval; infinite is beyond the curve, 0 below it."""

    images: float
    low: float
    high: float


def worth_with_interval(
    counts: Sequence[float], curve: Sequence[float], score: float, curves: Values, scores: Values, level: float
) -> Worth:
    """`worth` of ``score``; ``curves`` [B, len(counts)] and ``scores`` [B] are the same in each resampling."""
    weights = [1.0] * len(counts)
    found = [worth(counts, monotone(list(each), weights), float(one)) for each, one in zip(curves, scores, strict=True)]
    ordered = sorted(found)
    low, high = (ordered[int((len(ordered) - 1) * part + 0.5)] for part in ((1 - level) / 2, (1 + level) / 2))
    return Worth(worth(counts, monotone(list(curve), weights), score), low, high)


@dataclass(frozen=True)
class Saturation:
    """``round`` is the fewest rounds that do as well as the best within its error; ``low`` and ``high`` its interval.

    ``seen`` False: the best is the last one tried, and it is better than all the others, so it may go on.
    """

    round: int
    low: int
    high: int
    seen: bool


def saturation(rounds: Sequence[int], means: Sequence[float], samples: Values, level: float) -> Saturation:
    """Where a curve over ``rounds`` stops rising: the first round within one standard error of the best.

    The error is that of the paired difference to the best; ``samples`` [B, len(rounds)] are the means in each
    resampling. (The rule of one standard error: Breiman et al., Classification and Regression Trees, 1984.)
    """
    errors = np.array([[np.std(samples[:, a] - samples[:, b]) for b in range(len(rounds))] for a in range(len(rounds))])

    def first(values: Values) -> int:
        best = int(np.argmax(values))
        return next(place for place in range(len(rounds)) if values[best] - values[place] <= errors[best, place])

    found = first(np.asarray(means, dtype=np.float64))
    ordered = sorted(first(each) for each in samples)
    low, high = (ordered[int((len(ordered) - 1) * part + 0.5)] for part in ((1 - level) / 2, (1 + level) / 2))
    return Saturation(rounds[found], rounds[low], rounds[high], found < len(rounds) - 1)
