"""Fields of view larger than a window: overlapping windows whose predictions fade into each other.

Notation: H, W height and width in pixels, S side of a window, C classes.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from evaluation.segmentation.data import reflected
from evaluation.segmentation.network import prepared, probabilities


def starts(length: int, size: int, overlap: float) -> list[int]:
    """Where windows begin along an axis: evenly spaced, at least ``overlap`` of a window shared, all of it covered.

    An axis shorter than a window has one, with the axis in its middle, so that it may begin below 0.
    """
    if length <= size:
        return [-((size - length) // 2)]
    stride = max(1, int(size * (1 - overlap)))
    count = -(-(length - size) // stride) + 1
    return [round(place * (length - size) / (count - 1)) for place in range(count)]


def weights(size: int) -> torch.Tensor:
    """How much each pixel of a window counts, [S, S]: most in its middle, little at its border, nowhere 0."""
    ramp = torch.arange(1, size + 1, dtype=torch.float32)
    one = torch.minimum(ramp, ramp.flip(0)) / (size // 2)
    return one[:, None] * one[None, :]


def predict(
    network: torch.nn.Module,
    image: NDArray[np.uint8],
    num_classes: int,
    size: int,
    *,
    overlap: float = 0.5,
    batch_size: int = 8,
) -> NDArray[np.int64]:
    """The class of each pixel of ``image`` [H, W, 3], as [H, W].

    Beyond the image windows see its reflection. ``network`` is in evaluation mode, on any device.
    """
    height, width = image.shape[:2]
    device = next(network.parameters()).device
    corners = list(product(starts(height, size, overlap), starts(width, size, overlap)))
    weight = weights(size)
    total = torch.zeros(num_classes, height, width)
    for first in range(0, len(corners), batch_size):
        some = corners[first : first + batch_size]
        cut = np.stack([_window(image, corner, size) for corner in some])
        batch = torch.from_numpy(cut).permute(0, 3, 1, 2).to(device)  # [B, 3, S, S]
        with torch.inference_mode():
            seen = probabilities(network(prepared(batch))).cpu() * weight  # [B, C, S, S]
        for (top, left), one in zip(some, seen, strict=True):
            rows = slice(max(top, 0), min(top + size, height))
            columns = slice(max(left, 0), min(left + size, width))
            inside = (slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left))
            total[:, rows, columns] += one[:, *inside]
    labels: NDArray[np.int64] = total.argmax(dim=0).numpy()
    return labels


def _window(image: NDArray[np.uint8], corner: tuple[int, int], size: int) -> NDArray[np.uint8]:
    rows, columns = (reflected(start, size, length) for start, length in zip(corner, image.shape[:2], strict=True))
    return image[np.ix_(rows, columns)]
