"""Rates, areas, kappas and tests against other programs, published examples and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation.review import statistics as ours


def test_intervals_and_exact_tests_are_scipys() -> None:
    stats = pytest.importorskip("scipy.stats", reason="among the requirements of the tests")
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = int(rng.integers(1, 80))
        successes = int(rng.integers(0, count + 1))
        test = stats.binomtest(successes, count, 0.5)
        wilson = test.proportion_ci(method="wilson")
        found = ours.proportion(successes, count)
        assert (found.low, found.high) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
        above, below = ours.binomial_tails(successes, count)
        assert above == pytest.approx(stats.binomtest(successes, count, 0.5, "greater").pvalue, rel=1e-9)
        assert below == pytest.approx(stats.binomtest(successes, count, 0.5, "less").pvalue, rel=1e-9)
        positives, called = int(rng.integers(0, count + 1)), int(rng.integers(0, count + 1))
        hits = int(rng.integers(max(0, called + positives - count), min(positives, called) + 1))
        above, below = ours.fisher_tails(hits, positives, called, count)
        assert above == pytest.approx(stats.hypergeom.sf(hits - 1, count, positives, called), rel=1e-9)
        assert below == pytest.approx(stats.hypergeom.cdf(hits, count, positives, called), rel=1e-9)


def test_areas_and_kappas_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="among the requirements of the tests")
    rng = np.random.default_rng(0)
    for _ in range(60):
        count = int(rng.integers(4, 60))
        truth = rng.random(count) < 0.5
        truth[:2] = True, False
        scores = rng.integers(-5, 6, count).astype(np.float64)
        assert ours.area(scores, truth).value == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-12)
        one, other = rng.integers(0, 3, (2, count))
        one[:2] = 0, 1
        assert ours.cohen_kappa(one, other) == pytest.approx(metrics.cohen_kappa_score(one, other), abs=1e-12)


def test_fleiss_kappa_is_that_of_the_published_example() -> None:
    """Fourteen raters, ten subjects, five categories: 0.210 (Fleiss 1971's layout; the example of many textbooks)."""
    counts = [
        (0, 0, 0, 0, 14),
        (0, 2, 6, 4, 2),
        (0, 0, 3, 5, 6),
        (0, 3, 9, 2, 0),
        (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0),
        (3, 2, 6, 3, 0),
        (2, 5, 3, 2, 2),
        (6, 5, 2, 1, 0),
        (0, 2, 2, 3, 7),
    ]
    answers = np.array([np.repeat(np.arange(5), row) for row in counts]).T
    assert ours.fleiss_kappa(answers) == pytest.approx(0.210, abs=5e-4)


def test_what_says_nothing_is_none_and_certainty_is_not_claimed() -> None:
    same = np.zeros(6, dtype=np.int64)
    assert ours.cohen_kappa(same, same) is None
    assert ours.fleiss_kappa(np.zeros((3, 6), dtype=np.int64)) is None
    assert ours.cohen_kappa(same[:0], same[:0]) is None
    assert ours.proportion(0, 0) == ours.NOTHING
    assert ours.area(np.ones(3), np.ones(3, dtype=bool)) == ours.NOTHING
    perfect = ours.area(np.array([1.0, 2.0, 3.0, 4.0]), np.array([False, False, True, True]))
    assert perfect.value == perfect.high == 1.0
    assert perfect.low is not None
    assert perfect.low < 0.9
    alike = ours.area(np.ones(20), np.arange(20) < 10)
    assert alike.value == 0.5
    assert alike.low is not None
    assert alike.low < 0.4
    answers = np.arange(6) % 2
    kappa = ours.bootstrapped(1.0, lambda places: ours.cohen_kappa(answers[places], answers[places]), 6, 0)
    assert (kappa.value, kappa.low) == (1.0, None)


@pytest.mark.parametrize(("share", "count"), [(0.5, 60), (0.8, 30), (0.95, 30), (0.1, 12)])
def test_a_rates_interval_covers_it_as_often_as_it_says(share: float, count: int) -> None:
    """Wilson's coverage swings about 95 %; summed exactly, it stays above 92 % here."""
    covered = 0.0
    for k in range(count + 1):
        found = ours.proportion(k, count)
        assert found.low is not None
        assert found.high is not None
        if found.low <= share <= found.high:
            covered += math.comb(count, k) * share**k * (1 - share) ** (count - k)
    assert 0.92 < covered < 0.99


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("levels", [1, 9])
def test_an_areas_interval_covers_it_as_often_as_it_says(shift: float, levels: int) -> None:
    """Readers' ratings cut from two normal distributions, in two or ten levels; never below 95 % less 3 sigma."""
    rng = np.random.default_rng(levels)
    cuts = np.linspace(-1.5, 2.5, levels) if levels > 1 else np.array([0.5])
    normal = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
    edges = np.concatenate([[-np.inf], cuts, [np.inf]])
    negatives, positives = np.diff(normal(edges)), np.diff(normal(edges - shift))
    true = sum(p * (negatives[:i].sum() + negatives[i] / 2) for i, p in enumerate(positives))
    rounds, count, covered = 400, 30, 0
    for _ in range(rounds):
        scores = np.digitize(np.concatenate([rng.normal(shift, 1, count), rng.normal(0, 1, count)]), cuts)
        found = ours.area(scores.astype(np.float64), np.arange(2 * count) < count)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= true <= found.high
    assert covered / rounds > 0.95 - 3 * math.sqrt(0.95 * 0.05 / rounds)


@pytest.mark.parametrize("habit", [0.5, 0.3, 0.8])
def test_a_reader_at_chance_is_called_above_it_no_more_often_than_stated(habit: float) -> None:
    """Exactly summed over all that readers can say who call ``habit`` of 60 images in-silico, in a balanced study."""
    count, positives, rate = 60, 30, 0.0
    called = round(habit * count)
    for hits in range(max(0, called - 30), min(positives, called) + 1):
        chance = math.comb(positives, hits) * math.comb(count - positives, called - hits) / math.comb(count, called)
        rate += chance * (ours.fisher_tails(hits, positives, called, count)[0] <= ours.ALPHA)
    assert 0.003 < rate <= ours.ALPHA
    pairs = sum(math.comb(60, k) / 2**60 for k in range(61) if ours.binomial_tails(k, 60)[0] <= ours.ALPHA)
    assert 0.01 < pairs <= ours.ALPHA


@pytest.mark.parametrize("coins", [False, True])
def test_readers_who_err_alike_are_not_called_above_chance_together_more_often_than_stated(coins: bool) -> None:
    """Three readers who say the same, so that answers counted one by one would seem thrice as many."""
    rng = np.random.default_rng(int(coins))
    truth = np.where(np.arange(20) < 10, 1.0, -1.0)
    rounds, above = 300, 0
    for seed in range(rounds):
        dealt = rng.choice([-1.0, 1.0], 20) if coins else rng.permutation(truth)
        signs = np.tile(rng.choice([-1.0, 1.0], 20), (3, 1))
        above += ours.dealt_tails(signs.mean(axis=0), dealt, coins=coins, seed=seed)[0] <= ours.ALPHA
    assert above / rounds < ours.ALPHA + 3 * math.sqrt(ours.ALPHA / rounds)


def test_dealing_again_gives_the_exact_tests_chances() -> None:
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.repeat([1.0, -1.0], 12))
    signs = np.where(rng.random(24) < 0.7, truth, -truth)
    hits, called = int(((truth > 0) & (signs > 0)).sum()), int((signs > 0).sum())
    found = ours.dealt_tails(signs, truth, coins=False, seed=0)
    exact = ours.fisher_tails(hits, 12, called, 24)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(0.25 / ours.PERMUTATIONS))
    found = ours.dealt_tails(signs, truth, coins=True, seed=0)
    exact = ours.binomial_tails(int((signs == truth).sum()), 24)
    assert found == pytest.approx(exact, abs=4 * math.sqrt(0.25 / ours.PERMUTATIONS))


def test_a_bootstrap_of_readers_and_images_covers_the_mean_reader() -> None:
    """Readers of differing skill and images of differing difficulty, whose population mean is known."""
    rng = np.random.default_rng(0)
    rounds, covered = 60, 0
    for seed in range(rounds):
        skill, ease = rng.uniform(-0.1, 0.1, (5, 1)), rng.uniform(-0.2, 0.2, (1, 60))
        right = (rng.random((5, 60)) < 0.7 + skill + ease).astype(np.float64)
        strata = [np.arange(30), np.arange(30, 60)]
        found = ours.crossed(lambda r, n, right=right: float(right[np.ix_(r, n)].mean()), 5, strata, seed)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.7 <= found.high
    assert covered / rounds > 0.95 - 3 * math.sqrt(0.95 * 0.05 / rounds)
