"""Reading label maps: the numbers or colours in mask files, and what class each of them is.

In grey files numbers are classes. In colour the same colour is the same class in all files of a run: programs order a
palette as they like, so its indices are taken as numbers only where all files agree on them.

Notation: H, W height and width in pixels, C classes. Classes count from 0 in the order of the class map; class 0 is
the one painted darkest in the structure image.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from model.errors import InputError
from patches.classes import MAX_CLASSES, ClassMap, hexadecimal, listing
from patches.decode import Picture, open_picture
from patches.rawfile import shown

__all__ = ["ClassMap", "LabelSet", "Mask", "check_same_size", "read_label_set", "read_mask"]

# Pillow spreads greys of 2 and 4 bits over 0..255; these steps undo it.
_STEP_OF_BITS = {2: 85, 4: 17}
_BLACK_AND_WHITE = (0, 255)
# Hardly a tissue has so many classes that nobody names; numbered nuclei soon do.
_MANY_CLASSES = 9
_INSTANCES = "if they number single nuclei or glands, give each pixel its class instead"


@dataclass(frozen=True)
class Mask:
    """One mask file. ``numbers`` [H, W] as stored, palette indices among them; None in colour alone.

    ``colours`` [H, W], 0xRRGGBB, where the file has any. ``palette`` holds the colours of all indices, for a palette
    file.
    """

    path: str
    numbers: NDArray[np.int64] | None
    colours: NDArray[np.int64] | None
    palette: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelSet:
    """Label maps read with one common class map. ``notes`` are remarks for the user on how they were understood."""

    maps: tuple[NDArray[np.int64], ...]
    classes: ClassMap
    notes: tuple[str, ...]


def read_label_set(paths: Sequence[str | os.PathLike[str]], classes: ClassMap | None) -> LabelSet:
    """Read the label maps of one run, in which the same number, or the same colour, is the same class.

    Without ``classes`` the numbers of all files together decide: exactly 0..C-1 are the classes themselves; 0 and 255
    alone are class 0 and class 1; for anything else ``--classes`` is asked for. Colours decide instead where a file has
    them alone or where palettes disagree: in the order of the first file's palette, then of their codes.

    Raises:
        InputError: as :func:`read_mask` and :meth:`ClassMap.classify`; ``classes`` is wanted; or numbers and colours
            are mixed.
    """
    masks = [read_mask(path) for path in paths]
    notes: tuple[str, ...] = ()
    if classes is None:
        by_colour = _colours_decide(masks)
        classes, notes = _infer_colours(masks) if by_colour else _infer(masks)
    elif not classes.colours and _colours_decide(masks):
        raise InputError(f"{_first_in_colour(masks)}; give colours, as in --classes {_example(_all_colours(masks))}")
    values = [_colours(mask) if classes.colours else _numbers(mask) for mask in masks]
    maps = tuple(classes.classify(item, mask.path) for item, mask in zip(values, masks, strict=True))
    return LabelSet(maps, classes, notes)


def _colours_decide(masks: Sequence[Mask]) -> bool:
    return any(mask.numbers is None for mask in masks) or _disagreement(masks) is not None


def _disagreement(masks: Sequence[Mask]) -> tuple[Mask, Mask] | None:
    """Two palette files in which an index in use is not the same colour."""
    files = [(mask, np.unique(mask.numbers).tolist()) for mask in masks if mask.palette and mask.numbers is not None]
    for mask, used in files:
        for other, others in files:
            theirs = {other.palette[index] for index in others}
            for index in used:
                there = other.palette[index] if index < len(other.palette) else None
                if there != mask.palette[index] and (index in others or mask.palette[index] in theirs):
                    return mask, other
    return None


def _first_in_colour(masks: Sequence[Mask]) -> str:
    pair = _disagreement(masks)
    if pair is not None:
        return f"{pair[0].path} and {pair[1].path}: their palettes give one number different colours"
    return f"{next(mask.path for mask in masks if mask.numbers is None)}: a label map in colour, without numbers"


def _example(colours: Sequence[int]) -> str:
    return ",".join(f"name{index}={hexadecimal(colour)}" for index, colour in enumerate(colours[:MAX_CLASSES]))


def _all_colours(masks: Sequence[Mask]) -> list[int]:
    """Every colour in use: in the order of the first file's palette, the others by their codes."""
    first = masks[0]
    order: list[int] = []
    if first.palette and first.numbers is not None:
        order = [first.palette[index] for index in np.unique(first.numbers).tolist()]
    used = {colour for mask in masks if mask.colours is not None for colour in np.unique(mask.colours).tolist()}
    return list(dict.fromkeys([*order, *sorted(used)]))


def _infer_colours(masks: Sequence[Mask]) -> tuple[ClassMap, tuple[str, ...]]:
    for mask in masks:
        if mask.colours is None:
            raise InputError(
                f"{mask.path}: in grey, while {_first_in_colour(masks)}; "
                "save all in one way, or give colours with --classes"
            )
        if mask.palette and mask.numbers is not None:
            used = [mask.palette[index] for index in np.unique(mask.numbers).tolist()]
            twice = [colour for colour, count in Counter(used).items() if count > 1]
            if twice:
                raise InputError(
                    f"{mask.path}: two labels have the colour {hexadecimal(twice[0])}, and palettes of this run "
                    "differ; give each class a colour of its own, or save all with one palette"
                )
        colours, counts = np.unique(mask.colours, return_counts=True)
        if len(colours) > MAX_CLASSES:
            most = counts.argsort()[::-1][:4]
            shares = ", ".join(f"{hexadecimal(int(colours[i]))} {100 * counts[i] / counts.sum():.1f} %" for i in most)
            raise InputError(
                f"{mask.path}: {len(colours)} different colours ({shares}, …), which is a picture or has soft edges; "
                "give one colour per class, drawn without anti-aliasing"
            )
    order = _all_colours(masks)
    if len(order) > MAX_CLASSES:
        raise InputError(f"{masks[0].path} and others: {len(order)} different colours; give at most {MAX_CLASSES}")
    listed = ", ".join(f"class {index} {hexadecimal(colour)}" for index, colour in enumerate(order))
    note = f"label maps in colour: {listed}; --classes {_example(order)} names them, in another order if need be"
    return ClassMap.of_values(order, colours=True), (note,)


def _infer(masks: Sequence[Mask]) -> tuple[ClassMap, tuple[str, ...]]:
    found = [np.unique(_numbers(mask)).tolist() for mask in masks]
    union = sorted({value for values in found for value in values})
    if len(union) <= MAX_CLASSES and union == list(range(len(union))):
        notes = []
        if len(union) == 1:
            notes.append("every label map holds the label 0 alone: there is one class only; is a mask empty?")
        if len(union) >= _MANY_CLASSES:
            notes.append(f"{len(union)} classes were read, 0 to {len(union) - 1}; {_INSTANCES}")
        return ClassMap.of_values(union), tuple(notes)
    if set(union) <= set(_BLACK_AND_WHITE):
        note = "label maps of 0 and 255: 0 is taken as class 0, 255 as class 1; --classes NAME=VALUE,… says otherwise"
        return ClassMap.of_values(_BLACK_AND_WHITE), (note,)
    most = max(range(len(found)), key=lambda index: len(found[index]))
    if len(union) > MAX_CLASSES:
        raise InputError(
            f"{masks[most].path}: {len(found[most])} different values, which is a picture rather than a label map, or "
            f"numbers each nucleus; give one whole number per class, with hard edges"
        )
    files = "; ".join(f"{mask.path} holds {listing(values)}" for mask, values in zip(masks, found, strict=True))
    example = ",".join(f"name{index}={value}" for index, value in enumerate(union))
    hint = f" ({_INSTANCES})" if len(union) >= _MANY_CLASSES else ""
    raise InputError(f"{files}: not numbered 0..C-1{hint}; say what they mean, in order, with --classes {example}")


def _numbers(mask: Mask) -> NDArray[np.int64]:
    if mask.numbers is None:
        raise InputError(f"{mask.path}: a label map in colour, without numbers; give colours with --classes")
    return mask.numbers


def _colours(mask: Mask) -> NDArray[np.int64]:
    if mask.colours is not None:
        return mask.colours
    numbers = _numbers(mask)
    if int(numbers.min()) < 0 or int(numbers.max()) > 255:
        raise InputError(f"{mask.path}: holds greys that are no colours of 8 bits; give numbers with --classes")
    return numbers * 0x010101


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """Read a label map as the file stores it.

    Taken are grey images of 1 to 32 bits, palette images and RGB images; three equal channels count as grey. An
    orientation tag is applied, as for images.

    Raises:
        InputError: as :func:`patches.decode.open_picture`; or the file is a JPEG (which blurs labels), partly
            transparent, of floating-point numbers, in colour with 16 bits, or stores its greys inverted.
    """
    name = shown(path)
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise InputError(f"{name}: JPEG alters the labels at every border; save the label map as PNG or TIFF")
    if picture.white_is_zero:
        raise InputError(f"{name}: a TIFF with inverted greys (WhiteIsZero); save it with BlackIsZero, or as PNG")
    mode = picture.image.mode
    if mode == "P":
        return _from_palette(name, picture.image)
    if mode in ("1", "L", "I") or mode.startswith("I;16"):
        return Mask(name, _whole(picture), None)
    if mode in ("LA", "PA", "RGB", "RGBA"):
        return _from_channels(name, picture)
    raise InputError(f"{name}: a label map wants whole numbers in one channel; save it as 8- or 16-bit grey PNG")


def _whole(picture: Picture) -> NDArray[np.int64]:
    values = np.asarray(picture.image).astype(np.int64)
    if picture.image.mode.startswith("I;16") and picture.signed:
        return np.where(values >= 2**15, values - 2**16, values)
    if picture.image.mode == "I" and not picture.signed:
        return values & 0xFFFFFFFF
    step = _STEP_OF_BITS.get(picture.bits, 1) if picture.image.mode == "L" else 1
    return values // step


def _from_palette(name: str, image: Image.Image) -> Mask:
    numbers = np.asarray(image).astype(np.int64)
    channels = np.asarray(image.getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3)
    palette = _packed(channels)
    return Mask(name, numbers, palette[numbers], tuple(palette.tolist()))


def _packed(rgb: NDArray[np.int64]) -> NDArray[np.int64]:
    """[..., 3] -> 0xRRGGBB [...]."""
    packed: NDArray[np.int64] = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    return packed


def _from_channels(name: str, picture: Picture) -> Mask:
    if picture.bits == 16:
        # Pillow keeps eight bits of each, which would merge labels.
        raise InputError(f"{name}: 16-bit label maps are read in grey alone; save it as 16-bit grey without alpha")
    image = picture.image
    bands: list[Image.Image] = list(image.split())
    arrays: list[NDArray[Any]] = [np.asarray(band) for band in bands]
    if image.mode in ("LA", "PA", "RGBA"):
        alpha = arrays.pop()
        if (alpha != 255).any():
            raise InputError(f"{name}: has transparent pixels, whose label is unclear; paint them and drop the alpha")
    if image.mode == "PA":
        indices = Image.fromarray(arrays[0])
        indices.putpalette(image.getpalette("RGB") or [])
        return _from_palette(name, indices)
    numbers = arrays[0].astype(np.int64)
    if image.mode == "LA":
        return Mask(name, numbers, None)
    colours = _packed(np.stack(arrays, axis=-1).astype(np.int64))
    equal = all((array == arrays[0]).all() for array in arrays[1:])
    return Mask(name, numbers if equal else None, colours)


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
