"""Intervals cover as often as they say; planted effects are found at the rate that was reckoned; none where none is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.experiment.statistics import (
    Interval,
    Resampling,
    Variances,
    interval,
    judge,
    student,
    variances_of,
)

FIELDS = 2  # of each group
CASES = {
    # deviations of subsets, trainings, groups, single fields; choices, seeds, groups
    "subsets decide": ((0.04, 0.01, 0.01, 0.02), (4, 2, 12)),
    "slides decide": ((0.005, 0.01, 0.06, 0.02), (3, 2, 12)),
    "trainings decide": ((0.0, 0.04, 0.01, 0.02), (3, 2, 12)),
    "all alike": ((0.02, 0.02, 0.05, 0.05), (3, 2, 20)),
    "one whole set": ((0.0, 0.02, 0.03, 0.02), (1, 4, 20)),
}


def differences(
    rng: np.random.Generator, effect: float, deviations: tuple[float, ...], counts: tuple[int, int, int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Differences [D, S, F] of paired trainings with an ``effect``, and the groups of their fields [F]."""
    (subset, run, group, field), (draws, seeds, groups) = deviations, counts
    values = effect + subset * rng.standard_normal((draws, 1, 1)) + run * rng.standard_normal((draws, seeds, 1))
    values = values + group * np.repeat(rng.standard_normal(groups), FIELDS)
    values = values + field * rng.standard_normal((draws, seeds, groups * FIELDS))
    return values, np.repeat(np.arange(groups), FIELDS)


def intervals(name: str, effect: float, times: int) -> list[Interval]:
    """Of so many simulated experiments."""
    deviations, counts = CASES[name]
    rng = np.random.default_rng(7)
    found = []
    for number in range(times):
        values, groups = differences(rng, effect, deviations, counts)
        resampling = Resampling.of(*counts, 400, number)
        found.append(interval(values, groups, resampling))
    return found


@pytest.mark.parametrize("name", CASES)
def test_intervals_cover_the_truth_as_often_as_they_say(name: str) -> None:
    times = 300
    found = intervals(name, 0.03, times)
    covered = sum(each.low <= 0.03 <= each.high for each in found) / times
    # 95 % within three deviations of the simulation's own chance; never fewer.
    assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / times)


@pytest.mark.parametrize("name", ["slides decide", "all alike"])
def test_no_effect_is_seldom_called_one(name: str) -> None:
    words = [judge(each, 0.02).word for each in intervals(name, 0.0, 300)]
    assert 1 - words.count("cannot tell") / 300 <= 0.05 + 3 * math.sqrt(0.95 * 0.05 / 300)


def test_planted_effects_are_found_with_their_sign() -> None:
    for effect, word in ((0.12, "helps"), (-0.12, "hurts")):
        words = [judge(each, 0.02).word for each in intervals("all alike", effect, 60)]
        assert words.count(word) >= 54
        assert words.count("cannot tell") + words.count(word) == 60


def test_as_many_more_slides_as_were_reckoned_tell_the_effect_as_often_as_was_said() -> None:
    deviations, (draws, seeds, groups) = (0.002, 0.004, 0.08, 0.01), (4, 2, 10)
    effect = 0.05
    exact = Variances(
        (deviations[0] ** 2 + deviations[1] ** 2 / seeds) / draws,
        draws - 1,
        (deviations[2] ** 2 + deviations[3] ** 2 / (FIELDS * draws * seeds)) / groups,
        groups - 1,
    )
    more = judge(Interval(0.0, -1.0, 1.0, exact), effect).more_slides
    assert more is not None
    assert more > 0
    rng = np.random.default_rng(3)
    told = 0
    for number in range(200):
        counts = (draws, seeds, groups + more)
        values, places = differences(rng, effect, deviations, counts)
        found = interval(values, places, Resampling.of(*counts, 400, number))
        told += found.low > 0
    assert 0.8 - 3 * math.sqrt(0.8 * 0.2 / 200) <= told / 200 <= 0.95


def test_where_subsets_decide_no_number_of_slides_is_promised() -> None:
    values, groups = differences(np.random.default_rng(0), 0.0, (0.05, 0.0, 0.001, 0.001), (3, 2, 10))
    found = judge(interval(values, groups, Resampling.of(3, 2, 10, 400, 0)), 0.02)
    assert found.more_slides is None
    assert found.more_subsets is not None
    assert found.more_subsets > 3


def test_a_narrow_interval_about_nothing_rules_a_difference_out() -> None:
    values, groups = differences(np.random.default_rng(0), 0.0, (0.0005, 0.0005, 0.001, 0.001), (3, 2, 10))
    found = judge(interval(values, groups, Resampling.of(3, 2, 10, 400, 0)), 0.02)
    assert found.word == "cannot tell"
    assert found.small


def test_variances_are_those_of_the_levels() -> None:
    rng = np.random.default_rng(0)
    deviations, counts = (0.03, 0.02, 0.05, 0.0), (4, 2, 15)
    found = []
    for _ in range(2000):
        values, groups = differences(rng, 0.0, deviations, counts)
        found.append(variances_of(values, groups))
    assert np.mean([each.subsets for each in found]) == pytest.approx((0.03**2 + 0.02**2 / 2) / 4, rel=0.1)
    assert np.mean([each.groups for each in found]) == pytest.approx(0.05**2 / 15, rel=0.1)


def test_groups_count_by_their_fields() -> None:
    values = np.array([[[1.0, 0.0, 0.0]]])
    found = Resampling.of(1, 1, 2, 20_000, 0).means(values, np.array([0, 1, 1]))
    # The group of one field twice, both once, or that of two fields twice: means 1, 1/3 and 0.
    assert [np.isclose(found, mean).mean() for mean in (1, 1 / 3, 0)] == pytest.approx([0.25, 0.5, 0.25], abs=0.02)


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.3027), (5, 2.5706), (2.5, 3.5747), (30, 2.0423), (1e6, 1.96)]
)
def test_students_quantiles_are_those_of_the_tables(degrees: float, value: float) -> None:
    assert student(degrees) == pytest.approx(value, rel=2e-3)


def test_the_same_resampling_keeps_pairs_together() -> None:
    rng = np.random.default_rng(1)
    one, groups = differences(rng, 0.5, CASES["all alike"][0], (3, 2, 8))
    resampling = Resampling.of(3, 2, 8, 500, 0)
    difference = resampling.means(one + 0.01, groups) - resampling.means(one, groups)
    assert difference == pytest.approx(np.full(500, 0.01))
