"""Distances beside those of real slides from each other: intervals hold what they should, and a planted shift shows."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from evaluation.embedding.distances import KernelSums
from evaluation.embedding.yardstick import DRAWS, SPLITS, Comparison, bootstrap, compare

SLIDES, EACH = 12, 4


def drain(work: Generator[None, None, Any]) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def slides(rng: np.random.Generator, width: int, shift: float) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Real images of slides that differ, others made of the same slides, ``shift`` away; and their slides' names."""
    middle = np.repeat(0.5 * rng.normal(size=(SLIDES, width)), EACH, axis=0)
    real, other = (middle + rng.normal(size=middle.shape) for _ in range(2))
    return real, other + shift / np.sqrt(width), [f"s{number // EACH}" for number in range(SLIDES * EACH)]


def compared(rng: np.random.Generator, shift: float, width: int = 8) -> Comparison:
    real, other, units = slides(rng, width, shift)
    result: Comparison = drain(compare("arm", real, other, units, units, seed=1))
    return result


def true_kernel_distance(shift: float) -> float:
    """Of N(0, 5/4) and N(shift, 5/4), in one dimension: (xy + 1)³ compares moments, by binomial weights."""
    variance = 1.25
    moments = [(m, m**2 + variance, m**3 + 3 * m * variance) for m in (0.0, shift)]
    return sum(weight * (a - b) ** 2 for weight, a, b in zip((3, 3, 1), *moments, strict=True))


@pytest.mark.parametrize("shift", [0.0, 0.3, 0.6])
def test_intervals_hold_the_true_distance(shift: float) -> None:
    """By simulation, in one dimension, where the true distance is known: nominally 95 of 100."""
    rng = np.random.default_rng(10)
    truth = true_kernel_distance(shift)
    units = np.repeat(np.arange(SLIDES), EACH)
    held, values = 0, []
    for _ in range(100):
        real, other, _ = slides(rng, 1, shift)
        interval = bootstrap(KernelSums.of(real, other, units, units, SLIDES), rng)
        assert interval is not None
        assert interval.low is not None
        assert interval.high is not None
        held += interval.low <= truth <= interval.high
        values.append(interval.value)
    # Of 100 nominal intervals fewer than 89 hold the truth once in 150 simulations.
    assert held >= 89
    assert abs(np.mean(values) - truth) < 4 * np.std(values) / 10


def test_a_set_like_the_real_one_is_seldom_farther_and_a_shifted_one_is() -> None:
    rng = np.random.default_rng(11)
    same = [compared(rng, 0.0) for _ in range(20)]
    moved = [compared(rng, 2.5) for _ in range(10)]
    assert sum(bool(each.farther) for each in same) <= 2
    assert all(each.farther for each in moved)
    assert all(each.differs for each in moved)
    assert sum(bool(each.differs) for each in same) <= 2


def test_the_yardstick_has_the_same_slides_and_numbers() -> None:
    """In-silico images that are copies of the real ones are as far from the other half as these are, in every split."""
    real, _, units = slides(np.random.default_rng(12), 8, 0.0)
    found = drain(compare("copies", real, real, units, units, seed=2))
    assert found.size == SLIDES * EACH // 2
    assert found.splits == SPLITS
    assert found.kernel_halves == found.kernel_real
    assert found.frechet.value == pytest.approx(found.frechet_real.value, rel=1e-12)
    assert [found.frechet_excess.low, found.frechet_excess.high] == pytest.approx([0, 0], abs=1e-12)
    assert found.frechet_all == pytest.approx(0, abs=1e-9)
    assert (found.shared, found.units) == (SLIDES, SLIDES)


def test_sets_of_other_slides_are_halved_on_their_own() -> None:
    rng = np.random.default_rng(13)
    real, other, units = slides(rng, 8, 2.5)
    found = drain(compare("arm", real, other, units, [f"t{unit}" for unit in units], seed=3))
    assert found.shared == 0
    assert found.farther


def test_a_small_set_is_compared_at_its_own_size() -> None:
    rng = np.random.default_rng(14)
    real, other, units = slides(rng, 8, 0.0)
    places = [4 * number for number in range(SLIDES)]  # an image of each slide
    found = drain(compare("few", real, other[places], units, [units[p] for p in places], seed=4))
    assert found.images == SLIDES
    assert found.size <= SLIDES // 2
    assert found.frechet is not None


def test_of_few_slides_there_is_no_interval() -> None:
    rng = np.random.default_rng(15)
    real, other, units = slides(rng, 8, 0.0)
    places = [p for p, unit in enumerate(units) if unit in ("s0", "s1", "s2")]
    few = [units[p] for p in places]
    found = drain(compare("few", real[places], other[places], few, few, seed=5))
    for each in (found.kernel, found.frechet, found.frechet_real):
        assert each.low is None
        assert each.high is None
    assert found.farther is None
    assert found.differs is None


def test_of_one_slide_nothing_is_said() -> None:
    rng = np.random.default_rng(16)
    real, other = rng.normal(size=(2, 5, 3))
    found = drain(compare("one", real, other, ["s"] * 5, ["s"] * 5, seed=6))
    assert found.kernel is None
    assert found.frechet is None
    assert found.kernel_real is None
    assert found.splits == 0


def test_a_seed_means_the_same_numbers() -> None:
    first, second = (compared(np.random.default_rng(17), 0.5) for _ in range(2))
    assert first == second


def test_units_of_the_set_alone_take_part_in_the_bootstrap() -> None:
    rng = np.random.default_rng(18)
    real, other, _ = slides(rng, 2, 0.0)
    ours, theirs = np.repeat(np.arange(SLIDES), EACH), np.repeat(np.arange(SLIDES, 2 * SLIDES), EACH)
    interval = bootstrap(KernelSums.of(real, other, ours, theirs, 2 * SLIDES), rng)
    assert interval is not None
    assert interval.low is not None
    assert DRAWS >= 1000
