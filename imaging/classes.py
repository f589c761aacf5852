"""What the pixels of label maps stand for: classes by number or by colour, as `classes` gives them.

A colour is held as one number, 0xRRGGBB.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imaging.errors import InputError, brief
from imaging.rawfile import shown

MAX_CLASSES = 32
IGNORE = "ignore"
"""The name of pixels that belong to no class. In label maps of C classes they have the label C."""
# What TIFF files can hold, signed and unsigned.
LOWEST, HIGHEST = -(2**31), 2**32 - 1

_COLOUR = re.compile(r"#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})")
_NUMBER = re.compile(r"-?[0-9]+")
# Two invisible characters that Persian and the scripts of India need inside of words.
_JOINERS = "\u200c\u200d"


@dataclass(frozen=True)
class ClassMap:
    """The classes in order: ``values[c]`` stands for class ``c`` in the files, and ``names[c]`` names it.

    ``values`` are numbers or, with ``colours``, the pixels' colours 0xRRGGBB. Pixels of the values ``ignored`` belong
    to no class and get the label C.
    """

    names: tuple[str, ...]
    values: tuple[int, ...]
    colours: bool = False
    ignored: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < len(self.values) <= MAX_CLASSES:
            raise InputError(f"`classes`: {len(self.values)} classes; give 1 to {MAX_CLASSES}")
        if len(self.names) != len(self.values):
            raise ValueError(f"{len(self.names)} names for {len(self.values)} values")
        values = [hexadecimal(value) if self.colours else str(value) for value in (*self.values, *self.ignored)]
        for what, items in (("value", values), ("name", self.names)):
            twice = [item for item in items if items.count(item) > 1]
            if twice:
                raise InputError(f"`classes`: the {what} {brief(twice[0])} is there twice; give each class its own")
        if any(not LOWEST <= value <= HIGHEST for value in (*self.values, *self.ignored)):
            raise InputError(f"`classes`: a value is outside of {LOWEST}..{HIGHEST}, which no label map can hold")

    @classmethod
    def of_values(cls, values: Sequence[int], colours: bool = False) -> ClassMap:
        """Classes with no names of their own: ``class 0``, ``class 1``, …"""
        return cls(tuple(f"class {index}" for index in range(len(values))), tuple(values), colours)

    @classmethod
    def parse(cls, text: str) -> ClassMap:
        """Read ``epithelium=0,stroma=255`` or, by colour, ``epithelium=#e69f00,stroma=#0072b2``.

        A name alone has its position as value; a number or colour alone has no name. Colours are #RRGGBB or #RGB,
        in any case. ``ignore=VALUE``, as often as needed and with a value, is no class: pixels to be left out.
        :meth:`__str__` writes what this reads.

        Raises:
            InputError: a part is empty; a value is neither a whole number of 32 bits nor a colour; some are numbers
                and some colours; a name has an equals sign or an unprintable character; a name or value is there
                twice; more than 32 classes.
        """
        parts = text.split(",")
        if len(parts) > 2 * MAX_CLASSES:
            raise InputError(f"`classes`: {len(parts)} classes; give 1 to {MAX_CLASSES}")
        names: list[str] = []
        values: list[int] = []
        ignored: list[int] = []
        kinds: list[bool] = []
        for index, part in enumerate(parts):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals and _is_value(name):
                name, value = f"class {len(names)}", name
            elif not equals and name != IGNORE:
                value = str(index)
            if not name or not _is_value(value):
                raise InputError(
                    f"`classes` {brief(text)}: cannot read {brief(part)}; write it like epithelium=0,stroma=255 "
                    "or epithelium=#e69f00,stroma=#0072b2"
                )
            if not all(_is_printable(character) for character in name):
                raise InputError(f"`classes`: the name {brief(name)} has unprintable characters; leave them out")
            kinds.append(value.startswith("#"))
            if name == IGNORE:
                ignored.append(_read_value(name, value))
                continue
            names.append(name)
            values.append(_read_value(name, value))
        if len(set(kinds)) > 1:
            raise InputError(f"`classes` {brief(text)}: some values are numbers and some colours; give all alike")
        return cls(tuple(names), tuple(values), kinds[0], tuple(ignored))

    def __len__(self) -> int:
        return len(self.values)

    def __str__(self) -> str:
        """As :meth:`parse` reads it."""
        pairs = [*zip(self.names, self.values, strict=True), *((IGNORE, value) for value in self.ignored)]
        return ",".join(f"{name}={hexadecimal(value) if self.colours else value}" for name, value in pairs)

    def classify(self, values: NDArray[np.int64], path: str | os.PathLike[str]) -> NDArray[np.int64]:
        """Turn the numbers or colours of a file, [H, W], into classes 0..C-1, and C where they are ignored, [H, W].

        Raises:
            InputError: one of them stands for no class. ``path`` names the file in the message.
        """
        known = (*self.values, *self.ignored)
        order = np.argsort(known).astype(np.int64)
        ascending = np.asarray(known, dtype=np.int64)[order]
        position = np.searchsorted(ascending, values).clip(max=len(known) - 1)
        unknown = values[ascending[position] != values]
        if unknown.size:
            percent = 100 * unknown.size / values.size
            what = "colour" if self.colours else "label"
            raise InputError(
                f"{shown(path)}: the {what} {listing(np.unique(unknown).tolist(), self.colours)} ({percent:.2g} % of "
                f"the pixels) has no class in `classes` {brief(str(self), 200)}; add it there or repaint these pixels"
            )
        classes: NDArray[np.int64] = order[position].clip(max=len(self))
        return classes


def hexadecimal(colour: int) -> str:
    """A colour 0xRRGGBB as ``#rrggbb``."""
    return f"#{colour:06x}"


def listing(values: Sequence[int], colours: bool = False, most: int = 8) -> str:
    """The first few numbers, or colours, for a message."""
    items = ", ".join(hexadecimal(value) if colours else str(value) for value in values[:most])
    return items if len(values) <= most else f"{items}, … ({len(values)} {'colours' if colours else 'values'})"


def _is_value(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None or _COLOUR.fullmatch(text) is not None


def _read_value(name: str, text: str) -> int:
    if text.startswith("#"):
        digits = text[1:]
        return int(digits if len(digits) == 6 else "".join(2 * digit for digit in digits), 16)
    digits = text.removeprefix("-").lstrip("0") or "0"
    # int() refuses thousands of digits with an error of its own.
    if len(digits) > 10 or not LOWEST <= int(digits) * (-1 if text[0] == "-" else 1) <= HIGHEST:
        raise InputError(
            f"`classes`: {brief(name)}={brief(text, 20)} is beyond what label maps hold, {LOWEST}..{HIGHEST}"
        )
    return int(digits) * (-1 if text[0] == "-" else 1)


def _is_printable(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
