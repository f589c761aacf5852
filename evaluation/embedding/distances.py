"""How far apart two sets of feature vectors are: the Fréchet distance and the kernel distance, in float64.

Notation: n, m images; D width of the features; U units (slides, say), whose images are not independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
Places = NDArray[np.intp]

ROWS = 1024
"""Rows of a kernel matrix at once, so that memory grows with the number of images and not with its square."""


def frechet_distance(x: Vectors, y: Vectors) -> float:
    """Of Gaussians with the means and (unbiased) covariances of ``x`` [n, D] and ``y`` [m, D]; squared, as is usual.

    Biased upwards where images are few for D, so compare it at equal numbers alone. The trace of the root of the
    covariances' product is the sum of the singular values of the product of their roots, so nothing has to be inverted
    and singular covariances are no special case.
    Sources: Dowson and Landau, J. Multivariate Anal. 12 (1982); Heusel et al., arXiv 1706.08500.

    Raises:
        ValueError: fewer than two images, or widths that differ.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"no covariances of {list(x.shape)} and {list(y.shape)}")
    one, other = _root(x), _root(y)
    between = float(((x.mean(axis=0) - y.mean(axis=0)) ** 2).sum())
    traces = float((one**2).sum() + (other**2).sum())
    common = float(np.linalg.svd(one @ other.T, compute_uv=False).sum())
    return max(0.0, between + traces - 2.0 * common)


def _root(x: Vectors) -> Vectors:
    """A matrix R [min(n, D), D] with RᵀR the covariance of ``x`` [n, D]."""
    centred: Vectors = (x - x.mean(axis=0)) / np.sqrt(len(x) - 1)
    return centred if len(x) <= x.shape[1] else np.asarray(np.linalg.qr(centred, mode="r"))


def kernel(x: Vectors, y: Vectors) -> Vectors:
    """The cubic kernel ``(x·y / D + 1)³`` [n, m] of the kernel inception distance (Bińkowski et al., 1801.01401)."""
    result: Vectors = (x @ y.T / x.shape[1] + 1.0) ** 3
    return result


@dataclass(frozen=True)
class KernelSums:
    """Kernels of all pairs of images, summed by unit: within each of two sets, [U, U], and between them.

    ``xy[u, v]`` is over pairs of an image of x in unit u and one of y in unit v. ``nx`` and ``ny`` [U] count images.
    """

    xx: Vectors
    yy: Vectors
    xy: Vectors
    nx: Vectors
    ny: Vectors

    @staticmethod
    def of(x: Vectors, y: Vectors, x_units: Places, y_units: Places, count: int) -> KernelSums:
        """Of ``x`` [n, D] and ``y`` [m, D], whose images are of the units 0..``count``-1."""
        return KernelSums(
            _sums(x, x, x_units, x_units, count),
            _sums(y, y, y_units, y_units, count),
            _sums(x, y, x_units, y_units, count),
            np.bincount(x_units, minlength=count).astype(np.float64),
            np.bincount(y_units, minlength=count).astype(np.float64),
        )

    def distance(self, weights: Vectors | None = None) -> float:
        """The squared maximum mean discrepancy, unbiased: pairs of one unit are left out, in and between the sets.

        Where each image is a unit of its own this is the kernel inception distance. ``weights`` [U] say how often each
        unit was drawn, once if not given. NaN where a set has fewer than two units.
        """
        once = np.ones(len(self.nx)) if weights is None else weights
        within = (_mean(self.xx, self.nx, self.nx, once, once), _mean(self.yy, self.ny, self.ny, once, once))
        return within[0] + within[1] - 2.0 * _mean(self.xy, self.nx, self.ny, once, once)

    def between_halves(self, first: Vectors, second: Vectors) -> tuple[float, float]:
        """Distances of x in the units ``first`` [U] (1 or 0) from y, and from x itself, in the units ``second``."""
        one = _mean(self.xx, self.nx, self.nx, first, first)
        real = _mean(self.xx, self.nx, self.nx, second, second) - 2.0 * _mean(self.xx, self.nx, self.nx, first, second)
        other = _mean(self.yy, self.ny, self.ny, second, second) - 2.0 * _mean(self.xy, self.nx, self.ny, first, second)
        return one + other, one + real


def _sums(x: Vectors, y: Vectors, x_units: Places, y_units: Places, count: int) -> Vectors:
    order = np.argsort(y_units, kind="stable")
    columns, present = y[order], np.unique(y_units)
    starts = np.searchsorted(y_units[order], present)
    result = np.zeros((count, count))
    for first in range(0, len(x), ROWS):
        block = kernel(x[first : first + ROWS], columns)  # [rows, m]
        by_unit = np.zeros((len(block), count))
        by_unit[:, present] = np.add.reduceat(block, starts, axis=1)
        np.add.at(result, x_units[first : first + ROWS], by_unit)
    if x is y:  # an image with itself is no pair
        own = (np.einsum("nd,nd->n", x, x) / x.shape[1] + 1.0) ** 3
        result[np.diag_indices(count)] -= np.bincount(x_units, weights=own, minlength=count)
    return result


def _mean(sums: Vectors, rows: Vectors, columns: Vectors, first: Vectors, second: Vectors) -> float:
    """The mean kernel of pairs of different units, of which ``first`` and ``second`` say how often they count."""
    apart = first @ sums @ second - (first * second) @ np.diag(sums)
    pairs = (first @ rows) * (second @ columns) - (first * second) @ (rows * columns)
    return float(apart / pairs) if pairs > 0 else float("nan")


def kernel_distance(x: Vectors, y: Vectors) -> float:
    """The kernel inception distance of ``x`` [n, D] and ``y`` [m, D], unbiased: each image a unit of its own.

    Raises:
        ValueError: fewer than two images, or widths that differ.
    """
    if min(len(x), len(y)) < 2 or x.shape[1] != y.shape[1]:
        raise ValueError(f"no pairs of {list(x.shape)} and {list(y.shape)}")
    n, m = len(x), len(y)
    return KernelSums.of(x, y, np.arange(n), np.arange(n, n + m), n + m).distance()
