"""Masks in colour: the same colour is the same class in every file of a run."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from picture_files import GREY, write_raw_png
from PIL import Image

from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.labels import read_label_set
from tests.fuzz.mutations import TEXTS

RED, BLUE, GREEN = (230, 20, 30), (0, 114, 178), (1, 200, 3)
FIRST = np.random.default_rng(0).integers(0, 2, (24, 32))
SECOND = np.random.default_rng(1).integers(0, 2, (24, 32))


def save_palette(path: Path, labels: NDArray[np.int64], colours: list[tuple[int, int, int]]) -> Path:
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([channel for colour in colours for channel in colour])
    image.save(path)
    return path


def save_rgb(path: Path, labels: NDArray[np.int64], colours: list[tuple[int, int, int]]) -> Path:
    Image.fromarray(np.array(colours, dtype=np.uint8)[labels]).save(path)
    return path


def test_palettes_in_another_order_give_the_same_classes(tmp_path: Path) -> None:
    origin = save_palette(tmp_path / "o.png", FIRST, [RED, BLUE])
    same = save_palette(tmp_path / "s.png", SECOND, [RED, BLUE])
    swapped = save_palette(tmp_path / "w.png", 1 - SECOND, [BLUE, RED])
    plain = read_label_set([origin, same], None)
    assert plain.notes == ()
    assert not plain.classes.colours
    mixed = read_label_set([origin, same, swapped], None)
    for maps in (plain.maps, mixed.maps):
        np.testing.assert_array_equal(maps[0], FIRST)
        np.testing.assert_array_equal(maps[1], SECOND)
    np.testing.assert_array_equal(mixed.maps[2], SECOND)
    assert mixed.notes == (
        f"{origin} and {swapped}: their palettes number the colours differently: the same colour is the same class, "
        "class 0 is #e6141e, class 1 is #0072b2; `classes` name0=#e6141e,name1=#0072b2 names or reorders them",
    )


def test_a_palette_of_the_one_colour_in_use_is_no_other_class(tmp_path: Path) -> None:
    origin = save_palette(tmp_path / "o.png", FIRST, [RED, BLUE])
    alone = save_palette(tmp_path / "a.png", np.zeros_like(FIRST), [BLUE])
    assert (read_label_set([origin, alone], None).maps[1] == 1).all()
    longer = save_palette(tmp_path / "l.png", np.full_like(FIRST, 2), [GREEN, RED, BLUE])
    assert (read_label_set([origin, longer], None).maps[1] == 1).all()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_rgb_classes_do_not_depend_on_the_order_of_files(order: tuple[int, ...], tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (24, 32))
    paths = [
        save_rgb(tmp_path / "0.png", labels, [RED, BLUE, GREEN]),
        save_rgb(tmp_path / "1.png", FIRST, [GREEN, RED]),
        save_rgb(tmp_path / "2.png", SECOND, [BLUE, GREEN]),
    ]
    result = read_label_set([paths[index] for index in order], None)
    assert result.classes.values == (0x0072B2, 0x01C803, 0xE6141E), "in the order of their codes"
    np.testing.assert_array_equal(result.maps[order.index(0)], np.array([2, 0, 1])[labels])
    np.testing.assert_array_equal(result.maps[order.index(1)], np.array([1, 2])[FIRST])
    assert "class 0 is #0072b2, class 1 is #01c803, class 2 is #e6141e" in result.notes[0]


def test_colours_given_name_the_classes_in_every_kind_of_file(tmp_path: Path) -> None:
    classes = ClassMap.parse("stroma=#0072B2, epithelium=#e6141e,lumen=#FFF")
    colours = [BLUE, RED, (255, 255, 255)]
    labels = np.random.default_rng(3).integers(0, 3, (24, 32))
    grey = tmp_path / "g.png"
    Image.fromarray(np.full((24, 32), 255, dtype=np.uint8)).save(grey)
    paths = [
        save_rgb(tmp_path / "0.png", labels, colours),
        save_palette(tmp_path / "1.png", 2 - labels, colours[::-1]),
        grey,
    ]
    result = read_label_set(paths, classes)
    np.testing.assert_array_equal(result.maps[0], labels)
    np.testing.assert_array_equal(result.maps[1], labels)
    assert (result.maps[2] == 2).all()
    assert str(classes) == "stroma=#0072b2,epithelium=#e6141e,lumen=#ffffff"
    assert ClassMap.parse(str(classes)) == classes


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    palette = save_palette(tmp_path / "p.png", FIRST, [RED, BLUE])
    swapped = save_palette(tmp_path / "w.png", FIRST, [BLUE, RED])
    twice = save_palette(tmp_path / "t.png", FIRST, [BLUE, BLUE])
    rgb = save_rgb(tmp_path / "r.png", FIRST, [RED, BLUE])
    grey = tmp_path / "g.png"
    Image.fromarray(FIRST.astype(np.uint8)).save(grey)
    numbers = ClassMap.parse("a=0,b=1")
    for paths, classes, words in (
        ([palette, swapped], numbers, "number the colours differently; give colours, as in `classes` name0=#e6141e"),
        ([palette, rgb], numbers, r"r\.png: a label map in colour, without numbers"),
        ([grey, rgb], None, r"g\.png: grey, while .*r\.png is in colour"),
        ([palette, twice], None, r"t\.png: two labels have the colour #0072b2"),
        ([rgb], ClassMap.parse("a=#e6141e,b=#0072b3"), "the colour #0072b2 .* has no class"),
    ):
        with pytest.raises(InputError, match=words) as refusal:
            read_label_set(paths, classes)
        assert "\n" not in str(refusal.value)


def test_a_palette_beside_grey_is_refused_unless_numbers_are_given_or_the_palette_is_grey(tmp_path: Path) -> None:
    grey = tmp_path / "g.png"
    Image.fromarray(FIRST.astype(np.uint8)).save(grey)
    palette = save_palette(tmp_path / "p.png", SECOND, [RED, BLUE])
    with pytest.raises(InputError, match=r"p\.png: has a palette, while .*g\.png is grey.*name0=0,name1=1$"):
        read_label_set([grey, palette], None)
    like_grey = save_palette(tmp_path / "l.png", SECOND, [(0, 0, 0), (1, 1, 1)])
    for maps in (
        read_label_set([grey, palette], ClassMap.parse("a,b")).maps,
        read_label_set([grey, like_grey], None).maps,
    ):
        np.testing.assert_array_equal(maps[0], FIRST)
        np.testing.assert_array_equal(maps[1], SECOND)


def test_a_program_that_orders_palettes_by_area_exchanges_no_classes(tmp_path: Path) -> None:
    areas = [np.zeros((24, 32), dtype=np.int64) for _ in range(2)]
    areas[0][:, :8] = 1
    areas[1][:, :24] = 1
    for name, labels in zip("ot", areas, strict=True):
        rgba = Image.fromarray(np.array([(*RED, 255), (*BLUE, 255)], dtype=np.uint8)[labels])
        rgba.quantize(2, method=Image.Quantize.FASTOCTREE).save(tmp_path / f"{name}.png")
    palettes = [Image.open(tmp_path / name).getpalette() for name in ("o.png", "t.png")]
    assert palettes[0] != palettes[1]
    maps = read_label_set([tmp_path / "o.png", tmp_path / "t.png"], None).maps
    first = int(maps[0][0, 31])
    np.testing.assert_array_equal(maps[0] == first, areas[0] == 0)
    np.testing.assert_array_equal(maps[1] == first, areas[1] == 0)


def test_colours_given_find_black_and_white_in_grey_files_of_any_depth(tmp_path: Path) -> None:
    classes = ClassMap.parse("a=#fff,b=#000")
    for bits in (1, 2, 4, 8):
        path = write_raw_png(tmp_path / f"{bits}.png", FIRST * (2**bits - 1), bits, GREY)
        np.testing.assert_array_equal(read_label_set([path], classes).maps[0], 1 - FIRST)
    deep = write_raw_png(tmp_path / "16.png", FIRST * 65535, 16, GREY)
    with pytest.raises(InputError, match=r"16\.png: grey with 16 bits or more.*give numbers"):
        read_label_set([deep], classes)


def test_transparent_colours_are_refused_where_colours_decide(tmp_path: Path) -> None:
    palette = save_palette(tmp_path / "p.png", FIRST, [RED, BLUE, GREEN])
    rgb = np.array([RED, BLUE], dtype=np.uint8)[FIRST]
    Image.fromarray(rgb).save(tmp_path / "rgb.png", transparency=BLUE)
    Image.open(palette).save(tmp_path / "used.png", transparency=1)
    Image.open(palette).save(tmp_path / "unused.png", transparency=2)
    classes = ClassMap.parse("a=#e6141e,b=#0072b2")
    for name in ("rgb.png", "used.png"):
        with pytest.raises(InputError, match=rf"{name}: has transparent pixels"):
            read_label_set([tmp_path / name], classes)
    np.testing.assert_array_equal(read_label_set([tmp_path / "unused.png"], classes).maps[0], FIRST)


def test_colours_that_the_first_file_lacks_follow_in_the_order_of_their_codes(tmp_path: Path) -> None:
    labels = np.random.default_rng(2).integers(0, 3, (24, 32))
    first = save_palette(tmp_path / "o.png", FIRST, [RED, BLUE])
    other = save_palette(tmp_path / "t.png", labels, [(9, 9, 9), BLUE, (5, 5, 5)])
    result = read_label_set([first, other], None)
    assert result.classes.values == (0xE6141E, 0x0072B2, 0x050505, 0x090909)
    np.testing.assert_array_equal(result.maps[0], FIRST)
    np.testing.assert_array_equal(result.maps[1], np.array([3, 1, 2])[labels])


def test_soft_edges_are_refused_whatever_the_classes(tmp_path: Path) -> None:
    path = tmp_path / "soft.png"
    sharp = Image.fromarray(np.array([RED, BLUE], dtype=np.uint8)[FIRST])
    sharp.resize((101, 83), Image.Resampling.BILINEAR).save(path)
    for classes, words in (
        (None, r"soft\.png: \d+ different colours \(most often #\w{6} [\d.]+ %, .*soft edges"),
        (ClassMap.parse("a=0,b=1"), r"soft\.png: \d+ different colours \(most often"),
        (ClassMap.parse("a=#e6141e,b=#0072b2"), r"soft\.png: the colour #.* colours\) \(\d+ % of the pixels\)"),
    ):
        with pytest.raises(InputError, match=words):
            read_label_set([path], classes)
    sharp.resize((64, 48), Image.Resampling.BILINEAR).save(path)
    result = read_label_set([path], None)
    assert 9 <= len(result.classes) <= 32
    assert "if some are but soft edges, draw without smoothing" in result.notes[1]


@pytest.mark.parametrize(
    ("each", "shared", "refused"), [(32, 32, False), (17, 2, False), (17, 1, True), (33, 33, True)]
)
def test_up_to_32_colours_over_all_files_are_classes(tmp_path: Path, each: int, shared: int, refused: bool) -> None:
    colours = [(7 * index, 200, 255 - 3 * index) for index in range(2 * each - shared)]
    labels = np.arange(24 * 32).reshape(24, 32) % each
    paths = [
        save_rgb(tmp_path / "o.png", labels, colours[:each]),
        save_rgb(tmp_path / "t.png", labels, colours[-each:]),
    ]
    if refused:
        with pytest.raises(InputError, match="33 different colours"):
            read_label_set(paths, None)
        return
    result = read_label_set(paths, None)
    assert len(result.classes) == 32
    assert "32 classes were read, none of them named" in result.notes[1]
    assert read_label_set(paths, result.classes).notes == ()


def test_numbered_nuclei_are_told_apart_from_classes(tmp_path: Path) -> None:
    for count in (17, 40):
        labels = np.arange(24 * 32).reshape(24, 32) % count
        Image.fromarray(labels.astype(np.uint16)).save(tmp_path / f"{count}.png")
    (note,) = read_label_set([tmp_path / "17.png"], None).notes
    assert note.startswith("17 classes were read")
    assert "nuclei or glands" in note
    with pytest.raises(InputError, match="40 different values, .* numbers single nuclei or glands"):
        read_label_set([tmp_path / "40.png"], None)


HOSTILE = [*TEXTS, "a=#12", "a=#gggggg", "a=0,b=#ffffff", "a\x1b=0", "a=0,a=1", "a=1,b=1", "a=99999999999999999999"]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:12]))
def test_hostile_classes_are_read_back_as_written_or_refused_in_one_line(text: str) -> None:
    message = ""
    try:
        classes = ClassMap.parse(text)
    except InputError as refusal:
        message = str(refusal)
    assert message.isprintable()
    assert message or ClassMap.parse(str(classes)) == classes
