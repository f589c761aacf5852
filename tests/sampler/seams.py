"""Are there seams? Differences across the borders of windows against those inside of windows, over many fields."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from sampler.latent_windows import Layout


def seam_auc(fields: Iterable[NDArray[np.floating]], layout: Layout, factor: int) -> float:
    """How often a line across a border of windows has larger differences than one inside: 0.5 if there are no seams.

    ``fields`` are [H, W, C] of ``factor`` pixels for each latent position. A line lies between two rows or columns; its
    difference is the mean over it. Lines inside are, as borders, between
    two latent positions, at least two of these away from any border and the field's edge.
    """
    at_borders: list[float] = []
    inside: list[float] = []
    for field in fields:
        for axis in (0, 1):
            lines = np.moveaxis(field.astype(np.float64), axis, 0)
            steps = np.abs(np.diff(lines, axis=0)).mean(axis=(1, 2))  # between lines k and k + 1
            side = len(lines) // factor
            edges = {window[axis] for window in layout.windows} | {w[axis] + w[axis + 2] for w in layout.windows}
            edges -= {0, side}
            for position in range(2, side - 1):
                value = steps[factor * position - 1]
                if position in edges:
                    at_borders.append(value)
                elif min(abs(position - edge) for edge in edges) > 1:
                    inside.append(value)
    borders, others = np.array(at_borders), np.array(inside)
    greater = (borders[:, None] > others).mean() + 0.5 * (borders[:, None] == others).mean()
    return float(greater)
