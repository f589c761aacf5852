"""What a label map looks like in a few numbers: how much of each class there is, and in which shapes.

Notation: H, W height and width in pixels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RADII = (1, 2, 4, 8, 16, 32, 64)
"""Pixels: how far from the nearest pixel of another label the thickness of a class is asked for."""


@dataclass(frozen=True)
class ShapeDescriptor:
    """Of one label map, its ignored pixels left out.

    ``fractions`` [C] of the pixels of all classes; ``boundary`` [C], sides of pixels towards other labels for each
    pixel of the class; ``thickness`` [C, len(RADII)], the share of the class that lies farther than each radius from
    any other label (chessboard distance). Of a class that is not there, the last two are 0.
    """

    fractions: NDArray[np.float64]
    boundary: NDArray[np.float64]
    thickness: NDArray[np.float64]


def describe(labels: NDArray[np.int64], num_classes: int) -> ShapeDescriptor:
    """The descriptor of a label map [H, W] of 0..C-1, and C for ignored pixels."""
    counts = np.bincount(labels.ravel(), minlength=num_classes + 1)[:num_classes]
    fractions = counts / max(1, counts.sum())
    boundary, thickness = np.zeros(num_classes), np.zeros((num_classes, len(RADII)))
    for c in np.flatnonzero(counts):
        inside = labels == c
        sides = (inside[1:] != inside[:-1]).sum() + (inside[:, 1:] != inside[:, :-1]).sum()
        boundary[c] = sides / counts[c]
        reached = 0
        for index, radius in enumerate(RADII):
            inside = _eroded(inside, radius - reached)
            reached = radius
            thickness[c, index] = inside.sum() / counts[c]
    return ShapeDescriptor(fractions, boundary, thickness)


def fraction_distance(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Half the sum of absolute differences of fractions [..., C] (total variation), from 0 to 1, [...]."""
    distance: NDArray[np.float64] = 0.5 * np.abs(one - other).sum(axis=-1)
    return distance


def shape_distance(one: ShapeDescriptor, other: ShapeDescriptor) -> float:
    """From 0 to 1: the mean over the classes of either map of two parts in equal shares.

    They are the difference of boundaries over their sum, and the mean difference of the thickness.
    """
    present = (one.fractions > 0) | (other.fractions > 0)
    total = np.maximum(one.boundary + other.boundary, 1e-12)
    boundary = np.abs(one.boundary - other.boundary) / total
    thickness = np.abs(one.thickness - other.thickness).mean(axis=1)
    return float((0.5 * boundary + 0.5 * thickness)[present].mean()) if present.any() else 0.0


def _eroded(inside: NDArray[np.bool_], radius: int) -> NDArray[np.bool_]:
    """What is left of [H, W] where all pixels within ``radius`` rows and columns are inside. Beyond the edge all is."""
    for axis in (0, 1):
        reached, reach = inside, 0
        # Twice the window with each step: the window of 2r+1 is the meet of shifted smaller ones.
        while reach < radius:
            step = min(max(1, reach), radius - reach) if reach else 1
            reached = _shifted(reached, step, axis) & reached & _shifted(reached, -step, axis)
            reach += step
        inside = reached
    return inside


def _shifted(inside: NDArray[np.bool_], step: int, axis: int) -> NDArray[np.bool_]:
    result = np.ones_like(inside)
    length = inside.shape[axis]
    if abs(step) < length:
        source, target = [slice(None)] * 2, [slice(None)] * 2
        source[axis] = slice(step, None) if step > 0 else slice(None, step)
        target[axis] = slice(None, -step) if step > 0 else slice(-step, None)
        result[tuple(target)] = inside[tuple(source)]
    return result
