"""Which real image stands against which in-silico one: like shares of each class, and nothing made from the other.

Notation: M in-silico images, N real ones, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

OWN_ORIGIN = 1e6
"""Cost of a pair of which one was made from the other; more than all other costs together."""
SEEN_ORIGIN = 1e2
"""Cost of a real image that another chosen one was made from."""


@dataclass(frozen=True)
class Candidate:
    """An image that may be shown. ``source`` is the real image that it is or was made from, as far as is known.

    ``shares`` [C] of its pixels in each class, ignored ones left out; ``index`` is its place in its set.
    """

    index: int
    source: str
    shares: tuple[float, ...]


def match(synthetic: Sequence[Candidate], real: Sequence[Candidate]) -> list[int]:
    """For each of the M in-silico images the index of a real one, none twice, so that the distances' sum is least.

    The distance is half the sum of the absolute differences of shares. Real images that others were made from are taken
    only where there are too few, and beside their own offspring last of all.

    Raises:
        ValueError: there are fewer real images than in-silico ones.
    """
    distances = 0.5 * np.abs(_shares(synthetic)[:, None] - _shares(real)[None]).sum(axis=-1)  # [M, N]
    sources = {each.source for each in synthetic} - {""}
    seen = np.array([each.source in sources for each in real])
    numbers = {name: number for number, name in enumerate(sources)}
    ours, theirs = (
        np.array([numbers.get(each.source, other) for each in side]) for side, other in ((synthetic, -1), (real, -2))
    )
    return assign(distances + SEEN_ORIGIN * seen[None] + OWN_ORIGIN * (ours[:, None] == theirs[None]))


def spread_origins(candidates: Sequence[Candidate], order: Sequence[int], count: int, used: set[str]) -> list[int]:
    """The first ``count`` of ``candidates`` in ``order``, of new sources while there are such; adds to ``used``."""
    chosen: list[int] = []
    for index in order:
        source = candidates[index].source
        if len(chosen) < count and (not source or source not in used):
            chosen.append(index)
            used.add(source)
    taken = set(chosen)
    more = [index for index in order if index not in taken]
    return [*chosen, *more[: count - len(chosen)]]


def assign(costs: NDArray[np.float64]) -> list[int]:
    """The column of each row, none twice, of least total cost, for ``costs`` [M, N] with M ≤ N.

    The Hungarian method by shortest augmenting paths (Jonker and Volgenant 1987).

    Raises:
        ValueError: there are more rows than columns.
    """
    rows, columns = costs.shape
    if rows > columns:
        raise ValueError(f"{rows} rows for {columns} columns")
    # Row and column 0 stand for none; `owner` of a column is the row that has it.
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.zeros(columns + 1, dtype=np.int64)
    for row in range(1, rows + 1):
        owner[0], column = row, 0
        least = np.full(columns + 1, np.inf)
        came_from = np.zeros(columns + 1, dtype=np.int64)
        done = np.zeros(columns + 1, dtype=bool)
        while owner[column] != 0:
            done[column] = True
            at = owner[column]
            reduced = costs[at - 1] - row_price[at] - column_price[1:]
            nearer = ~done[1:] & (reduced < least[1:])
            least[1:][nearer] = reduced[nearer]
            came_from[1:][nearer] = column
            following = 1 + int(np.argmin(np.where(done[1:], np.inf, least[1:])))
            step = least[following]
            row_price[owner[done]] += step
            column_price[done] -= step
            least[~done] -= step
            column = following
        while column != 0:
            owner[column] = owner[came_from[column]]
            column = int(came_from[column])
    found = [0] * rows
    for column in range(1, columns + 1):
        if owner[column]:
            found[owner[column] - 1] = column - 1
    return found


def _shares(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    return np.array([each.shares for each in candidates], dtype=np.float64)
