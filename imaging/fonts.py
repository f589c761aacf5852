"""A font for every name in a legend, from Pillow's own or those of the system."""

from __future__ import annotations

import itertools
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
MOST_FOLDERS = 2000
MOST_FONTS = 2000
# Fonts of many scripts first; bold, slanted and narrow ones, and pictures, after the plain ones.
_PREFERRED = ("dejavusans", "notosans", "arial unicode", "arialuni", "arial", "segoeui", "freesans")
_STYLES = ("bold", "italic", "oblique", "black", "light", "thin", "condensed", "mono", "math", "emoji", "symbol")
_SIZE = 10  # as Pillow's own comes
_SUFFIXES = (".ttf", ".otf", ".ttc")
# No font has a glyph for it, so what is drawn is the sign for "missing".
_UNASSIGNED = "\U0010fffe"
# Spaces, joiners, and what the panel writes as a space.
_INVISIBLE = ("Zs", "Zl", "Zp", "Cf", "Cc", "Cs")


def fonts_for(names: Sequence[str], folders: Sequence[str | os.PathLike[str]] = FOLDERS) -> list[Font | None]:
    """For each name a font that has all its characters, None where there is none.

    Pillow's own comes first, then the fonts in ``folders``, at most 2000 of them, plain ones first. Scripts that
    run from the right or join their letters are drawn by Pillow's text layout library alone (raqm): without it such a
    name has no font.
    """
    own = ImageFont.load_default(_SIZE)
    found: dict[int, Font] = {}
    wanted = [index for index, name in enumerate(names) if _can_be_laid_out(name)]
    for font in itertools.chain([own], _system_fonts(folders)):
        found |= {index: font for index in wanted if index not in found and _has_all(font, names[index])}
        if len(found) == len(wanted):
            break
    return [found.get(index) for index in range(len(names))]


def _system_fonts(folders: Sequence[str | os.PathLike[str]]) -> Iterator[Font]:
    for path in sorted(itertools.islice(_font_files(folders), MOST_FONTS), key=_rank):
        try:
            yield ImageFont.truetype(path, _SIZE)
        except (OSError, ValueError):
            continue


def _font_files(folders: Sequence[str | os.PathLike[str]]) -> Iterator[Path]:
    for folder in folders:
        for place, inside, files in itertools.islice(os.walk(os.path.expanduser(folder)), MOST_FOLDERS):
            inside.sort()
            for name in sorted(files):
                path = Path(place, name)
                # A last-resort font draws a box for every character there is.
                if path.suffix.lower() in _SUFFIXES and "lastresort" not in name.lower() and path.is_file():
                    yield path


def _rank(path: Path) -> tuple[bool, int]:
    name = path.name.lower()
    preferred = (index for index, start in enumerate(_PREFERRED) if name.startswith(start))
    return any(style in name for style in _STYLES), next(preferred, len(_PREFERRED))


def _has_all(font: Font, text: str) -> bool:
    try:
        font.getbbox(text)
        # Character by character: a layout library puts a circle below a lone accent, beside the sign for "missing".
        single = font
        if isinstance(font, ImageFont.FreeTypeFont):
            single = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
        missing = _drawn(single, _UNASSIGNED)
        drawn = {c: _drawn(single, c) for c in set(text) if unicodedata.category(c) not in _INVISIBLE}
    except (OSError, ValueError):
        return False
    return all(picture != missing and any(picture[1]) for picture in drawn.values())


def _drawn(font: Font, text: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(text)
    return mask.size, bytes(mask)


def _can_be_laid_out(text: str) -> bool:
    if features.check("raqm"):
        return True
    joined = any(unicodedata.category(c) in ("Mn", "Mc", "Me") for c in unicodedata.normalize("NFC", text))
    return not joined and not any(unicodedata.bidirectional(c) in ("R", "AL", "AN") for c in text)
