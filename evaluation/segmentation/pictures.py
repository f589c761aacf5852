"""Predictions to look at.

Notation: H, W height and width in pixels, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from imaging.panel import paint

STRENGTH = 0.45
GAP = 8
RED, UNCHANGED = (255, 0, 0), 0.35


def overlay(
    image: NDArray[np.uint8], annotations: Sequence[NDArray[np.int64]], predicted: NDArray[np.int64], num_classes: int
) -> NDArray[np.uint8]:
    """Side by side, uint8 [H, ·, 3]: the image; it in the colours of each annotator's classes; of the prediction's.

    At last the image with all pixels in red where the prediction is not what the first annotator says.
    """
    tiles = [image, *(_tinted(image, labels, num_classes) for labels in (*annotations, predicted))]
    wrong = (annotations[0] != predicted) & (annotations[0] < num_classes)
    tiles.append(np.where(wrong[..., None], np.array(RED, dtype=np.uint8), _faded(image)))
    gap = np.full((image.shape[0], GAP, 3), 255, dtype=np.uint8)
    return np.concatenate([part for tile in tiles for part in (gap, tile)][1:], axis=1)


def _tinted(image: NDArray[np.uint8], labels: NDArray[np.int64], num_classes: int) -> NDArray[np.uint8]:
    mixed = (1 - STRENGTH) * image + STRENGTH * paint(labels, num_classes)
    return np.where((labels < num_classes)[..., None], mixed, image).round().astype(np.uint8)


def _faded(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return (255 - UNCHANGED * (255 - image.astype(np.float32))).round().astype(np.uint8)
