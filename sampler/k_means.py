"""K-means of many rows as scikit-learn's ``KMeans(n_clusters=5, n_init=10)`` does it, by given random numbers.

All restarts run side by side, so that one pass over the rows serves them all, and rows are asked for block by block:
they need not be held (docs/method.md, "Self-segmentation"). Sums and distances are in float64, so the columns' means
need not be taken off first, and neither blocks nor devices change a partition.

Notation: N rows of M numbers, R restarts, A of them still running, k clusters.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

CLUSTERS = 5
RESTARTS = 10
CANDIDATES = 3
"""Rows that are tried for each centre but the first (Arthur and Vassilvitskii, k-means++, the greedy variant)."""
DRAWS = 1 + CANDIDATES * (CLUSTERS - 1)
"""Random numbers that a restart takes."""
MOST_ROUNDS = 300
TOLERANCE = 1e-4
NOTHING = 1e-12
"""Squared distances below this share of a row's squared norm are rounding, and so are sums that differ by less."""


class Rows(Protocol):
    """N rows of M numbers each, in float64 however they are kept."""

    def take(self, index: Tensor) -> Tensor:
        """The rows [n, M] of ``index`` [n]."""

    def blocks(self) -> Iterator[tuple[slice, Tensor]]:
        """All rows in their order, some [n, M] at a time with their places."""


class Assigned(NamedTuple):
    """Nearest centres ``labels`` [A, N] and squared ``distances`` [A, N]; ``sums`` [A, k, M] and ``counts`` [A, k]."""

    labels: Tensor
    distances: Tensor
    sums: Tensor
    counts: Tensor


def k_means(rows: Rows, draws: NDArray[np.float64]) -> Tensor:
    """The cluster 0..k-1 of each row, [N] int64, with ``draws`` [R, 13] in [0, 1) for the restarts.

    Fewer distinct rows than clusters leave some clusters empty. Raises ValueError for fewer rows than clusters.
    """
    norms, tolerance = _spread(rows)
    if len(norms) < CLUSTERS:
        raise ValueError(f"{len(norms)} rows are too few for {CLUSTERS} clusters")
    labels, inertias = _lloyd(rows, norms, _seeds(rows, norms, torch.from_numpy(draws).to(norms)), tolerance)
    best = 0
    for restart in range(1, len(inertias)):
        if inertias[restart] < inertias[best] and not _is_same(labels[restart], labels[best]):
            best = restart
    return labels[best]


def _spread(rows: Rows) -> tuple[Tensor, float]:
    """Squared norms [N], and how far all centres together may move in a round that is the last."""
    norms: list[Tensor] = []
    total: Tensor | None = None
    for _, block in rows.blocks():
        norms.append(_squared_norms(block))
        total = block.sum(0) if total is None else total + block.sum(0)
    assert total is not None
    squares = torch.cat(norms)
    variance = squares.mean() - (total / len(squares)).square().sum()
    return squares, max(0.0, TOLERANCE * float(variance) / len(total))


def _seeds(rows: Rows, norms: Tensor, draws: Tensor) -> Tensor:
    """First centres [R, k, M]."""
    restarts, count = len(draws), len(norms)
    each = torch.arange(restarts, device=norms.device)
    chosen = [rows.take((draws[:, 0] * count).long().clamp(max=count - 1))]
    nearest = _distances(rows, norms, chosen[0])  # [R, N]
    for c in range(1, CLUSTERS):
        reached = draws[:, CANDIDATES * (c - 1) + 1 : CANDIDATES * c + 1] * nearest.sum(1, keepdim=True)
        index = torch.searchsorted(nearest.cumsum(1), reached).clamp(max=count - 1)  # [R, 3]
        points = rows.take(index.flatten())
        closer = _distances(rows, norms, points).view(restarts, CANDIDATES, count)
        closer = torch.minimum(closer, nearest[:, None])
        left = closer.sum(2)
        # Two rows that are near to each other alone leave the same, and rounding must not choose between them.
        best = (left <= left.amin(1, keepdim=True) * (1.0 + NOTHING)).int().argmax(1)
        nearest = closer[each, best]
        chosen.append(points.view(restarts, CANDIDATES, -1)[each, best])
    return torch.stack(chosen, dim=1)


def _lloyd(rows: Rows, norms: Tensor, centres: Tensor, tolerance: float) -> tuple[Tensor, list[float]]:
    """Labels [R, N] and inertias of all restarts, from their first ``centres`` [R, k, M], which are used up."""
    labels = torch.full((len(centres), len(norms)), -1, dtype=torch.int64, device=norms.device)
    vacant = torch.zeros(centres.shape[:2], dtype=torch.bool, device=norms.device)
    running, steady = list(range(len(centres))), [False] * len(centres)
    for _ in range(MOST_ROUNDS):
        if not running:
            break
        at = torch.tensor(running, device=norms.device)
        before = centres[at]
        found = _assign(rows, norms, before, vacant[at])
        same = (found.labels == labels[at]).all(1).tolist()
        labels[at] = found.labels
        for number in (found.counts == 0).any(1).nonzero()[:, 0].tolist():
            _settle_empty(rows, norms, *(part[number] for part in found))
        after = found.sums.div_(found.counts.clamp(min=1)[..., None])
        # A cluster that stays empty waits where the largest one is, and takes no row from it.
        largest = after[torch.arange(len(after), device=at.device), found.counts.argmax(1)]
        vacant[at] = found.counts == 0
        torch.where(vacant[at][..., None], largest[:, None], after, out=after)
        centres[at] = after
        close = (before.sub_(after).square_().sum((1, 2)) <= tolerance).tolist()
        for restart, unchanged in zip(running, same, strict=True):
            steady[restart] = unchanged
        running = [each for each, *ends in zip(running, same, close, strict=True) if not any(ends)]
    return _judge(rows, norms, centres, vacant, labels, torch.tensor(steady, device=norms.device))


def _assign(rows: Rows, norms: Tensor, centres: Tensor, vacant: Tensor) -> Assigned:
    """One round's labels and what the new centres are made of. ``vacant`` clusters [A, k] get no rows."""
    runs, _, width = centres.shape
    labels = torch.empty(runs, len(norms), dtype=torch.int64, device=norms.device)
    distances = norms.new_empty(labels.shape)
    sums, counts = norms.new_zeros(runs * CLUSTERS, width), norms.new_zeros(runs * CLUSTERS)
    for part, block in rows.blocks():
        least = _to_centres(block, centres, vacant).min(2)  # [n, A]
        labels[:, part], distances[:, part] = least.indices.t(), least.values.t() + norms[part]
        members = one_hot(least.indices, CLUSTERS).to(block.dtype).flatten(1)  # [n, A k]
        sums.addmm_(members.t(), block)
        counts += members.sum(0)
    return Assigned(labels, distances, sums.view(runs, CLUSTERS, width), counts.view(runs, CLUSTERS))


def _settle_empty(rows: Rows, norms: Tensor, labels: Tensor, distances: Tensor, sums: Tensor, counts: Tensor) -> None:
    """Give each empty cluster of one restart the row farthest from its own centre, which leaves its old cluster."""
    if bool((distances <= NOTHING * norms).all()):
        return  # every row lies on its centre: there are fewer distinct rows than clusters
    empty = (counts == 0).nonzero()[:, 0].tolist()
    farthest = distances.sort(descending=True, stable=True).indices[: len(empty)]
    for cluster, old, point in zip(empty, labels[farthest].tolist(), rows.take(farthest), strict=True):
        sums[old] -= point
        sums[cluster] = point
        counts[old] -= 1
        counts[cluster] = 1


def _judge(
    rows: Rows, norms: Tensor, centres: Tensor, vacant: Tensor, labels: Tensor, steady: Tensor
) -> tuple[Tensor, list[float]]:
    """Labels [R, N], made once more where a restart is not ``steady`` [R], and the sums of squared distances."""
    inertias = norms.new_zeros(len(centres))
    for part, block in rows.blocks():
        distances = _to_centres(block, centres, vacant)  # [n, R, k]
        own = torch.where(steady, labels[:, part].t(), distances.argmin(2))  # [n, R]
        labels[:, part] = own.t()
        inertias += (distances.gather(2, own[..., None])[..., 0] + norms[part, None]).sum(0)
    return labels, inertias.tolist()


def _to_centres(block: Tensor, centres: Tensor, vacant: Tensor) -> Tensor:
    """Squared distances of rows [n, M] to centres [A, k, M] less the rows' squared norms, [n, A, k]."""
    flat = centres.flatten(0, 1)
    squares = _squared_norms(flat).masked_fill(vacant.flatten(), torch.inf)
    return torch.addmm(squares, block, flat.t(), alpha=-2.0).view(len(block), *vacant.shape)


def _distances(rows: Rows, norms: Tensor, points: Tensor) -> Tensor:
    """Squared distances [n, N] of ``points`` [n, M] to all rows."""
    products = torch.cat([points @ block.t() for _, block in rows.blocks()], dim=1)
    return (norms - 2.0 * products + _squared_norms(points)[:, None]).clamp(min=0.0)


def _squared_norms(points: Tensor) -> Tensor:
    return torch.linalg.vector_norm(points, dim=1).square()


def _is_same(labels: Tensor, best: Tensor) -> bool:
    """Whether no cluster of ``labels`` [N] is split among those of ``best`` [N]."""
    pairs = torch.bincount(labels * CLUSTERS + best, minlength=CLUSTERS**2).view(CLUSTERS, CLUSTERS)
    return bool(((pairs > 0).sum(1) <= 1).all())
