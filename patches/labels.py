"""Reading label maps: the numbers in a mask file, and what class each of them is.

Notation: H, W height and width in pixels, C classes. Classes count from 0 in the order of the class map; class 0 is
the one painted darkest in the structure image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import InputError
from patches.decode import Picture, open_picture

MAX_CLASSES = 32

# Pillow spreads greys of 2 and 4 bits over 0..255; these steps undo it.
_STEP_OF_BITS = {2: 85, 4: 17}
_BLACK_AND_WHITE = (0, 255)


@dataclass(frozen=True)
class ClassMap:
    """The classes in order: the number ``values[c]`` stands for class ``c`` in the files, and ``names[c]`` names it."""

    names: tuple[str, ...]
    values: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.values) <= MAX_CLASSES:
            raise InputError(f"--classes: {len(self.values)} classes; give 1 to {MAX_CLASSES}")
        if len(self.names) != len(self.values):
            raise ValueError(f"{len(self.names)} names for {len(self.values)} values")
        for what, items in (("value", self.values), ("name", self.names)):
            twice = [str(item) for item in items if items.count(item) > 1]
            if twice:
                raise InputError(f"--classes: the {what} {twice[0]} is there twice; give each class its own")

    @classmethod
    def of_values(cls, values: Sequence[int]) -> ClassMap:
        """Classes with no names of their own: ``class 0``, ``class 1``, …"""
        return cls(tuple(f"class {index}" for index in range(len(values))), tuple(values))

    @classmethod
    def parse(cls, text: str) -> ClassMap:
        """Read ``epithelium=0,stroma=255``; a name alone has its position as value, a number alone has no name.

        Raises:
            InputError: a part is empty, a value is no whole number, or a name or value is there twice.
        """
        names, values = [], []
        for index, part in enumerate(text.split(",")):
            name, equals, number = part.rpartition("=")
            if not equals and _is_integer(part.strip()):
                name = f"class {index}"
            elif not equals:
                name, number = part, str(index)
            name, number = name.strip(), number.strip()
            if not name or not _is_integer(number):
                raise InputError(f"--classes {text!r}: cannot read {part!r}; write it like epithelium=0,stroma=255")
            names.append(name)
            values.append(int(number))
        return cls(tuple(names), tuple(values))

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        """As :meth:`parse` reads it."""
        return ",".join(f"{name}={value}" for name, value in zip(self.names, self.values, strict=True))

    def classify(self, values: NDArray[np.int64], path: str | os.PathLike[str]) -> NDArray[np.int64]:
        """Turn the numbers of a file, [H, W], into classes 0..C-1, [H, W].

        Raises:
            InputError: a number stands for no class. ``path`` names the file in the message.
        """
        order = np.argsort(self.values).astype(np.int64)
        ascending = np.asarray(self.values, dtype=np.int64)[order]
        position = np.searchsorted(ascending, values).clip(max=len(self) - 1)
        unknown = values[ascending[position] != values]
        if unknown.size:
            percent = 100 * unknown.size / values.size
            raise InputError(
                f"{path}: the label {_listing(np.unique(unknown).tolist())} ({percent:.2g} % of the pixels) has no "
                f"class in --classes {self}; add it there or repaint these pixels"
            )
        classes: NDArray[np.int64] = order[position]
        return classes


@dataclass(frozen=True)
class LabelSet:
    """Label maps read with one common class map. ``notes`` are remarks for the user on how they were understood."""

    maps: tuple[NDArray[np.int64], ...]
    classes: ClassMap
    notes: tuple[str, ...]


def read_labels(path: str | os.PathLike[str], classes: ClassMap) -> NDArray[np.int64]:
    """Read one label map as classes 0..C-1, [H, W].

    Raises:
        InputError: as :func:`read_values` and :meth:`ClassMap.classify`.
    """
    return classes.classify(read_values(path), path)


def read_label_set(paths: Sequence[str | os.PathLike[str]], classes: ClassMap | None) -> LabelSet:
    """Read the label maps of one run, which must mean the same by the same number.

    Without ``classes`` the numbers of all files together decide: exactly 0..C-1 are the classes themselves; 0 and 255
    alone are class 0 and class 1; for anything else ``--classes`` is asked for.

    Raises:
        InputError: as :func:`read_values` and :meth:`ClassMap.classify`, or ``classes`` is wanted.
    """
    values = [read_values(path) for path in paths]
    notes: tuple[str, ...] = ()
    if classes is None:
        found = [np.unique(item).tolist() for item in values]
        classes, notes = _infer(paths, found)
    maps = tuple(classes.classify(item, path) for item, path in zip(values, paths, strict=True))
    return LabelSet(maps, classes, notes)


def _infer(paths: Sequence[str | os.PathLike[str]], found: Sequence[list[int]]) -> tuple[ClassMap, tuple[str, ...]]:
    union = sorted({value for values in found for value in values})
    if len(union) <= MAX_CLASSES and union == list(range(len(union))):
        note = "every label map holds the label 0 alone: there is one class only; is a mask empty?"
        return ClassMap.of_values(union), (note,) if len(union) == 1 else ()
    if set(union) <= set(_BLACK_AND_WHITE):
        note = "label maps of 0 and 255: 0 is taken as class 0, 255 as class 1; --classes NAME=VALUE,… says otherwise"
        return ClassMap.of_values(_BLACK_AND_WHITE), (note,)
    if len(union) > MAX_CLASSES:
        most = max(range(len(found)), key=lambda index: len(found[index]))
        raise InputError(
            f"{paths[most]}: {len(found[most])} different values, which is a picture rather than a label map; "
            "give one whole number per class, with hard edges"
        )
    files = "; ".join(f"{path} holds {_listing(values)}" for path, values in zip(paths, found, strict=True))
    example = ",".join(f"name{index}={value}" for index, value in enumerate(union))
    raise InputError(f"{files}: not numbered 0..C-1; say what they mean, in order, with --classes {example}")


def read_values(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Read the numbers of a label map as the file stores them, [H, W].

    Taken are grey images of 1 to 32 bits, palette images (the indices, whatever their colours) and RGB images whose
    three channels are equal. An orientation tag is applied, as for images.

    Raises:
        InputError: as :func:`patches.decode.open_picture`; or the file is a JPEG (which blurs labels), in colour,
            partly transparent, of floating-point numbers, or stores its greys inverted.
    """
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise InputError(f"{path}: JPEG alters the labels at every border; save the label map as PNG or TIFF")
    if picture.white_is_zero:
        raise InputError(f"{path}: a TIFF with inverted greys (WhiteIsZero); save it with BlackIsZero, or as PNG")
    mode = picture.image.mode
    if mode == "P":
        return np.asarray(picture.image).astype(np.int64)
    if mode in ("1", "L", "I") or mode.startswith("I;16"):
        return np.asarray(picture.image).astype(np.int64) // _step(picture)
    if mode in ("LA", "PA", "RGB", "RGBA"):
        return _from_channels(path, picture)
    raise InputError(f"{path}: a label map wants whole numbers in one channel; save it as 8- or 16-bit grey PNG")


def _step(picture: Picture) -> int:
    return _STEP_OF_BITS.get(picture.bits, 1) if picture.image.mode == "L" else 1


def _from_channels(path: str | os.PathLike[str], picture: Picture) -> NDArray[np.int64]:
    if picture.bits == 16:
        # Pillow keeps eight bits of each, which would merge labels.
        raise InputError(f"{path}: 16-bit label maps are read in grey alone; save it as 16-bit grey without alpha")
    bands: list[Image.Image] = list(picture.image.split())
    arrays: list[NDArray[Any]] = [np.asarray(band) for band in bands]
    if picture.image.mode in ("LA", "PA", "RGBA"):
        alpha = arrays.pop()
        if (alpha != 255).any():
            raise InputError(f"{path}: has transparent pixels, whose label is unclear; paint them and drop the alpha")
    if any((array != arrays[0]).any() for array in arrays[1:]):
        raise InputError(
            f"{path}: a colour picture; a label map holds one number per pixel: save it as grey or with a palette"
        )
    return arrays[0].astype(np.int64)


def check_same_size(
    labels: NDArray[np.int64],
    labels_path: str | os.PathLike[str],
    image: NDArray[np.uint8],
    image_path: str | os.PathLike[str],
) -> None:
    """Check that a mask covers its image pixel for pixel.

    Raises:
        InputError: they differ in height or width.
    """
    if labels.shape[:2] != image.shape[:2]:
        sizes = [f"{array.shape[1]}×{array.shape[0]} px" for array in (labels, image)]
        raise InputError(
            f"{labels_path}: {sizes[0]}, but its image {image_path} has {sizes[1]}; give the mask of this very image"
        )


def _is_integer(text: str) -> bool:
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit()


def _listing(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return shown if len(values) <= 8 else f"{shown}, … ({len(values)} values)"
