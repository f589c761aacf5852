"""All images in two dimensions: by UMAP (McInnes et al., arXiv 1802.03426), or by principal components."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from evaluation.embedding.distances import Vectors
from imaging.errors import InputError, brief

NEIGHBOURS = 15
MIN_DISTANCE = 0.1
FEWEST_FOR_UMAP = 8
COMPONENTS = 50
"""Principal components that UMAP looks at: it is made for tens of dimensions, and these hold nearly all there is."""


def project(features: Vectors, method: str, *, seed: int) -> NDArray[np.float64]:
    """``features`` [n, D] -> [n, 2]. The same features and seed give the same points, on one machine.

    Raises:
        InputError: UMAP is asked for and not installed, or there are too few images for it.
    """
    return umap(features, seed=seed) if method == "umap" else principal_components(features, 2)


def check_projection(method: str, count: int) -> None:
    """Raise InputError, before any work, if ``count`` images cannot be projected by ``method``."""
    if method == "umap" and count < FEWEST_FOR_UMAP:
        raise InputError(f"{count} images are too few for UMAP; give {FEWEST_FOR_UMAP} or more, or `projection` pca")
    if method == "umap":
        _umap_class()


def principal_components(features: Vectors, count: int) -> Vectors:
    """The first ``count`` principal components of ``features`` [n, D]: [n, count], 0 for those that there are not.

    The sign of each is such that its largest value is positive.
    """
    centred = features - features.mean(axis=0)
    wide = centred.shape[0] <= centred.shape[1]
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    first = vectors[:, ::-1][:, :count]
    found: Vectors = first * np.sqrt(np.maximum(values[::-1][:count], 0.0)) if wide else centred @ first
    largest = np.take_along_axis(found, np.abs(found).argmax(axis=0)[None], axis=0)
    found = found * np.where(largest < 0, -1.0, 1.0)
    return np.pad(found, ((0, 0), (0, count - found.shape[1])))


def umap(features: Vectors, *, seed: int) -> NDArray[np.float64]:
    """UMAP of the first `COMPONENTS` principal components, with one job: so a seed means the same points."""
    kind = _umap_class()
    count = len(features)
    reducer = kind(
        n_components=2,
        n_neighbors=min(NEIGHBOURS, count - 1),
        min_dist=MIN_DISTANCE,
        metric="euclidean",
        init="pca" if count < 4 * NEIGHBOURS else "spectral",  # a spectrum wants more images than that
        random_state=seed % 2**32,
        n_jobs=1,
    )
    few = principal_components(features, min(COMPONENTS, count, features.shape[1]))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            points: NDArray[np.float64] = reducer.fit_transform(few).astype(np.float64)
    except (ArithmeticError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise InputError(f"UMAP fails on these images ({brief(str(error))}); take `projection` pca") from error
    if not np.isfinite(points).all():
        raise InputError("UMAP gives no finite points for these images; take `projection` pca")
    return points


def _umap_class() -> type:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from umap import UMAP
    except ImportError as error:
        raise InputError(
            "UMAP is not installed: pip install umap-learn, or 'stainloom[evaluate]'; or take `projection` pca"
        ) from error
    kind: type = UMAP
    return kind
