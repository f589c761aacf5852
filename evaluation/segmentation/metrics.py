"""How well two label maps of one field of view agree: Dice and IoU of each class.

Notation: H, W height and width in pixels, C classes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Of one class: None where neither map has it. ``pixels`` of the first map are of this class."""

    dice: float | None
    iou: float | None
    pixels: int


@dataclass(frozen=True)
class FieldScore:
    """Dice and IoU of one class in one field of view: of a model, or another annotator, against ``annotator``.

    ``sample`` and ``group`` name the field, and the patient or slide that it belongs to. Dice and IoU are None where
    neither has the class; ``pixels`` of the annotator's are of this class. ``against`` is the other annotator's name,
    empty for a model.
    """

    sample: str
    group: str
    annotator: str
    class_name: str
    dice: float | None
    iou: float | None
    pixels: int
    against: str = ""


def agreement(truth: NDArray[np.int64], other: NDArray[np.int64], num_classes: int) -> list[Agreement]:
    """Of each class; maps [H, W] of 0..C-1, C for pixels without label, which are left out where either map has one.

    Dice is 2·|A∩B| / (|A| + |B|), IoU |A∩B| / |A∪B|.
    """
    if truth.shape != other.shape:
        raise ValueError(f"label maps of {list(truth.shape)} and {list(other.shape)}")
    labelled = (truth < num_classes) & (other < num_classes)
    pairs = truth[labelled] * num_classes + other[labelled]
    counts = np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)
    both, first, second = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    result = []
    for common, mine, theirs in zip(both.tolist(), first.tolist(), second.tolist(), strict=True):
        if mine + theirs == 0:
            result.append(Agreement(None, None, 0))
        else:
            result.append(Agreement(2 * common / (mine + theirs), common / (mine + theirs - common), mine))
    return result
