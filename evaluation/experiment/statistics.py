"""What may be concluded from few subsets, seeds and slides: a paired bootstrap over all, and what more would tell.

Notation: D choices of the subset, S seeds, F fields of view, G groups (patients or slides), B resamplings.

Two trainings are paired: the same subset, seed and test images. Resampled are the choices of the subset, within each
its seeds, and, crossed with both, the groups of the test set with all their fields. Few subsets make percentiles too
narrow (each level's variance comes out (n - 1) / n of what it is, and the tails are those of Student's t). So the
percentiles are stretched about the estimate: to the unbiased variance, and from the normal to Student's quantile, with
Satterthwaite's degrees of freedom. `tests/evaluation/test_experiment_statistics.py` holds the coverage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEVEL = 0.95
TOLD = 0.8
"""How often an effect shall be told, where more slides are reckoned."""
_NORMAL = 1.959964
_NORMAL_TOLD = 0.841621
MOST_MORE = 100


@dataclass(frozen=True)
class Resampling:
    """One draw of everything, to be used for all arms alike, so that what is paired stays so.

    ``draws`` [B, D] and ``seeds`` [B, D, S] are places; ``weights`` [B, G] say how often a group is taken.
    """

    draws: NDArray[np.int64]
    seeds: NDArray[np.int64]
    weights: Values

    @staticmethod
    def of(draws: int, seeds: int, groups: int, times: int, seed: int) -> Resampling:
        """``times`` resamplings of so many choices, seeds and groups."""
        rng = np.random.default_rng(seed)
        weights = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=times).astype(np.float64)
        return Resampling(
            rng.integers(draws, size=(times, draws)), rng.integers(seeds, size=(times, draws, seeds)), weights
        )

    def means(self, values: Values, groups: NDArray[np.int64]) -> Values:
        """[B]: the mean of ``values`` [D, S, F] in each resampling. Of one choice there are no others to take."""
        sums, counts = _by_group(values, groups)
        totals = np.einsum("dsg,bg->bds", sums, self.weights)
        number = np.einsum("dsg,bg->bds", counts, self.weights)
        means = totals / number
        draws = self.draws % values.shape[0]
        if values.shape[0] == 1:
            draws = draws[:, :1]
        times = np.arange(len(means))[:, None, None]
        seeds = np.take_along_axis(self.seeds % values.shape[1], draws[:, :, None], axis=1)
        found: Values = means[times, draws[:, :, None], seeds].mean(axis=(1, 2))
        return found


def _by_group(values: Values, groups: NDArray[np.int64]) -> tuple[Values, Values]:
    """Sums and counts [D, S, G] of ``values`` [D, S, F] that are no NaN."""
    size = int(groups.max()) + 1
    onto = np.zeros((len(groups), size))
    onto[np.arange(len(groups)), groups] = 1.0
    known = ~np.isnan(values)
    return np.where(known, values, 0.0) @ onto, known.astype(np.float64) @ onto


@dataclass(frozen=True)
class Variances:
    """Of a mean over subsets and groups: what choosing other subsets (with other seeds), and other groups, would do.

    ``*_df`` are degrees of freedom.
    """

    subsets: float
    subsets_df: int
    groups: float
    groups_df: int

    @property
    def total(self) -> float:
        """Of the mean."""
        return self.subsets + self.groups

    def degrees(self) -> float:
        """Satterthwaite's, of the total; 1 at least."""
        parts = ((self.subsets, self.subsets_df), (self.groups, self.groups_df))
        below = sum(variance**2 / df for variance, df in parts if df > 0)
        return max(1.0, self.total**2 / below) if below > 0 else math.inf

    def with_more(self, subsets: float, groups: float) -> Variances:
        """With so many times the subsets and groups."""
        return Variances(
            self.subsets / subsets,
            round((self.subsets_df + 1) * subsets) - 1,
            self.groups / groups,
            round((self.groups_df + 1) * groups) - 1,
        )


def variances_of(values: Values, groups: NDArray[np.int64]) -> Variances:
    """Of the mean of ``values`` [D, S, F]. Where there is one choice of the subset, its seeds stand for it."""
    sums, counts = _by_group(values, groups)
    by_run = sums.sum(axis=2) / counts.sum(axis=2)  # [D, S]
    units = by_run.mean(axis=1) if by_run.shape[0] > 1 else by_run[0]
    subsets = float(units.var(ddof=1) / len(units)) if len(units) > 1 else 0.0
    total, number = sums.sum(axis=(0, 1)), counts.sum(axis=(0, 1))  # [G]
    size = len(total)
    residual = total - number * total.sum() / number.sum()
    between = float((residual**2).sum() * size / max(1, size - 1) / number.sum() ** 2)
    return Variances(subsets, len(units) - 1, between, size - 1)


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval of `LEVEL`; ``variances`` say where its width comes from."""

    mean: float
    low: float
    high: float
    variances: Variances


def interval(values: Values, groups: NDArray[np.int64], resampling: Resampling) -> Interval:
    """Of the mean of ``values`` [D, S, F], with ``groups`` [F]: for a difference, of paired trainings' differences."""
    sums, counts = _by_group(values, groups)
    mean = float((sums.sum(axis=2) / counts.sum(axis=2)).mean())
    found = resampling.means(values, groups)
    low, high = (float(each) for each in np.percentile(found, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]))
    variances = variances_of(values, groups)
    half = (high - low) / 2
    wanted = student(variances.degrees()) * math.sqrt(variances.total)
    stretch = max(1.0, wanted / half) if half > 0 else 1.0
    return Interval(mean, mean - stretch * (mean - low), mean + stretch * (high - mean), variances)


def student(degrees: float, upper: float = 0.5 * (1 + LEVEL)) -> float:
    """Student's t of real ``degrees`` of freedom, 1 or more: the value below which it is with chance ``upper``.

    With x = sqrt(n) tan(a) its density goes as cos(a)^(n - 1).
    """
    if degrees > 1000:
        return _NORMAL + (_NORMAL**3 + _NORMAL) / (4 * degrees) if math.isfinite(degrees) else _NORMAL
    angles = np.linspace(0.0, math.pi / 2, 4001)
    density = np.cos(angles) ** (degrees - 1)
    density[-1] = 1.0 if degrees == 1 else 0.0
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(math.sqrt(degrees) * math.tan(np.interp(2 * upper - 1, area / area[-1], angles)))


@dataclass(frozen=True)
class Verdict:
    """``word``: helps, hurts or cannot tell. ``small`` tells that no difference of ``effect`` fits the interval.

    ``more_slides``: how many further slides in the test set would show a difference of ``effect``, in `TOLD` of all
    experiments; None where even `MOST_MORE` times as many would not. ``more_subsets``: the same of choices of the
    subset.
    """

    word: str
    small: bool
    more_slides: int | None
    more_subsets: int | None


def judge(found: Interval, effect: float) -> Verdict:
    """What an interval of a difference says, where ``effect`` is the smallest that would matter."""
    word = "helps" if found.low > 0 else "hurts" if found.high < 0 else "cannot tell"
    small = -effect < found.low and found.high < effect
    slides = _more(found.variances, effect, "groups")
    subsets = _more(found.variances, effect, "subsets")
    return Verdict(word, small, slides, subsets)


def _more(variances: Variances, effect: float, what: str) -> int | None:
    count = 1 + (variances.groups_df if what == "groups" else variances.subsets_df)

    def tells(more: int) -> bool:
        factor = (count + more) / count
        then = variances.with_more(1.0, factor) if what == "groups" else variances.with_more(factor, 1.0)
        return (student(then.degrees()) + _NORMAL_TOLD) * math.sqrt(then.total) <= effect

    few, many = -1, MOST_MORE * count
    if not tells(many):
        return None
    while many - few > 1:  # the more, the narrower
        middle = (few + many) // 2
        few, many = (few, middle) if tells(middle) else (middle, many)
    return many
