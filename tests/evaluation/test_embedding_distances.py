"""Fréchet and kernel distances against known answers in float64."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from evaluation.embedding.distances import KernelSums, frechet_distance, kernel_distance


def exactly(rng: np.random.Generator, mean: np.ndarray, covariance: np.ndarray, count: int) -> np.ndarray:
    """``count`` points whose own mean and unbiased covariance are the given ones, to rounding."""
    drawn = rng.normal(size=(count, len(mean)))
    drawn -= drawn.mean(axis=0)
    white = drawn @ np.linalg.inv(np.linalg.cholesky(drawn.T @ drawn / (count - 1))).T
    return mean + white @ np.linalg.cholesky(covariance).T


def some_covariance(rng: np.random.Generator, width: int) -> np.ndarray:
    root = rng.normal(size=(width, width))
    return root @ root.T + 0.1 * np.eye(width)


def of_gaussians(means: list[np.ndarray], covariances: list[np.ndarray]) -> float:
    """The closed form, with the root of S1^½ S2 S1^½ by eigenvalues."""
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    common = np.sqrt(np.linalg.eigvalsh(root @ covariances[1] @ root)).sum()
    return ((means[0] - means[1]) ** 2).sum() + np.trace(covariances[0] + covariances[1]) - 2 * common


@pytest.mark.parametrize("width", [1, 2, 7, 30])
@pytest.mark.parametrize("counts", [(40, 40), (200, 35)])
def test_frechet_distance_is_that_of_gaussians(width: int, counts: tuple[int, int]) -> None:
    rng = np.random.default_rng(width)
    means = [rng.normal(size=width) for _ in counts]
    covariances = [some_covariance(rng, width) for _ in counts]
    x, y = (exactly(rng, *each) for each in zip(means, covariances, counts, strict=True))
    assert frechet_distance(x, y) == pytest.approx(of_gaussians(means, covariances), rel=1e-9)


def test_frechet_distance_of_one_dimension() -> None:
    rng = np.random.default_rng(0)
    x, y = (exactly(rng, np.array([mean]), np.array([[sd**2]]), 50) for mean, sd in ((1.0, 2.0), (-0.5, 0.25)))
    assert frechet_distance(x, y) == pytest.approx(1.5**2 + 1.75**2, rel=1e-12)


def test_frechet_distance_of_fewer_images_than_dimensions() -> None:
    """Singular covariances: the same as in the few dimensions in which the points lie, turned at random."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(9, 6)), 0.5 + 2 * rng.normal(size=(8, 6))
    turn = np.linalg.qr(rng.normal(size=(300, 300)))[0][:6]
    assert frechet_distance(x @ turn, y @ turn) == pytest.approx(frechet_distance(x, y), rel=1e-9)


def test_frechet_distance_of_a_set_from_itself_is_rounding() -> None:
    x = np.random.default_rng(2).normal(size=(20, 50)) * 100
    assert 0 <= frechet_distance(x, x) <= 1e-12 * (x**2).sum()


def naive(x: np.ndarray, y: np.ndarray, x_units: list[int], y_units: list[int]) -> float:
    """The double loop, over pairs of different units."""

    def mean(a: np.ndarray, b: np.ndarray, a_units: list[int], b_units: list[int]) -> float:
        kernels = [
            (float(a[i] @ b[j]) / a.shape[1] + 1) ** 3
            for i, j in product(range(len(a)), range(len(b)))
            if a_units[i] != b_units[j]
        ]
        return math.fsum(kernels) / len(kernels)

    within = mean(x, x, x_units, x_units) + mean(y, y, y_units, y_units)
    return within - 2 * mean(x, y, x_units, y_units)


def test_kernel_distance_is_the_double_loops() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(13, 4)), 0.3 + rng.normal(size=(9, 4))
    expected = naive(x, y, list(range(13)), list(range(13, 22)))
    assert kernel_distance(x, y) == pytest.approx(expected, rel=1e-11)


def test_kernel_distance_leaves_out_pairs_of_one_unit() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(12, 5)), rng.normal(size=(10, 5))
    x_units, y_units = [0, 0, 0, 1, 1, 2, 2, 2, 2, 4, 4, 4], [4, 0, 0, 1, 3, 3, 3, 2, 1, 1]
    sums = KernelSums.of(x, y, np.array(x_units), np.array(y_units), 6)  # nothing is of unit 5
    assert sums.distance() == pytest.approx(naive(x, y, x_units, y_units), rel=1e-10)


def test_a_unit_drawn_twice_counts_twice_and_is_no_pair_with_itself() -> None:
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 3))
    units = [0, 0, 1, 1, 2, 2, 3, 3]
    drawn = [0, 2, 2, 3]
    places = [place for unit in drawn for place in range(8) if units[place] == unit]
    expected = naive(x[places], y[places], [units[p] for p in places], [units[p] for p in places])
    sums = KernelSums.of(x, y, np.array(units), np.array(units), 4)
    assert sums.distance(np.array([1.0, 0.0, 2.0, 1.0])) == pytest.approx(expected, rel=1e-10)


def test_halves_are_compared_by_their_own_images_alone() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(12, 3)), rng.normal(size=(12, 3))
    units = np.repeat(np.arange(6), 2)
    second = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 0.0])
    one, other = second[units] == 0, second[units] == 1
    got = KernelSums.of(x, y, units, units, 6).between_halves(1 - second, second)
    named = [units[one].tolist(), units[other].tolist()]
    assert got == pytest.approx((naive(x[one], y[other], *named), naive(x[one], x[other], *named)), rel=1e-10)


def test_many_images_go_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    x, y = rng.normal(size=(23, 3)), rng.normal(size=(17, 3))
    whole = kernel_distance(x, y)
    monkeypatch.setattr("evaluation.embedding.distances.ROWS", 5)
    assert kernel_distance(x, y) == pytest.approx(whole, rel=1e-12)


def slides(rng: np.random.Generator, count: int, images: int) -> np.ndarray:
    """Images of slides that differ from each other."""
    return np.repeat(0.7 * rng.normal(size=(count, 4)), images, axis=0) + rng.normal(size=(count * images, 4))


def test_halves_of_one_distribution_are_zero_apart_on_average() -> None:
    """With each image by itself, and, where slides differ, with slides as units; but not where that is passed over."""
    rng = np.random.default_rng(8)
    draws: dict[str, list[float]] = {"images": [], "slides": [], "passed over": []}
    for _ in range(400):
        x = rng.normal(size=(24, 4))
        draws["images"].append(kernel_distance(x[:12], x[12:]))
        x = slides(rng, 8, 3)
        units = np.repeat(np.arange(8), 3)
        draws["slides"].append(KernelSums.of(x[:12], x[12:], units[:12], units[12:], 8).distance())
        draws["passed over"].append(kernel_distance(x[:12], x[12:]))
    error = {name: np.mean(each) / (np.std(each) / np.sqrt(len(each))) for name, each in draws.items()}
    assert abs(error["images"]) < 4
    assert abs(error["slides"]) < 4
    assert error["passed over"] > 4


@pytest.mark.parametrize("shapes", [((1, 3), (5, 3)), ((5, 3), (1, 3)), ((5, 3), (5, 4)), ((0, 3), (5, 3))])
def test_too_few_images_or_other_widths_are_refused(shapes: tuple[tuple[int, int], ...]) -> None:
    x, y = (np.zeros(shape) for shape in shapes)
    for distance in (frechet_distance, kernel_distance):
        with pytest.raises(ValueError, match="no (covariances|pairs)"):
            distance(x, y)
