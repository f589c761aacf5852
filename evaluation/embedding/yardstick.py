"""In-silico against real images, with real against real as the yardstick: halves of the real set, by slide.

How far apart two sets are says little by itself: slides differ from each other too. So the real slides are halved at
random, many times, and the in-silico images made of one half are compared with the real images of the other half, as
the real images of both halves are: the same slides on either side, and for the Fréchet distance the same numbers.
The spread over random halves is that of the delete-half jackknife (Shao and Wu, Ann. Statist. 17, 1989): about the
distance's standard error.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.embedding.distances import KernelSums, Places, Vectors, frechet_distance

SPLITS = 100
DRAWS = 1000
MOST_IMAGES = 300
"""On each side of a Fréchet distance between halves."""
FEWEST_UNITS = 4
"""Of which an interval is given; with fewer there are too few ways to draw them."""
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A value and where it lies with 95 % confidence, or 95 % of several values and their median; None: not known."""

    value: float
    low: float | None
    high: float | None

    def times(self, factor: float) -> Interval:
        """All of it times a positive ``factor``."""
        low, high = (None if end is None else factor * end for end in (self.low, self.high))
        return Interval(factor * self.value, low, high)


@dataclass(frozen=True)
class Comparison:
    """How far a set lies from the real one. ``images`` and ``units`` (slides) are the set's, ``shared`` those of both.

    ``kernel`` is of all images, drawn again by unit. The others are over ``splits`` random halves: ``kernel_halves``
    and ``frechet`` of the set, ``kernel_real`` and ``frechet_real`` of the real images in its place, and
    ``frechet_excess`` of the difference within each split. ``size`` images are on each side of a Fréchet distance.
    ``frechet_all`` is of all images, for other programs' figures, and biased.
    """

    name: str
    images: int
    units: int
    shared: int
    kernel: Interval | None
    kernel_halves: Interval | None
    kernel_real: Interval | None
    frechet: Interval | None
    frechet_real: Interval | None
    frechet_excess: Interval | None
    frechet_all: float | None
    size: int
    splits: int

    @property
    def differs(self) -> bool | None:
        """Whether the set is told from the real one: the kernel distance's interval lies above 0. None: not known."""
        low = None if self.kernel is None else self.kernel.low
        return None if low is None else low > 0.0

    @property
    def farther(self) -> bool | None:
        """Whether the set is farther from real images than real slides from each other; None if that is not known."""
        low = None if self.frechet_excess is None else self.frechet_excess.low
        return None if low is None else low > 0.0


def compare(
    name: str, real: Vectors, other: Vectors, real_units: Sequence[str], other_units: Sequence[str], *, seed: int
) -> Generator[None, None, Comparison]:
    """Compare ``other`` [m, D] with ``real`` [n, D], images of the units named; ticks `SPLITS` times.

    Raises ValueError for fewer than two images on either side.
    """
    if min(len(real), len(other)) < 2:
        raise ValueError(f"{len(real)} real and {len(other)} other images: at least two of each are compared")
    known = {unit: place for place, unit in enumerate(sorted({*real_units, *other_units}))}
    x_units, y_units = (np.array([known[unit] for unit in units]) for units in (real_units, other_units))
    sums = KernelSums.of(real, other, x_units, y_units, len(known))
    rng = np.random.default_rng(seed)
    splits = [_halves(rng, sums.nx, sums.ny) for _ in range(SPLITS)]
    sides = [_sides(split, x_units, y_units) for split in splits]
    sizes = np.array([min(len(places) for places in side) for side in sides])
    size = min(MOST_IMAGES, int(np.quantile(sizes, 0.1, method="lower")))
    frechet: list[tuple[float, float]] = []
    for side, most in zip(sides, sizes, strict=True):
        if 2 <= size <= most:
            first, second, third = (rng.choice(places, size, replace=False) for places in side)
            reference = real[first]
            frechet.append((frechet_distance(reference, other[third]), frechet_distance(reference, real[second])))
        yield
    kernels = [sums.between_halves(1.0 - second, second) for second in splits]
    enough = int((sums.nx > 0).sum()) >= FEWEST_UNITS
    values = np.array(frechet).reshape(-1, 2)  # [splits, 2]
    return Comparison(
        name,
        len(other),
        int((sums.ny > 0).sum()),
        int(((sums.nx > 0) & (sums.ny > 0)).sum()),
        bootstrap(sums, rng),
        _spread([set_ for set_, _ in kernels], enough),
        _spread([yardstick for _, yardstick in kernels], enough),
        _spread(values[:, 0], enough),
        _spread(values[:, 1], enough),
        _spread(values[:, 0] - values[:, 1], enough),
        frechet_distance(real, other),
        size,
        len(values),
    )


def bootstrap(sums: KernelSums, rng: np.random.Generator) -> Interval | None:
    """The kernel distance and its 95 % interval from `DRAWS` samples of units with replacement.

    A unit is drawn with all its images, real and in-silico. Pairs of copies of one unit are no pairs, so the samples'
    distances are not biased as they are where images are drawn. The percentiles are widened for few units
    (Hesterberg, Am. Stat. 69, 2015).
    """
    value = sums.distance()
    if not math.isfinite(value):
        return None
    both = np.maximum(sums.nx, sums.ny) > 0
    units = int(both.sum())
    if units < FEWEST_UNITS:
        return Interval(value, None, None)
    chosen = np.flatnonzero(both)
    weights = np.zeros((DRAWS, len(both)))
    weights[:, chosen] = rng.multinomial(units, np.full(units, 1.0 / units), size=DRAWS)
    drawn = np.array([sums.distance(each) for each in weights])
    drawn = drawn[np.isfinite(drawn)]
    if len(drawn) < DRAWS // 2:
        return Interval(value, None, None)
    tail = _tail(units)
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high))


def _tail(units: int) -> float:
    from scipy.special import ndtr, stdtrit

    return float(ndtr(-math.sqrt(units / (units - 1)) * stdtrit(units - 1, 0.5 + LEVEL / 2)))


def _halves(rng: np.random.Generator, nx: Vectors, ny: Vectors) -> Vectors:
    """1 for units of the second half and 0 for others [U]: halves of about as many real images, drawn at random.

    Units without real images are halved on their own.
    """
    second = np.zeros(len(nx))
    for counts, among in ((nx, nx > 0), (ny, nx == 0)):
        filled = np.zeros(2)
        for unit in rng.permutation(np.flatnonzero(among)):
            less = filled[1] < filled[0] or (filled[1] == filled[0] and rng.random() < 0.5)
            second[unit] = float(less)
            filled[int(less)] += counts[unit]
    return second


def _sides(second: Vectors, x_units: Places, y_units: Places) -> tuple[Places, Places, Places]:
    """Places of the real images of the first half, of those of the second, and of the set's images of the second."""
    return (
        np.flatnonzero(second[x_units] == 0.0),
        np.flatnonzero(second[x_units] == 1.0),
        np.flatnonzero(second[y_units] == 1.0),
    )


def _spread(values: Sequence[float] | Vectors, enough: bool) -> Interval | None:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return None
    low, middle, high = np.quantile(finite, [0.5 - LEVEL / 2, 0.5, 0.5 + LEVEL / 2])
    return Interval(float(middle), float(low), float(high)) if enough else Interval(float(middle), None, None)
