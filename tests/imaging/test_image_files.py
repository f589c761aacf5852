from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from picture_files import GREY, GREY_ALPHA, RGB, RGBA, write_raw_png
from PIL import Image

from imaging import images
from imaging.errors import InputError
from imaging.images import read_image, write_png

SIZE = (24, 32)


def colours(seed: int = 0, size: tuple[int, int] = SIZE) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def deep(channels: int | None, seed: int = 0) -> NDArray[np.uint16]:
    shape = SIZE if channels is None else (*SIZE, channels)
    return np.random.default_rng(seed).integers(0, 65536, shape, dtype=np.uint16)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.tiff", "a.bmp"])
def test_lossless_formats_give_the_pixels_back(tmp_path: Path, name: str) -> None:
    Image.fromarray(colours()).save(tmp_path / name)
    read = read_image(tmp_path / name)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, colours())


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "packbits"])
def test_compressed_tiff_gives_the_pixels_back(tmp_path: Path, compression: str) -> None:
    Image.fromarray(colours()).save(tmp_path / "a.tif", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), colours())


def test_jpeg_is_read(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, SIZE[1])[None, :, None], (*SIZE, 3)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - smooth).max() < 16


def test_name_need_not_tell_the_format(tmp_path: Path) -> None:
    Image.fromarray(colours()).save(tmp_path / "slide 12.5x [x=0,y=0].image", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "slide 12.5x [x=0,y=0].image"), colours())


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    Image.fromarray(colours()[..., 0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.repeat(colours()[..., :1], 3, axis=2))


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    bits = colours()[..., 0] > 127
    Image.fromarray(bits).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 1], bits * 255)


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    index = colours()[..., 0] % 3
    palette = np.array([[10, 20, 30], [200, 100, 50], [0, 0, 255]], dtype=np.uint8)
    image = Image.fromarray(index)
    image.putpalette(palette.tobytes())
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), palette[index])


@pytest.mark.parametrize(("colour_type", "channels"), [(GREY, None), (RGB, 3)])
def test_16_bit_png_gives_the_upper_eight_bits(tmp_path: Path, colour_type: int, channels: int | None) -> None:
    path = write_raw_png(tmp_path / "a.png", deep(channels), 16, colour_type)
    expected = deep(channels) >> 8
    np.testing.assert_array_equal(read_image(path), expected if channels else np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("channels", [None, 3])
def test_16_bit_tiff_gives_the_upper_eight_bits(tmp_path: Path, byteorder: str, channels: int | None) -> None:
    photometric = "rgb" if channels else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", deep(channels), photometric=photometric, byteorder=byteorder)
    expected = deep(channels) >> 8
    expected = expected if channels else np.stack([expected] * 3, axis=2)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_greys_stored_inverted_are_turned_back(tmp_path: Path, bits: int) -> None:
    stored = (deep(None) >> (16 - bits)).astype(np.uint8 if bits == 8 else np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif")[..., 0], 255 - (deep(None) >> 8))


@pytest.mark.parametrize("channels", [None, 3])
def test_16_bit_image_that_was_never_scaled_is_refused(tmp_path: Path, channels: int | None) -> None:
    path = write_raw_png(tmp_path / "dark.png", deep(channels) >> 4, 16, RGB if channels else GREY)
    with pytest.raises(InputError, match=r"dark\.png: 16-bit values below 4096.*scale"):
        read_image(path)


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.random.default_rng(1).integers(0, 256, (*SIZE, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    alpha = rgba[..., 3:] / 255
    exact = rgba[..., :3] * alpha + 255 * (1 - alpha)
    read = read_image(tmp_path / "a.png")
    assert np.abs(read - exact).max() <= 0.5 + 1e-9
    np.testing.assert_array_equal(read[rgba[..., 3] == 255], rgba[rgba[..., 3] == 255][:, :3])


def test_16_bit_alpha_and_grey_alpha_are_composited(tmp_path: Path) -> None:
    clear = np.zeros((*SIZE, 4), dtype=np.uint16)
    clear[:, :16] = (65535, 0, 0, 65535)
    read = read_image(write_raw_png(tmp_path / "a.png", clear, 16, RGBA))
    assert (read[:, :16] == (255, 0, 0)).all()
    assert (read[:, 16:] == 255).all()
    read = read_image(write_raw_png(tmp_path / "b.png", clear[..., [1, 3]] // 257, 8, GREY_ALPHA))
    assert (read[:, :16] == 0).all()
    assert (read[:, 16:] == 255).all()


def test_transparent_colour_of_a_png_without_alpha_becomes_white(tmp_path: Path) -> None:
    pixels = np.full((*SIZE, 3), 10, dtype=np.uint8)
    pixels[0] = (1, 2, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png", transparency=(1, 2, 3))
    read = read_image(tmp_path / "a.png")
    assert (read[0] == 255).all()
    assert (read[1:] == 10).all()


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_orientation_is_applied(tmp_path: Path, name: str) -> None:
    pixels = np.zeros((*SIZE, 3), dtype=np.uint8)
    pixels[:, :16] = 255
    exif = Image.Exif()
    exif[274] = 6  # the first row is the right-hand side
    Image.fromarray(pixels).save(tmp_path / name, exif=exif)
    read = read_image(tmp_path / name)
    assert read.shape == (32, 24, 3)
    assert read[:14].min() > 240
    assert read[18:].max() < 15


def test_tiff_orientation_is_applied_once(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", colours(), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.rot90(colours(), -1))


@pytest.mark.parametrize("name", ["a.jpg", "a.tif"])
def test_cmyk_is_refused(tmp_path: Path, name: str) -> None:
    Image.new("CMYK", (32, 32)).save(tmp_path / name)
    with pytest.raises(InputError, match=rf"{name}: an image in CMYK.*save it as RGB"):
        read_image(tmp_path / name)


@pytest.mark.parametrize(("dtype", "words"), [("f4", "floating-point"), ("i4", "32-bit integers"), ("f8", "not a PNG")])
def test_other_number_types_are_refused(tmp_path: Path, dtype: str, words: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros(SIZE, dtype), photometric="minisblack")
    with pytest.raises(InputError, match=rf"a\.tif: .*{words}.*save it as (an )?8-bit"):
        read_image(tmp_path / "a.tif")


def test_several_pages_are_refused(tmp_path: Path) -> None:
    page = Image.fromarray(colours())
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page, page])
    with pytest.raises(InputError, match=r"a\.tif: holds 3 pages"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("size", [(1, 1), (15, 64), (64, 15)])
def test_tiny_image_is_refused_with_its_size(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "a.png")
    with pytest.raises(InputError, match=rf"a\.png: {size[0]}×{size[1]} px; .*16×16"):
        read_image(tmp_path / "a.png")


def test_smallest_image_is_read(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").shape == (16, 16, 3)


def test_image_beyond_pillows_limit_is_refused_with_the_memory_it_would_want(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (2000, 1500)).save(tmp_path / "a.png")
    for limit in (2_999_999, 10):  # Pillow warns above the limit and raises above twice the limit
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(InputError, match=r"a\.png: 3 megapixels would want about 11 GiB.*smaller patches"):
            read_image(tmp_path / "a.png")


def test_missing_file_folder_and_other_content_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    Image.new("RGB", (32, 32)).save(tmp_path / "a.gif")
    for name, words in [
        ("none.png", "no such file"),
        (".", "not a file"),
        ("notes.png", "not a PNG, TIFF, JPEG or BMP image"),
        ("empty.png", "not a PNG, TIFF, JPEG or BMP image"),
        ("a.gif", "not a PNG, TIFF, JPEG or BMP image"),
    ]:
        with pytest.raises(InputError, match=words) as caught:
            read_image(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.jpg", "a.bmp"])
def test_damaged_file_is_refused_or_read_but_never_crashes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # a damaged size may ask for gigabytes
    Image.fromarray(colours(size=(20, 20))).save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(2)
    messages = []
    for attempt in range(100):
        damaged = bytearray(whole)
        if attempt % 2:
            damaged = damaged[: rng.integers(1, len(whole))]
        else:
            for place in rng.integers(0, min(len(whole), 300), 4):
                damaged[place] = rng.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        try:
            assert read_image(tmp_path / name).ndim == 3
        except InputError as error:
            messages.append(str(error))
    assert len(messages) >= 25
    assert all(name in message and "\n" not in message for message in messages)


@pytest.mark.parametrize("shape", [(24, 32, 3), (24, 32)])
def test_written_png_reads_back_with_its_text(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, shape, dtype=np.uint8)
    text = {"Software": "stainloom 1", "note": "Färbung: Ki-67 ≥ 20 %\nzweite Zeile", "long": "x" * 100_000}
    write_png(tmp_path / "a.png", pixels, text)
    with Image.open(tmp_path / "a.png") as image:
        assert image.text == text
    read = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(read, pixels if len(shape) == 3 else np.stack([pixels] * 3, axis=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_sliced_array_is_written_as_it_looks(tmp_path: Path) -> None:
    write_png(tmp_path / "a.png", colours()[::-1, ::2])
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), colours()[::-1, ::2])


@pytest.mark.parametrize(
    "array", [np.zeros((20, 20), np.float32), np.zeros((20, 20, 4), np.uint8), np.zeros((0, 20, 3), np.uint8)]
)
def test_wrong_arrays_are_refused_before_writing(tmp_path: Path, array: NDArray[np.generic]) -> None:
    with pytest.raises(ValueError, match=r"need uint8"):
        write_png(tmp_path / "a.png", array)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, RuntimeError])
@pytest.mark.parametrize("before", [None, b"an older file"])
def test_interrupted_write_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException], before: bytes | None
) -> None:
    path = tmp_path / "a.png"
    if before is not None:
        path.write_bytes(before)

    class Interrupted:
        def save(self, file: BinaryIO, **_: object) -> None:
            file.write(b"\x89PNG half a fi")
            raise error

    monkeypatch.setattr(images.Image, "fromarray", lambda array: Interrupted())
    with pytest.raises(error):
        write_png(path, colours())
    assert [p.name for p in tmp_path.iterdir()] == ([] if before is None else ["a.png"])
    assert before is None or path.read_bytes() == before


def test_writing_below_a_file_is_an_input_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file" / "a.png", tmp_path / "missing" / "a.png"):
        with pytest.raises(InputError, match=r"a\.png: cannot be written .*choose another"):
            write_png(path, colours())
