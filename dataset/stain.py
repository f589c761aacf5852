"""Stains in optical density: how much haematoxylin and DAB there is at each pixel.

Source: Ruifrok and Johnston, Quantification of histochemical staining by color deconvolution, 2001.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]

STAINS = ("haematoxylin", "dab")
_VECTORS = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776]])


def _deconvolution() -> NDArray[np.float64]:
    rows = _VECTORS / np.linalg.norm(_VECTORS, axis=1, keepdims=True)
    third = np.cross(rows[0], rows[1])
    return np.linalg.inv(np.stack([*rows, third / np.linalg.norm(third)]))


_FROM_DENSITY = _deconvolution()


def optical_density(image: NDArray[np.uint8]) -> Field:
    """uint8 RGB [H, W, 3] -> optical density, decadic, of each channel, float32 [H, W, 3]; 0 is white."""
    density: Field = -np.log10(np.maximum(image, 1).astype(np.float32) / 255.0)
    return density


def stain_densities(image: NDArray[np.uint8]) -> Field:
    """uint8 RGB [H, W, 3] -> densities of haematoxylin, DAB and what is neither, float32 [H, W, 3]."""
    return (optical_density(image) @ _FROM_DENSITY).astype(np.float32)


def box_mean(field: Field, radius: int) -> Field:
    """The mean of [H, W] or [H, W, F] over squares of 2·radius+1 pixels; beyond the edges the outermost repeat."""
    for axis in (0, 1):
        widths = [(0, 0)] * field.ndim
        widths[axis] = (radius + 1, radius)
        total = np.cumsum(np.pad(field.astype(np.float64), widths, mode="edge"), axis=axis)
        side = 2 * radius + 1
        sums = total[side:] - total[:-side] if axis == 0 else total[:, side:] - total[:, :-side]
        field = (sums / side).astype(np.float32)
    return field
