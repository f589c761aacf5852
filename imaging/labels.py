"""Reading label maps: the numbers or colours in mask files, and what class each of them is.

In grey files numbers are classes. In colour the same colour is the same class in all files of a run: programs order a
palette as they like, so its indices are taken as numbers only where all files agree on them.

Notation: H, W height and width in pixels, C classes. Classes count from 0 in the order of the class map; class 0 is
the one painted darkest in the structure image.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.classes import MAX_CLASSES, ClassMap, hexadecimal, listing
from imaging.errors import InputError
from imaging.maskfile import Mask, read_mask, transparent_pixels
from imaging.rawfile import shown

__all__ = ["ClassMap", "LabelSet", "check_same_size", "decide_classes", "label_map", "read_label_set"]

_BLACK_AND_WHITE = (0, 255)
# Tissues are seldom told apart in so many classes without names; numbered nuclei soon are as many.
_MANY_CLASSES = 9
_INSTANCES = "if these number single nuclei or glands, give each pixel its class instead"


@dataclass(frozen=True)
class LabelSet:
    """Label maps [H, W] of classes 0..C-1, the class map that they share, and what the user should be told."""

    maps: tuple[NDArray[np.int64], ...]
    classes: ClassMap
    notes: tuple[str, ...]


def read_label_set(paths: Sequence[str | os.PathLike[str]], classes: ClassMap | None) -> LabelSet:
    """Read the label maps of one run, in which the same number, or the same colour, is the same class.

    Without ``classes`` the numbers of all files together decide: exactly 0..C-1 are the classes themselves; 0 and 255
    alone are class 0 and class 1; for anything else ``classes`` is asked for. Colours decide instead where a file
    has them alone or where palettes disagree: in the order of the first file's palette, then of their codes #RRGGBB.

    Raises:
        InputError: as :func:`imaging.maskfile.read_mask` and :meth:`ClassMap.classify`; ``classes`` is wanted, or
            wanted by colour; some files are grey and some in colour; two labels of a file have one colour where
            colours decide; or there are more than 32 values or colours.
    """
    masks = [read_mask(path) for path in paths]
    classes, notes = decide_classes(masks, classes)
    return LabelSet(tuple(label_map(mask, classes) for mask in masks), classes, notes)


def decide_classes(masks: Sequence[Mask], classes: ClassMap | None) -> tuple[ClassMap, tuple[str, ...]]:
    """The class map that ``masks``, or their summaries, share, and notes; raises as :func:`read_label_set`."""
    by_colour = any(mask.numbers is None for mask in masks) or _disagreement(masks) is not None
    notes: tuple[str, ...] = ()
    if classes is None:
        classes, notes = _infer_colours(masks) if by_colour else _infer(masks)
    elif by_colour and not classes.colours:
        _check_few_colours(masks)
        raise InputError(f"{_why_by_colour(masks)}; give colours, as in `classes` {_example(_all_colours(masks))}")
    return classes, notes


def label_map(mask: Mask, classes: ClassMap) -> NDArray[np.int64]:
    """The classes [H, W] of a mask's pixels; C for those ignored. Raises InputError for a number or colour of none."""
    return classes.classify(_colours(mask) if classes.colours else _numbers(mask), mask.path)


def _disagreement(masks: Sequence[Mask]) -> tuple[Mask, Mask] | None:
    """Two palette files of which one shows an index, or has a colour, in use in the other elsewhere."""
    kinds = {(mask.palette, tuple(mask.used_numbers)): mask for mask in reversed(masks) if mask.palette}
    files = list(reversed(kinds.values()))
    for mask in files:
        for other in files:
            theirs = {other.palette[index] for index in other.used_numbers}
            for index in mask.used_numbers:
                colour = mask.palette[index]
                there = other.palette[index] if index < len(other.palette) else None
                # What stands in a palette for an index that no pixel has is often left over.
                if there != colour and (index in other.used_numbers or colour in theirs):
                    return mask, other
    return None


def _why_by_colour(masks: Sequence[Mask]) -> str:
    in_colour = [mask for mask in masks if mask.numbers is None]
    if in_colour:
        return f"{in_colour[0].path}: a label map in colour, without numbers"
    pair = _disagreement(masks)
    assert pair is not None
    return f"{pair[0].path} and {pair[1].path}: their palettes number the colours differently"


def _example(colours: Sequence[int]) -> str:
    return ",".join(f"name{index}={hexadecimal(colour)}" for index, colour in enumerate(colours[:MAX_CLASSES]))


def _all_colours(masks: Sequence[Mask]) -> list[int]:
    """Every colour in use: in the order of the first file's palette, the others by their codes."""
    first = masks[0]
    order = [first.palette[index] for index in first.used_numbers] if first.palette else []
    return list(dict.fromkeys([*order, *sorted({colour for mask in masks for colour in mask.used_colours})]))


def _infer_colours(masks: Sequence[Mask]) -> tuple[ClassMap, tuple[str, ...]]:
    for mask in masks:
        if mask.colours is None:
            in_colour = next(other.path for other in masks if other.numbers is None or other.palette)
            raise InputError(
                f"{mask.path}: grey, while {in_colour} is in colour, so which labels are the same class is unclear; "
                "save all label maps in one way, or give colours (also for greys) with `classes` NAME=#RRGGBB,…"
            )
    _check_few_colours(masks)
    order = _all_colours(masks)
    if len(order) > MAX_CLASSES:
        raise InputError(
            f"{masks[0].path} and the other label maps: {len(order)} different colours; give at most {MAX_CLASSES}, "
            "each class the same colour in all files"
        )
    listed = ", ".join(f"class {index} is {hexadecimal(colour)}" for index, colour in enumerate(order))
    why = "label maps in colour" if any(mask.numbers is None for mask in masks) else _why_by_colour(masks)
    note = f"{why}: the same colour is the same class, {listed}; `classes` {_example(order)} names or reorders them"
    return ClassMap.of_values(order, colours=True), (note, *_doubts(len(order), colours=True))


def _check_few_colours(masks: Sequence[Mask]) -> None:
    for mask in masks:
        ranking = sorted(mask.used_colours.items(), key=lambda item: -item[1])
        if len(ranking) > MAX_CLASSES:
            pixels = sum(mask.used_colours.values())
            shares = ", ".join(f"{hexadecimal(colour)} {100 * count / pixels:.1f} %" for colour, count in ranking[:4])
            raise InputError(
                f"{mask.path}: {len(ranking)} different colours (most often {shares}): a picture, soft edges, or a "
                "colour for each nucleus; give one colour per class, drawn without smoothing (anti-aliasing)"
            )


def _infer(masks: Sequence[Mask]) -> tuple[ClassMap, tuple[str, ...]]:
    union = sorted({value for mask in masks for value in mask.used_numbers})
    example = ",".join(f"name{index}={value}" for index, value in enumerate(union[:MAX_CLASSES]))
    if len(union) > MAX_CLASSES:
        most = max(masks, key=lambda mask: len(mask.used_numbers))
        others = "" if len(union) == len(most.used_numbers) else f" ({len(union)} with the other label maps)"
        raise InputError(
            f"{most.path}: {len(most.used_numbers)} different values{others}, which is a picture rather than a label "
            "map, or numbers single nuclei or glands; give one whole number per class, with hard edges"
        )
    grey = [mask.path for mask in masks if not mask.palette]
    for mask in masks:
        # A palette that shows each number as the grey of that number says what grey files say.
        if grey and any(mask.palette[index] != index * 0x010101 for index in mask.used_numbers if mask.palette):
            raise InputError(
                f"{mask.path}: has a palette, while {grey[0]} is grey; save all label maps in one way, or "
                "give colours (also for greys) with `classes` NAME=#RRGGBB,…, or, if the palette's indices are the "
                f"numbers meant, `classes` {example}"
            )
    if union == list(range(len(union))):
        return ClassMap.of_values(union), _doubts(len(union))
    if set(union) <= set(_BLACK_AND_WHITE):
        note = "label maps of 0 and 255: 0 is taken as class 0, 255 as class 1; `classes` NAME=VALUE,… says otherwise"
        return ClassMap.of_values(_BLACK_AND_WHITE), (note,)
    files = "; ".join(f"{mask.path} holds {listing(mask.used_numbers)}" for mask in masks)
    hint = f" ({_INSTANCES})" if len(union) >= _MANY_CLASSES else ""
    raise InputError(f"{files}: not numbered 0..C-1{hint}; say what they mean, in order, with `classes` {example}")


def _doubts(classes: int, colours: bool = False) -> tuple[str, ...]:
    """A note where the number of classes read, none of them named by the user, suggests a mistake."""
    if classes == 1:
        return ("every label map holds one and the same label: there is one class only; is a mask empty?",)
    if classes < _MANY_CLASSES:
        return ()
    soft = "if some are but soft edges, draw without smoothing (anti-aliasing); " if colours else ""
    return (f"{classes} classes were read, none of them named; {soft}{_INSTANCES}",)


def _numbers(mask: Mask) -> NDArray[np.int64]:
    if mask.numbers is None:
        raise InputError(f"{mask.path}: a label map in colour, without numbers; give colours with `classes`")
    return mask.numbers


def _colours(mask: Mask) -> NDArray[np.int64]:
    if mask.transparent:
        raise transparent_pixels(mask.path)
    if mask.colours is not None:
        shown_as = [mask.palette[index] for index in mask.used_numbers if mask.palette]
        twice = [colour for colour in shown_as if shown_as.count(colour) > 1]
        if twice:
            raise InputError(
                f"{mask.path}: two labels have the colour {hexadecimal(twice[0])}, and colours tell the "
                "classes; give each class a colour of its own"
            )
        return mask.colours
    if mask.white is None:
        raise InputError(f"{mask.path}: grey with 16 bits or more, where `classes` gives colours; give numbers there")
    return _numbers(mask) * 255 // mask.white * 0x010101


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
            f"{shown(labels_path)}: {sizes[0]}, but its image {shown(image_path)} has {sizes[1]}; "
            "give the mask of this very image"
        )
