"""The side-by-side panel: origin, its mask, the target mask and the result, with captions and a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from imaging.fonts import Font

# Okabe and Ito's colours for all kinds of colour vision (jfly.uni-koeln.de/color), the most distant ones first.
PALETTE = (
    (230, 159, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
    (90, 90, 90),
)
FOUND = "foreground found"

_GAP = 8
_SWATCH = 12
_INDENT = _SWATCH + 4
_LONGEST_NAME = 60
# Two invisible characters that Persian and the scripts of India need inside of words.
_JOINERS = "\u200c\u200d"
_WHITE = (255, 255, 255)
_BLACK = (0, 0, 0)


def colour(index: int) -> tuple[int, int, int]:
    """The colour of class ``index``; from the ninth class on the palette comes again, each time lighter."""
    base = PALETTE[index % len(PALETTE)]
    share = 0.6 ** (index // len(PALETTE))
    red, green, blue = (round(255 - (255 - channel) * share) for channel in base)
    return red, green, blue


def paint(labels: NDArray[np.int64], classes: int) -> NDArray[np.uint8]:
    """Colour a label map [H, W] of classes 0..C-1, and C for ignored pixels, which are white, as uint8 [H, W, 3].

    Raises:
        ValueError: a label is outside of 0..C.
    """
    if labels.min() < 0 or labels.max() > classes:
        raise ValueError(f"labels {labels.min()}..{labels.max()} for {classes} classes")
    return np.array([*(colour(index) for index in range(classes)), _WHITE], dtype=np.uint8)[labels]


def panel(
    origins: Sequence[NDArray[np.uint8]],
    origin_labels: Sequence[NDArray[np.int64]],
    target_labels: NDArray[np.int64],
    result: NDArray[np.uint8],
    class_names: Sequence[str],
    fonts: Sequence[Font | None] | None = None,
    foregrounds: tuple[NDArray[np.bool_], NDArray[np.bool_]] | None = None,
) -> NDArray[np.uint8]:
    """Put origins [H, W, 3], labels of each [H, W], target labels [H', W'] and result [H', W', 3] side by side.

    ``origin_labels`` may be empty. ``foregrounds`` of the only origin [H, W] and target [H', W'], where they were
    found, stand beside these: what is not foreground is pale.

    Pixels keep their size; below the captions and images a legend names the classes, each in its font of ``fonts``
    (`imaging.fonts.fonts_for`; None: Pillow's own for all). A name without one is written as its number, one that is
    very long is shortened. Returns uint8 [·, ·, 3].

    Raises:
        ValueError: a mask and its image differ in size, or a label is neither a class nor ignored.
    """
    count = len(class_names)
    mine, theirs = (None, None) if foregrounds is None else foregrounds
    painted = paint(target_labels, count)
    shown: list[tuple[str, NDArray[np.uint8] | None, NDArray[np.uint8]]] = []
    for number, origin in enumerate(origins, start=1):
        which = f" {number}" if len(origins) > 1 else ""
        shown.append((f"origin{which}", origin, origin))
        if origin_labels:
            shown.append((f"origin mask{which}", paint(origin_labels[number - 1], count), origin))
    shown += [
        (FOUND, None if mine is None else _faded(origins[0], mine), origins[0]),
        ("target mask", painted, result),
        (FOUND, None if theirs is None else _faded(painted, theirs), result),
        ("result", result, result),
    ]
    there = [(caption, tile, image) for caption, tile, image in shown if tile is not None]
    if any(tile.shape != image.shape for _, tile, image in there):
        raise ValueError("a mask and its image differ in size")
    tiles, captions = [Image.fromarray(tile) for _, tile, _ in there], [caption for caption, *_ in there]

    font = ImageFont.load_default()
    own = [font] * count if fonts is None else [font if each is None else each for each in fonts]
    names = [
        (_short(name) if fonts is None or fonts[index] is not None else "") or f"class {index}"
        for index, name in enumerate(class_names)
    ]
    columns = [max(tile.width, _text_width(font, caption)) for tile, caption in zip(tiles, captions, strict=True)]
    width = sum(columns) + _GAP * (len(tiles) + 1)
    names = [_fitting(each, name, width - 2 * _GAP - _INDENT) for each, name in zip(own, names, strict=True)]
    rows = _legend_rows(own, names, width - 2 * _GAP)
    # Letters of some scripts are taller than Latin ones, and may have marks above and below.
    line = max(_text_height(each, text) for each, text in zip((font, *own), ("", *names), strict=True)) + 4
    image_top = _GAP + _text_height(font, "") + 4
    legend_top = image_top + max(tile.height for tile in tiles) + _GAP
    sheet = Image.new("RGB", (width, legend_top + line * len(rows) + _GAP), _WHITE)
    draw = ImageDraw.Draw(sheet)

    left = _GAP
    for tile, caption, column in zip(tiles, captions, columns, strict=True):
        draw.text((left, _GAP), caption, fill=_BLACK, font=font)
        sheet.paste(tile, (left, image_top))
        left += column + _GAP
    for row, entries in enumerate(rows):
        top = legend_top + row * line
        for index, start in entries:
            x = _GAP + start
            draw.rectangle((x, top, x + _SWATCH - 1, top + _SWATCH - 1), fill=colour(index))
            draw.text((x + _INDENT, top), names[index], fill=_BLACK, font=own[index])
    return np.array(sheet)


def _faded(image: NDArray[np.uint8], foreground: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The image [H, W, 3], pale where ``foreground`` [H, W] is not. Raises ValueError if they differ in size."""
    if image.shape[:2] != foreground.shape:
        raise ValueError("a mask and its image differ in size")
    return np.where(foreground[..., None], image, 255 - (255 - image) // 4).astype(np.uint8)


def _short(name: str) -> str:
    printable = "".join(c if c.isprintable() or c in _JOINERS else " " for c in name[: _LONGEST_NAME + 1]).strip()
    return printable if len(printable) <= _LONGEST_NAME else f"{printable[:_LONGEST_NAME]}…"


def _text_width(font: Font, text: str) -> int:
    return int(np.ceil(font.getbbox(text)[2]))


def _text_height(font: Font, text: str) -> int:
    return max(_SWATCH, *(int(np.ceil(font.getbbox(each)[3])) for each in ("Agp", text) if each))


def _fitting(font: Font, text: str, width: int) -> str:
    """``text``, or as much of its beginning as fits into ``width`` px with dots after it."""
    kept = len(text)
    while kept and _text_width(font, _dotted(text, kept)) > width:
        kept -= 1
    return _dotted(text, kept)


def _dotted(text: str, kept: int) -> str:
    return text if kept == len(text) else f"{text[:kept].rstrip('… ')}..."


def _legend_rows(fonts: Sequence[Font], names: Sequence[str], width: int) -> list[list[tuple[int, int]]]:
    """Class indices and where each starts, broken into rows no wider than ``width`` where that can be."""
    rows: list[list[tuple[int, int]]] = [[]]
    start = 0
    for index, name in enumerate(names):
        needed = _INDENT + _text_width(fonts[index], name)
        if rows[-1] and start + needed > width:
            rows.append([])
            start = 0
        rows[-1].append((index, start))
        start += needed + 2 * _GAP
    return rows
