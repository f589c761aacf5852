"""Fields larger than a patch, as files: tiled TIFF with the record in it, the resolution of the mask, small previews.

Notation: H, W height and width in pixels.
"""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from imaging.provenance import KEY

SUFFIXES = (".tif", ".tiff")
TILE = 256
LARGEST_CLASSIC = 2**32 - 1
"""Bytes that a TIFF file's offsets of 32 bits reach; a larger one is written as BigTIFF."""
PREVIEW = 2048
"""Side in px of the largest field that a panel shows pixel by pixel."""

_SHORT, _LONG, _ASCII, _RATIONAL, _LONG8 = 3, 4, 2, 5, 16
_FORMATS = {_SHORT: "H", _LONG: "I", _LONG8: "Q"}
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _ORIENTATION = 282, 283, 296, 274
_UNITS = (1, 2, 3)
_CENTIMETRE = 3
_METRES_PER_INCH = 0.0254
_MOST = 2**32 - 1


@dataclass(frozen=True)
class Resolution:
    """Pixels per unit across and down, as TIFF has them: the unit is 1 (none), 2 (inch) or 3 (cm)."""

    across: Fraction
    down: Fraction
    unit: int


def read_resolution(path: str | os.PathLike[str]) -> Resolution | None:
    """The resolution that a TIFF or PNG file, which can be read, has in its tags; None for none, or none that makes
    sense. Of a file that is turned by its orientation tag, that of the upright picture.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=("TIFF", "PNG")) as image:
                if isinstance(image, TiffImagePlugin.TiffImageFile):
                    return _of_tags(image.tag_v2)
                dpi = image.info.get("dpi")
        if dpi is None:
            return None
        # A PNG has whole pixels per metre, of which Pillow makes inches.
        across, down = (Fraction(round(float(each) / _METRES_PER_INCH), 100) for each in dpi)
    except (OSError, SyntaxError, ValueError, TypeError, LookupError, ArithmeticError, EOFError, struct.error):
        return None
    return _checked(across, down, _CENTIMETRE)


def _of_tags(tags: Any) -> Resolution | None:
    across, down = (Fraction(int(tags[tag].numerator), int(tags[tag].denominator)) for tag in (282, 283))
    if tags.get(_ORIENTATION, 1) in (5, 6, 7, 8):
        across, down = down, across
    return _checked(across, down, tags.get(_UNIT, 2))


def _checked(across: Fraction, down: Fraction, unit: object) -> Resolution | None:
    sensible = all(0 < part <= _MOST for each in (across, down) for part in (each.numerator, each.denominator))
    return Resolution(across, down, int(str(unit))) if sensible and unit in _UNITS else None


def encode_tiff(array: NDArray[np.uint8], text: Mapping[str, str], resolution: Resolution | None = None) -> bytes:
    """uint8 [H, W, 3] as the bytes of a TIFF file in compressed tiles, BigTIFF where it would be too large else.

    The record of ``text`` (`Provenance.text`) is its ImageDescription.

    Raises:
        ValueError: the array is not of this shape and type.
    """
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(f"need uint8 [H, W, 3], not {array.dtype} {list(array.shape)}")
    height, width = array.shape[:2]
    file = io.BytesIO(bytes(16))  # room for the header, which says where the directory is
    file.seek(16)
    offsets, counts = [], []
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            content = _tile(array[top : top + TILE, left : left + TILE])
            offsets.append(file.tell())
            counts.append(file.write(content))
    fields: list[tuple[int, int, Any]] = [
        (256, _LONG, [width]),
        (257, _LONG, [height]),
        (258, _SHORT, [8, 8, 8]),
        (259, _SHORT, [8]),  # deflate
        (262, _SHORT, [2]),  # RGB
        (270, _ASCII, text[KEY]),
        (277, _SHORT, [3]),
        (284, _SHORT, [1]),  # colours side by side
        (305, _ASCII, text["Software"]),
        (317, _SHORT, [2]),  # each pixel less the one before it
        (322, _SHORT, [TILE]),
        (323, _SHORT, [TILE]),
    ]
    if resolution is not None:
        fields.append((_X_RESOLUTION, _RATIONAL, resolution.across))
        fields.append((_Y_RESOLUTION, _RATIONAL, resolution.down))
        fields.append((_UNIT, _SHORT, [resolution.unit]))
    # What the directory may take at most: its text, tables of 16 bytes a tile, and its entries.
    large = file.tell() + len(text[KEY]) + 16 * len(offsets) + 4096 > LARGEST_CLASSIC
    fields.append((324, _LONG8 if large else _LONG, offsets))
    fields.append((325, _LONG, counts))
    file.write(bytes(-file.tell() % 8))
    start = file.tell()
    file.write(_directory(sorted(fields, key=lambda field: field[0]), start, large))
    file.seek(0)
    file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, start) if large else struct.pack("<2sHI", b"II", 42, start))
    return file.getvalue()


def _tile(part: NDArray[np.uint8]) -> bytes:
    """One compressed tile, filled up at the right and bottom by its last column and row."""
    missing = [(0, TILE - part.shape[0]), (0, TILE - part.shape[1]), (0, 0)]
    pixels = np.pad(part, missing, mode="edge")
    pixels[:, 1:] -= pixels[:, :-1].copy()  # modulo 256
    return zlib.compress(pixels.tobytes(), 6)


def _directory(fields: list[tuple[int, int, Any]], start: int, large: bool) -> bytes:
    """The table of all ``fields`` (tag, type, values) for the place ``start``, then what is too long for it."""
    count, entry, word = ("<Q", "<HHQ", 8) if large else ("<H", "<HHI", 4)
    behind = start + struct.calcsize(count) + len(fields) * (struct.calcsize(entry) + word) + word
    table, values = struct.pack(count, len(fields)), b""
    for tag, kind, value in fields:
        number, content = _packed(kind, value)
        table += struct.pack(entry, tag, kind, number)
        if len(content) <= word:
            table += content.ljust(word, b"\0")
            continue
        values += bytes(-(behind + len(values)) % 8)
        table += struct.pack("<Q" if large else "<I", behind + len(values))
        values += content
    return table + bytes(word) + values


def _packed(kind: int, value: Any) -> tuple[int, bytes]:
    """How many values there are, and their bytes."""
    if kind == _ASCII:
        content = value.encode("ascii") + b"\0"
        return len(content), content
    if kind == _RATIONAL:
        return 1, struct.pack("<II", value.numerator, value.denominator)
    return len(value), struct.pack(f"<{len(value)}{_FORMATS[kind]}", *value)


def smaller(array: NDArray[Any], factor: int) -> NDArray[Any]:
    """An image [H, W, 3] by means of ``factor`` × ``factor`` px, or a label map [H, W] by one label of each."""
    if factor == 1:
        return array
    if array.ndim == 2:
        return array[::factor, ::factor]
    return np.asarray(Image.fromarray(array).reduce(factor))


def preview_factor(height: int, width: int) -> int:
    """How many times smaller a panel shows a field of these sides."""
    return math.ceil(max(height, width) / PREVIEW)
