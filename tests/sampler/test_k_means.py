"""K-means against scikit-learn's, and where that leaves a choice to rounding."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from sampler import k_means as ours
from sampler.self_segmentation import AttentionMap, Held, Remade, clusters_of, rows_of

IMAGES = ("origin", "structure")


def randn(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(height: int, width: int, seed: int, dtype: torch.dtype, strength: float) -> AttentionMap:
    """Of positions that lie in six parts of a grid, and look at their own part the more the greater ``strength``."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    part = ((rows * 3 // height) * 2 + columns * 2 // width).flatten()
    looks = randn(6, 16, seed=seed)[part] * strength
    q, k = (looks + randn(2, height * width, 16, seed=seed + number) for number in (1, 2))
    return AttentionMap(q.to(dtype), k.to(dtype), dtype)


def structured(seed: int, dtype: torch.dtype, height: int = 16, width: int = 16) -> torch.Tensor:
    return attention(height, width, seed, dtype, 1.0).rows(slice(None))


def faint(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return attention(16, 8, seed, dtype, 0.2).rows(slice(None))


def random(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.softmax(randn(96, 96, seed=seed), -1).to(dtype)


def half_resolution(seed: int, dtype: torch.dtype) -> torch.Tensor:
    return structured(seed, dtype, 8, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [structured, faint, random, half_resolution])
def test_clusters_are_those_of_scikit_learn(make, dtype):
    for seed in range(0, 30, 5):
        theirs = np.random.RandomState(1)  # the origin's map first, the structure's with what comes next
        for image, matrix in zip(IMAGES, (make(seed, dtype), make(seed + 1000, dtype)), strict=True):
            expected = KMeans(n_clusters=5, n_init=10, random_state=theirs).fit(matrix.numpy()).labels_
            np.testing.assert_array_equal(clusters_of(Held(matrix), image).numpy(), expected, f"{image}, seed {seed}")


def test_both_images_have_random_numbers_of_their_own():
    matrix = random(0, torch.float64)
    first, second = (clusters_of(Held(matrix), image) for image in IMAGES)
    assert not torch.equal(first, second)


def lloyd(matrix: torch.Tensor, centres: torch.Tensor) -> tuple[torch.Tensor, float]:
    norms, tolerance = ours._spread(Held(matrix))
    labels, inertias = ours._lloyd(Held(matrix), norms, centres[None].clone(), tolerance)
    return labels[0], inertias[0]


def same_partition(first: np.ndarray, second: np.ndarray) -> bool:
    return len(set(zip(first.tolist(), second.tolist(), strict=True))) == len(set(first)) == len(set(second))


@pytest.mark.parametrize("copies", [2, 3, 4])
def test_empty_clusters_take_the_farthest_rows_as_in_scikit_learn(copies):
    """First centres that are one row several times leave clusters without rows."""
    for seed in range(8):
        matrix = randn(60, 7, seed=seed)
        centres = matrix[:5].clone()
        centres[:copies] = matrix[0]
        expected = KMeans(n_clusters=5, n_init=1, init=centres.numpy()).fit(matrix.numpy())
        labels, inertia = lloyd(matrix, centres)
        assert same_partition(labels.numpy(), expected.labels_)
        assert inertia == pytest.approx(expected.inertia_, rel=1e-12)


@pytest.mark.parametrize("distinct", [1, 2, 4])
def test_fewer_distinct_rows_than_clusters_are_told_apart_and_no_more(distinct):
    matrix = randn(distinct, 9, seed=3)[torch.arange(40) % distinct]
    labels = clusters_of(Held(matrix), "origin").numpy()
    assert same_partition(labels, np.arange(40) % distinct)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        expected = KMeans(n_clusters=5, n_init=10, random_state=np.random.RandomState(1)).fit(matrix.numpy()).labels_
    assert same_partition(labels, expected)


def test_the_most_rounds_end_with_one_more_labelling_as_in_scikit_learn(monkeypatch):
    matrix, rounds = randn(400, 3, seed=1), 4
    monkeypatch.setattr(ours, "MOST_ROUNDS", rounds)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        cut = KMeans(n_clusters=5, n_init=1, init=matrix[:5].numpy(), max_iter=rounds).fit(matrix.numpy())
    labels, inertia = lloyd(matrix, matrix[:5])
    np.testing.assert_array_equal(labels.numpy(), cut.labels_)
    assert inertia == pytest.approx(cut.inertia_, rel=1e-12)


def test_of_two_rows_that_are_as_good_the_first_becomes_a_centre():
    """Rows 3 and 7 are near to each other alone: either leaves the same sum of distances, to rounding."""
    matrix = 10 * torch.eye(12, dtype=torch.float64)
    matrix[7] = matrix[3] + 0.1
    distances = (matrix - matrix[0]).square().sum(1)
    norms, _ = ours._spread(Held(matrix))
    for rows in ((3, 7, 5), (7, 3, 5), (5, 7, 3)):
        draws = torch.zeros(1, ours.DRAWS, dtype=torch.float64)
        draws[0, 1:4] = (distances.cumsum(0)[list(rows)] - 1.0) / distances.sum()
        second = ours._seeds(Held(matrix), norms, draws)[0, 1]
        assert torch.equal(second, matrix[next(row for row in rows if row != 5)])


def test_too_few_rows_are_refused():
    with pytest.raises(ValueError, match="4 rows are too few for 5 clusters"):
        clusters_of(Held(torch.eye(4)), "origin")


def test_rows_that_are_made_anew_are_those_that_are_held():
    for strength in (1.0, 0.2):
        made = attention(12, 16, 5, torch.float32, strength)
        held = rows_of(made)
        assert isinstance(held, Held)
        assert isinstance(rows_of(attention(8, 513, 5, torch.float32, 1.0)), Remade), "more than 512×512 px"
        for image in IMAGES:
            assert torch.equal(clusters_of(Remade(made), image), clusters_of(held, image))
        index = torch.tensor([5, 0, 191])
        torch.testing.assert_close(Remade(made).take(index), held.take(index))
