from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from picture_files import GREY, RGB, RGBA, write_raw_png
from PIL import Image

from imaging.errors import InputError
from imaging.labels import ClassMap, check_same_size, read_label_set
from imaging.maskfile import read_mask

SIZE = (24, 32)


def numbers(*values: int, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).choice(np.array(values, dtype=np.int64), SIZE)


def read_values(path: Path) -> NDArray[np.int64]:
    found = read_mask(path).numbers
    assert found is not None
    return found


def read_labels(path: Path, classes: ClassMap) -> NDArray[np.int64]:
    return read_label_set([path], classes).maps[0]


def save(path: Path, values: NDArray[np.int64]) -> Path:
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_png_of_any_depth_gives_its_numbers(tmp_path: Path, bits: int) -> None:
    values = numbers(*{0, 1, 2**bits - 1, 2**bits // 2, 2**bits // 3})
    read = read_values(write_raw_png(tmp_path / "m.png", values, bits, GREY))
    assert read.dtype == np.int64
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<u2", ">u2", "i2", "u4", "i4"])
def test_grey_tiff_of_any_depth_gives_its_numbers(tmp_path: Path, dtype: str) -> None:
    lowest = 0 if dtype[-2] == "u" else int(np.iinfo(np.dtype(dtype)).min)
    values = numbers(0, 1, 3, lowest, int(np.iinfo(np.dtype(dtype)).max))
    byteorder = ">" if dtype[0] == ">" else "<"
    tifffile.imwrite(tmp_path / "m.tif", values.astype(dtype), photometric="minisblack", byteorder=byteorder)
    np.testing.assert_array_equal(read_values(tmp_path / "m.tif"), values)


@pytest.mark.parametrize("bits", [2, 4])
def test_shallow_tiff_gives_its_numbers(tmp_path: Path, bits: int) -> None:
    values = numbers(0, 1, 2, 3)
    each = np.unpackbits(values.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    packed = np.packbits(each.reshape(SIZE[0], -1), axis=1)
    tags = [(258, "H", 1, bits), (256, "I", 1, SIZE[1])]
    tifffile.imwrite(tmp_path / "whole.tif", packed, photometric="minisblack")
    data = bytearray((tmp_path / "whole.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "whole.tif") as file:
        for code, _, _, value in tags:
            tag = file.pages[0].tags[code]
            data[tag.valueoffset : tag.valueoffset + 2] = value.to_bytes(2, "little")
    (tmp_path / "m.tif").write_bytes(data)
    np.testing.assert_array_equal(read_values(tmp_path / "m.tif"), values)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp"])
def test_palette_gives_indices_whatever_the_colours(tmp_path: Path, name: str) -> None:
    values = numbers(0, 1, 2, 5)
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(np.random.default_rng(1).integers(0, 256, 18, dtype=np.uint8).tobytes())
    image.save(tmp_path / name)
    np.testing.assert_array_equal(read_values(tmp_path / name), values)


def test_palette_with_a_transparent_entry_still_gives_indices(tmp_path: Path) -> None:
    values = numbers(0, 1)
    image = Image.fromarray(values.astype(np.uint8))
    image.putpalette(bytes([0, 0, 0, 255, 0, 0]))
    image.save(tmp_path / "m.png", transparency=0)
    np.testing.assert_array_equal(read_values(tmp_path / "m.png"), values)


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp"])
def test_rgb_of_equal_channels_gives_the_number(tmp_path: Path, name: str) -> None:
    values = numbers(0, 7, 255)
    Image.fromarray(np.stack([values] * 3, axis=2).astype(np.uint8)).save(tmp_path / name)
    np.testing.assert_array_equal(read_values(tmp_path / name), values)


def test_opaque_alpha_is_ignored_and_transparency_refused(tmp_path: Path) -> None:
    values = numbers(0, 1)
    rgba = np.stack([values] * 3 + [np.full(SIZE, 255)], axis=2)
    np.testing.assert_array_equal(read_values(write_raw_png(tmp_path / "m.png", rgba, 8, RGBA)), values)
    rgba[3, 4, 3] = 254
    with pytest.raises(InputError, match=r"t\.png: has transparent pixels"):
        read_values(write_raw_png(tmp_path / "t.png", rgba, 8, RGBA))


def test_colour_picture_is_refused_as_label_map(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3))
    rgb[:5] = 7, 8, 9
    path = write_raw_png(tmp_path / "m.png", rgb, 8, RGB)
    with pytest.raises(InputError, match=r"m\.png: \d+ different colours \(most often #070809 20.8 %, .*anti-aliasing"):
        read_label_set([path], None)


def test_16_bit_rgb_is_refused_rather_than_merged(tmp_path: Path) -> None:
    rgb = np.stack([numbers(256, 257)] * 3, axis=2)
    with pytest.raises(InputError, match=r"m\.png: 16-bit label maps are read in grey alone"):
        read_values(write_raw_png(tmp_path / "m.png", rgb, 16, RGB))


def test_jpeg_float_and_inverted_masks_are_refused(tmp_path: Path) -> None:
    values = numbers(0, 255).astype(np.uint8)
    Image.fromarray(values).save(tmp_path / "m.jpg")
    tifffile.imwrite(tmp_path / "f.tif", values.astype(np.float32), photometric="minisblack")
    tifffile.imwrite(tmp_path / "w.tif", values, photometric="miniswhite")
    for name, words in [("m.jpg", "JPEG alters"), ("f.tif", "whole numbers"), ("w.tif", "WhiteIsZero")]:
        with pytest.raises(InputError, match=rf"{name}: .*{words}"):
            read_values(tmp_path / name)


def test_1x1_missing_and_damaged_masks_are_refused(tmp_path: Path) -> None:
    Image.new("L", (1, 1)).save(tmp_path / "one.png")
    whole = write_raw_png(tmp_path / "cut.png", numbers(0, 1), 8, GREY).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name, words in [("one.png", "1×1 px"), ("none.png", "no such file"), ("cut.png", "damaged")]:
        with pytest.raises(InputError, match=rf"{name}: .*{words}"):
            read_values(tmp_path / name)


def test_classes_are_read_in_their_order() -> None:
    classes = ClassMap.parse(" stroma = 255, epithelium=3 ,x=-1")
    assert classes == ClassMap(("stroma", "epithelium", "x"), (255, 3, -1))
    assert ClassMap.parse(str(classes)) == classes
    assert len(classes) == 3


def test_names_alone_count_from_zero_and_numbers_alone_have_no_name() -> None:
    assert ClassMap.parse("epithelium,stroma") == ClassMap(("epithelium", "stroma"), (0, 1))
    assert ClassMap.parse("0,255") == ClassMap(("class 0", "class 1"), (0, 255))


@pytest.mark.parametrize("text", ["", "a=", "=1", "a=1,", "a=1.5", "a=b", "a=1,a=2", "a=1,b=1", "a=0x1", "a,b=0"])
def test_unreadable_classes_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="`classes`"):
        ClassMap.parse(text)


def test_too_many_classes_are_refused() -> None:
    with pytest.raises(InputError, match="33 classes"):
        ClassMap.parse(",".join(str(value) for value in range(33)))


def test_order_of_the_classes_gives_the_index(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", numbers(0, 7, 255))
    labels = read_labels(path, ClassMap.parse("lumen=255,epithelium=0,stroma=7"))
    values = read_values(path)
    for index, value in enumerate((255, 0, 7)):
        np.testing.assert_array_equal(labels == index, values == value)
    assert labels.dtype == np.int64


def test_label_with_no_class_is_refused_with_values_and_share(tmp_path: Path) -> None:
    values = np.zeros(SIZE, dtype=np.int64)
    values[0, :8], values[1, :8] = 9, 200
    path = save(tmp_path / "mask.png", values)
    with pytest.raises(
        InputError, match=r"mask\.png: the label 9, 200 \(2\.1 % of the pixels\).*epithelium=0,stroma=1"
    ):
        read_labels(path, ClassMap.parse("epithelium=0,stroma=1"))


@pytest.mark.parametrize("count", [2, 3, 32])
def test_numbers_from_zero_are_the_classes_themselves(tmp_path: Path, count: int) -> None:
    values = numbers(*range(count))
    result = read_label_set([save(tmp_path / "m.png", values)], None)
    assert result.classes == ClassMap.of_values(range(count))
    assert len(result.notes) == (count >= 9), "so many may number nuclei"
    np.testing.assert_array_equal(result.maps[0], values)


def test_0_and_255_are_two_classes_with_a_note(tmp_path: Path) -> None:
    values = numbers(0, 255)
    result = read_label_set([save(tmp_path / "m.png", values)], None)
    np.testing.assert_array_equal(result.maps[0], values // 255)
    assert len(result.classes) == 2
    assert "255 as class 1" in result.notes[0]


def test_files_are_read_with_one_common_map(tmp_path: Path) -> None:
    origin = save(tmp_path / "origin.png", numbers(0, 1, 2))
    target = save(tmp_path / "target.png", numbers(0, 2))
    result = read_label_set([origin, target], None)
    assert len(result.classes) == 3
    np.testing.assert_array_equal(result.maps[1], numbers(0, 2))
    white = save(tmp_path / "white.png", np.full(SIZE, 255))
    result = read_label_set([save(origin, numbers(0, 255)), white], None)
    assert (result.maps[1] == 1).all()


def test_files_that_number_differently_are_refused_naming_each(tmp_path: Path) -> None:
    paths = [save(tmp_path / "origin.png", numbers(0, 255)), save(tmp_path / "target.png", numbers(0, 1))]
    with pytest.raises(InputError, match=r"origin\.png holds 0, 255; .*target\.png holds 0, 1: .*`classes`"):
        read_label_set(paths, None)


@pytest.mark.parametrize("values", [(1, 2), (0, 2), (3, 17), (0, 128)])
def test_other_numbers_ask_for_classes_with_an_example_that_works(tmp_path: Path, values: tuple[int, ...]) -> None:
    path = save(tmp_path / "m.png", numbers(*values))
    with pytest.raises(InputError, match=r"m\.png holds") as caught:
        read_label_set([path], None)
    example = ClassMap.parse(str(caught.value).rsplit(" ", 1)[1])
    assert example.values == values
    np.testing.assert_array_equal(read_label_set([path], example).maps[0], np.searchsorted(values, numbers(*values)))


def test_picture_instead_of_labels_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.arange(768).reshape(SIZE) % 200)
    with pytest.raises(InputError, match=r"m\.png: 200 different values, which is a picture"):
        read_label_set([path], None)


def test_empty_mask_is_one_class_with_a_note(tmp_path: Path) -> None:
    result = read_label_set([save(tmp_path / "m.png", np.zeros(SIZE, dtype=np.int64))], None)
    assert len(result.classes) == 1
    assert "one class only" in result.notes[0]


def test_mask_of_another_size_than_its_image_is_refused() -> None:
    labels, image = np.zeros((24, 32), dtype=np.int64), np.zeros((32, 24, 3), dtype=np.uint8)
    with pytest.raises(InputError, match=r"mask\.png: 32×24 px, but its image image\.png has 24×32 px"):
        check_same_size(labels, "mask.png", image, "image.png")
    check_same_size(labels, "mask.png", image.transpose(1, 0, 2), "image.png")


def test_ignored_values_are_no_class(tmp_path) -> None:
    path = tmp_path / "mask.png"
    values = np.repeat(np.array([[1, 2, 0, 255]], np.uint8), 16, axis=0).repeat(8, axis=1)
    Image.fromarray(values).save(path)
    classes = ClassMap.parse("tumour=1,ignore=0,stroma=2,ignore=255")
    assert (classes.names, classes.values, classes.ignored) == (("tumour", "stroma"), (1, 2), (0, 255))
    assert ClassMap.parse(str(classes)) == classes
    (labels,) = read_label_set([path], classes).maps
    assert labels[0, ::8].tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("text", ["a=1,ignore", "a=1,ignore=1", "ignore=0", "a=#ffffff,ignore=0"])
def test_what_cannot_be_ignored_is_refused(text) -> None:
    with pytest.raises(InputError, match="`classes`"):
        ClassMap.parse(text)
