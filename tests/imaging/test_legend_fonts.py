"""Legends in any script: a font that has the name's characters, or its number."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import ImageFont, features

from imaging.fonts import fonts_for
from imaging.panel import panel

DEJAVU = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
LABELS = np.zeros((40, 300), dtype=np.int64)
IMAGE = np.full((40, 300, 3), 200, dtype=np.uint8)


def legend(names: list[str], fonts: list[ImageFont.FreeTypeFont | ImageFont.ImageFont | None] | None) -> np.ndarray:
    return panel([IMAGE], [LABELS], LABELS, IMAGE, names, fonts)


def test_pillows_own_font_comes_first_and_a_systems_where_it_lacks_a_character() -> None:
    plain, greek, nothing = fonts_for(["stroma", "επιθήλιο ⅝", "上皮"], [DEJAVU])
    assert isinstance(plain, ImageFont.FreeTypeFont)
    assert isinstance(greek, ImageFont.FreeTypeFont)
    assert "DejaVu" not in str(plain.getname())
    assert "DejaVu" in str(greek.getname())
    assert nothing is None


def test_names_without_a_font_become_numbers() -> None:
    fonts = fonts_for(["stroma", "上皮"], [])
    np.testing.assert_array_equal(legend(["stroma", "上皮"], fonts), legend(["stroma", "class 1"], None))


def test_letters_from_the_right_want_a_layout_library() -> None:
    (font,) = fonts_for(["ظهارة"], [DEJAVU])
    assert (font is not None) == bool(features.check("raqm"))


def test_long_and_unprintable_names_do_not_spoil_the_panel() -> None:
    width = legend(["a", "b"], None).shape[1]
    names = ["x" * 5000, "\x1b[31m\nline"]
    assert legend(names, fonts_for(names, [])).shape[1] <= 2 * width
    assert legend(names, None).shape[1] <= 2 * width


@pytest.mark.parametrize("kind", ["pipe", "text", "folder"])
def test_what_is_no_font_in_a_folder_of_fonts_is_passed_over(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.ttf"
    {"pipe": os.mkfifo, "text": lambda p: p.write_text("no font"), "folder": os.mkdir}[kind](path)
    assert fonts_for(["上皮"], [tmp_path]) == [None]


def test_plain_fonts_come_before_bold_and_mathematical_ones() -> None:
    (font,) = fonts_for(["эпителий"], [DEJAVU])
    assert isinstance(font, ImageFont.FreeTypeFont)
    assert font.getname() == ("DejaVu Sans", "Book")


def test_an_accent_that_a_font_lacks_is_missed_too(tmp_path: Path) -> None:
    shutil.copy(DEJAVU / "DejaVuSans.ttf", tmp_path)
    accented, indian = fonts_for(["e\u0301 ж", "ж\u093e"], [tmp_path])
    assert accented is not None
    assert indian is None


def test_a_name_wider_than_the_panel_ends_in_dots_inside_of_it() -> None:
    labels, image = np.zeros((32, 32), dtype=np.int64), np.full((32, 32, 3), 200, dtype=np.uint8)
    name = "щ" * 59
    sheet = panel([image], [labels], labels, image, [name, "b"], fonts_for([name, "b"], [DEJAVU]))
    assert (sheet[:, -8:] == 255).all(), "the margin stays free"
    shortest = panel([image], [labels], labels, image, ["щ", "b"], fonts_for(["щ", "b"], [DEJAVU]))
    assert (sheet < 128).all(axis=2).sum() > (shortest < 128).all(axis=2).sum()


def test_a_name_of_nothing_printable_becomes_its_number() -> None:
    names = ["stroma", "\n\x1b"]
    np.testing.assert_array_equal(legend(names, fonts_for(names, [])), legend(["stroma", "class 1"], None))
