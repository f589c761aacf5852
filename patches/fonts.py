"""A font for every name in a legend, from Pillow's own or those of the system."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from PIL import ImageFont, features

Font: TypeAlias = ImageFont.ImageFont | ImageFont.FreeTypeFont

FOLDERS = (
    "~/.local/share/fonts",
    "~/.fonts",
    "/usr/local/share/fonts",
    "/usr/share/fonts",
    "~/Library/Fonts",
    "/Library/Fonts",
    "/System/Library/Fonts",
    "C:/Windows/Fonts",
)
MOST_FONTS = 2000
_SIZE = 10  # as Pillow's own comes
_SUFFIXES = (".ttf", ".otf", ".ttc")
# No font has a glyph for it, so what is drawn is the sign for "missing".
_UNASSIGNED = "\U0010fffe"


def fonts_for(names: Sequence[str], folders: Sequence[str | os.PathLike[str]] = FOLDERS) -> list[Font | None]:
    """For each name a font that has all its characters, None where there is none.

    Pillow's own comes first, then the fonts in ``folders``, at most 2000 of them. Scripts that run from the right or
    join their letters are drawn by Pillow's text layout library alone (raqm): without it such a name has no font.
    """
    own = ImageFont.load_default(_SIZE)
    found: dict[int, Font] = {}
    wanted = [index for index, name in enumerate(names) if _can_be_laid_out(name)]
    fonts: Iterator[Font] = iter([own])
    for source in (fonts, _system_fonts(folders)):
        for font in source:
            for index in [index for index in wanted if index not in found]:
                if _has_all(font, names[index]):
                    found[index] = font
            if len(found) == len(wanted):
                break
        if len(found) == len(wanted):
            break
    return [found.get(index) for index in range(len(names))]


def _system_fonts(folders: Sequence[str | os.PathLike[str]]) -> Iterator[Font]:
    count = 0
    for folder in folders:
        for place, inside, files in os.walk(os.path.expanduser(folder)):
            inside.sort()
            for name in sorted(files):
                path = Path(place, name)
                if path.suffix.lower() not in _SUFFIXES:
                    continue
                count += 1
                if count > MOST_FONTS:
                    return
                try:
                    # A last-resort font draws a box for every character there is.
                    if path.is_file() and "lastresort" not in name.lower():
                        yield ImageFont.truetype(path, _SIZE)
                except (OSError, ValueError):
                    continue


def _has_all(font: Font, text: str) -> bool:
    try:
        missing = _drawn(font, _UNASSIGNED)
        return all(_drawn(font, c) != missing for c in set(text) if not c.isspace())
    except (OSError, ValueError, UnicodeEncodeError):
        return False


def _drawn(font: Font, text: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(text)
    return mask.size, bytes(mask)


def _can_be_laid_out(text: str) -> bool:
    if features.check("raqm"):
        return True
    joined = any(unicodedata.category(c) in ("Mn", "Mc", "Me") for c in unicodedata.normalize("NFC", text))
    return not joined and not any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text)
