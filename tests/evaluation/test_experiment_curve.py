"""The curve of annotated images, what is read off it, and where rounds stop to help."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.experiment.curve import monotone, saturation, worth, worth_with_interval


def test_the_rising_curve_is_that_of_isotonic_regression() -> None:
    isotonic = pytest.importorskip("sklearn.isotonic", reason="among the requirements of the tests")
    rng = np.random.default_rng(0)
    for _ in range(50):
        values, weights = rng.random(7), rng.random(7) + 0.1
        expected = isotonic.IsotonicRegression().fit_transform(np.arange(7), values, sample_weight=weights)
        assert monotone(values.tolist(), weights.tolist()) == pytest.approx(expected.tolist())


def test_the_rising_curve_pools_what_falls() -> None:
    assert monotone([1.0, 3.0, 2.0, 4.0], [1.0] * 4) == [1.0, 2.5, 2.5, 4.0]
    assert monotone([3.0, 2.0, 1.0], [1.0, 1.0, 2.0]) == pytest.approx([1.75] * 3)


def test_worth_is_read_off_the_curve_between_its_points() -> None:
    counts, curve = [100.0, 400.0, 1600.0], [0.6, 0.7, 0.8]
    assert worth(counts, curve, 0.65) == pytest.approx(200.0)
    assert worth(counts, curve, 0.8) == pytest.approx(1600.0)
    assert math.isinf(worth(counts, curve, 0.81))
    assert worth(counts, curve, 0.59) == 0.0
    assert worth(counts, [0.6, 0.6, 0.8], 0.6) == 100.0


def test_the_interval_of_a_worth_holds_a_planted_one() -> None:
    rng = np.random.default_rng(0)
    counts, truth = [10.0, 40.0, 160.0], np.array([0.6, 0.7, 0.8])
    curves = truth + 0.01 * rng.standard_normal((500, 3))
    scores = 0.75 + 0.01 * rng.standard_normal(500)
    found = worth_with_interval(counts, truth.tolist(), 0.75, curves, scores, 0.95)
    assert found.images == pytest.approx(80.0)
    assert 40 < found.low < 80 < found.high < 160
    beyond = worth_with_interval(counts, truth.tolist(), 0.85, curves, scores + 0.1, 0.95)
    assert math.isinf(beyond.images)


@pytest.mark.parametrize(
    ("means", "expected", "seen"),
    [
        ((0.6, 0.7, 0.75, 0.75, 0.75), 2, True),
        ((0.6, 0.6, 0.6, 0.6, 0.6), 0, True),
        ((0.5, 0.6, 0.7, 0.8, 0.9), 4, False),
        ((0.7, 0.6, 0.5, 0.4, 0.3), 0, True),
    ],
)
def test_saturation_is_the_first_round_within_an_error_of_the_best(
    means: tuple[float, ...], expected: int, seen: bool
) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array(means) + 0.005 * rng.standard_normal((400, 5))
    found = saturation([0, 1, 2, 3, 4], means, drawn, 0.95)
    assert (found.round, found.seen) == (expected, seen)
    assert found.low <= found.round <= found.high
