"""Rates, areas under curves and agreement, with their intervals and tests; numpy alone.

Notation: N trials or images, R readers, K categories. A sign is 1 for one of two answers, -1 for the other, 0 for none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
ALPHA = 0.025
"""One-sided: a reader at chance is called above it at most this often."""
RESAMPLES = 2000
PERMUTATIONS, _BLOCK = 20_000, 1000
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A value with its interval of 95 %; None where there is nothing to say."""

    value: float | None
    low: float | None = None
    high: float | None = None


NOTHING = Estimate(None)


def proportion(successes: float, count: int) -> Estimate:
    """Wilson's score interval (1927) of ``successes`` out of ``count``, which may be a sum of shares."""
    if count == 0:
        return NOTHING
    share, z2 = successes / count, _Z * _Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z / (1 + z2 / count) * math.sqrt(max(0.0, share * (1 - share)) / count + z2 / (4 * count * count))
    # At the ends the formula gives the end, but for rounding.
    return Estimate(share, 0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half)


def fisher_tails(hits: int, positives: int, called: int, count: int) -> tuple[float, float]:
    """Chances of so many ``hits`` or more, and of so many or fewer, where ``called`` of ``count`` were called positive.

    Fisher's exact test: given how often a reader says either answer, truths dealt out at random give the hypergeometric
    distribution, whatever the reader's habits.
    """
    low, high = max(0, called - (count - positives)), min(positives, called)
    ways = {k: math.comb(positives, k) * math.comb(count - positives, called - k) for k in range(low, high + 1)}
    total = math.comb(count, called)
    above = sum(each for k, each in ways.items() if k >= hits)
    below = sum(each for k, each in ways.items() if k <= hits)
    return float(Fraction(above, total)), float(Fraction(below, total))


def binomial_tails(successes: int, count: int) -> tuple[float, float]:
    """Chances of so many ``successes`` or more, and of so many or fewer, in ``count`` throws of a coin."""
    above = sum(math.comb(count, k) for k in range(successes, count + 1))
    below = sum(math.comb(count, k) for k in range(successes + 1))
    return float(Fraction(above, 2**count)), float(Fraction(below, 2**count))


def area(scores: Array, positive: NDArray[np.bool_]) -> Estimate:
    """The area under the ROC curve of ``scores`` [N], ties counted half, with Newcombe's interval (2006, method 5).

    That holds all areas from which the one found differs by less than z standard errors, as Hanley and McNeil give them
    at the area itself: it never shrinks to a point, where DeLong's variance is 0 as soon as nothing is confused.
    """
    ours, others = scores[positive], scores[~positive]
    if not (ours.size and others.size):
        return NOTHING
    value = float(((ours[:, None] > others[None]) + 0.5 * (ours[:, None] == others[None])).mean())
    middle = (ours.size + others.size) / 2 - 1

    def inside(at: float) -> bool:
        spread = 1 + middle * (1 - at) / (2 - at) + middle * at / (1 + at)
        return (value - at) ** 2 <= _Z * _Z * at * (1 - at) * spread / (ours.size * others.size)

    return Estimate(value, _edge(inside, value, 0.0), _edge(inside, value, 1.0))


def _edge(inside: Callable[[float], bool], start: float, end: float) -> float:
    for _ in range(60):
        middle = (start + end) / 2
        start, end = (middle, end) if inside(middle) else (start, middle)
    return start


def cohen_kappa(one: NDArray[np.int64], other: NDArray[np.int64]) -> float | None:
    """Agreement of two lists of answers [N] beyond chance (Cohen 1960); None where chance alone would agree."""
    if not one.size:
        return None
    values = np.unique(np.concatenate([one, other]))
    agreed = float((one == other).mean())
    expected = float(sum((one == each).mean() * (other == each).mean() for each in values))
    return None if expected > 1 - 1e-12 else (agreed - expected) / (1 - expected)


def fleiss_kappa(answers: NDArray[np.int64]) -> float | None:
    """Agreement of R ≥ 2 readers on N images, [R, N], beyond chance (Fleiss 1971); None as in `cohen_kappa`."""
    readers, count = answers.shape
    if readers < 2 or not count:
        return None
    counts = np.stack([(answers == each).sum(axis=0) for each in np.unique(answers)], axis=1)  # [N, K]
    agreed = float(((counts**2).sum(axis=1) - readers).mean()) / (readers * (readers - 1))
    expected = float(((counts.sum(axis=0) / (readers * count)) ** 2).sum())
    return None if expected > 1 - 1e-12 else (agreed - expected) / (1 - expected)


def bootstrapped(
    value: float | None, statistic: Callable[[NDArray[np.int64]], float | None], count: int, seed: int
) -> Estimate:
    """``value`` with the percentiles of ``statistic`` over resampled indices of ``count`` images.

    Nothing where it is not to be had from half of the samples: then they say little.
    """
    if value is None:
        return NOTHING
    rng = np.random.default_rng(seed)
    found = [statistic(rng.integers(0, count, count)) for _ in range(RESAMPLES)]
    known = [each for each in found if each is not None]
    if len(known) < RESAMPLES / 2:
        return Estimate(value)
    return _percentiles(value, np.asarray(known))


def crossed(
    statistic: Callable[[NDArray[np.int64], NDArray[np.int64]], float | None],
    readers: int,
    strata: list[NDArray[np.int64]],
    seed: int,
) -> Estimate:
    """A statistic of readers and images, resampling both: readers by chance, and images within each of ``strata``.

    ``statistic`` takes indices of readers and of images. With few readers the interval is rather too wide than too
    narrow, as chance counts twice.
    """
    value = statistic(np.arange(readers), np.concatenate(strata))
    if value is None:
        return NOTHING
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(RESAMPLES):
        images = np.concatenate([each[rng.integers(0, each.size, each.size)] for each in strata if each.size])
        found.append(statistic(rng.integers(0, readers, readers), images))
    known = [each for each in found if each is not None]
    return _percentiles(value, np.asarray(known)) if len(known) >= RESAMPLES / 2 else Estimate(value)


def _percentiles(value: float, found: Array) -> Estimate:
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Where all samples are alike, as with readers who never err, they do not say what others would be.
    return Estimate(value, float(low), float(high)) if high > low else Estimate(value)


def dealt_tails(weights: Array, truth: Array, *, coins: bool, seed: int) -> tuple[float, float]:
    """Chances of a sum of ``weights`` · ``truth`` [N] as high, and as low, where the truth's signs are dealt anew.

    They are permuted, or with ``coins`` each thrown by itself: as the study dealt them. Answers stay as they are,
    so that readers who see the same images and err alike are no more than one chance.
    """
    rng = np.random.default_rng(seed)
    found = float(truth @ weights)
    slack = 1e-9 * (1 + abs(found))
    above = below = 1
    for _ in range(PERMUTATIONS // _BLOCK):
        dealt = np.broadcast_to(truth, (_BLOCK, truth.size))
        dealt = dealt * rng.choice([-1.0, 1.0], dealt.shape) if coins else rng.permuted(dealt, axis=1)
        sums = dealt @ weights
        above += int((sums >= found - slack).sum())
        below += int((sums <= found + slack).sum())
    return above / (1 + PERMUTATIONS), below / (1 + PERMUTATIONS)


def centred_ranks(scores: Array) -> Array:
    """Ranks [N] of ``scores``, ties at their middle, less their mean, over the most that their sum can differ by."""
    if not scores.size:
        return scores
    ascending = np.sort(scores)
    ranks = (np.searchsorted(ascending, scores, "left") + np.searchsorted(ascending, scores, "right")) / 2
    centred = ranks - ranks.mean()
    return np.asarray(centred / max(1.0, float(np.abs(centred).sum())), dtype=np.float64)
