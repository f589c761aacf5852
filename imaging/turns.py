"""The eight turns and flips of a square, of images and label maps alike."""

from __future__ import annotations

from typing import Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

Dihedral = Literal[
    "identity", "rotate90", "rotate180", "rotate270", "flip", "flip_rotate90", "flip_rotate180", "flip_rotate270"
]
DIHEDRAL: tuple[Dihedral, ...] = get_args(Dihedral)
KEEP_SIZE = ("identity", "rotate180", "flip", "flip_rotate180")
"""Elements that a map which is not square keeps its size under; others are not used on it."""

Number = TypeVar("Number", bound=np.generic)


def turn(array: NDArray[Number], element: str) -> NDArray[Number]:
    """[H, W] or [H, W, 3] under an element of the dihedral group: flipped left to right or not, then turned left."""
    flipped = array[:, ::-1] if element.startswith("flip") else array
    quarters = int("".join(filter(str.isdigit, element)) or 0) // 90
    return np.ascontiguousarray(np.rot90(flipped, quarters, axes=(0, 1)))
