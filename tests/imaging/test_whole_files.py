"""Files of which a part is missing or wrong are refused, in every format; nothing reaches the terminal."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from picture_files import png_bytes, png_chunk
from PIL import Image

import imaging
from imaging.errors import InputError
from imaging.images import read_image
from imaging.maskfile import read_mask

ROOT = Path(imaging.__file__).resolve().parent.parent
HEIGHT, WIDTH = 29, 37
GREYS = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH))
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def rows_of(greys: NDArray[np.int64], bits: int) -> bytes:
    if bits == 16:
        return b"".join(b"\0" + row.astype(">u2").tobytes() for row in greys)
    each = np.unpackbits(greys.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    return b"".join(b"\0" + np.packbits(row).tobytes() for row in each)


def interlaced(greys: NDArray[np.int64], bits: int) -> bytes:
    passes = [greys[top::down, left::across] for top, left, down, across in ADAM7]
    return b"".join(rows_of(part, bits) for part in passes if part.size)


def grey_png(path: Path, pixels: bytes, bits: int = 8, interlace: int = 0) -> Path:
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, 0, 0, 0, interlace)
    path.write_bytes(png_bytes((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path)
    message = str(caught.value)
    assert message.isprintable()
    assert path.name in message
    return message


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_an_interlaced_png_is_read_whole_and_refused_when_a_row_is_missing(tmp_path: Path, bits: int) -> None:
    greys = GREYS * (2**bits - 1) // 255
    pixels = interlaced(greys, bits)
    read = read_mask(grey_png(tmp_path / "a.png", pixels, bits, 1)).numbers
    np.testing.assert_array_equal(read, greys)
    row = 1 + -(-WIDTH * bits // 8)
    for part in (b"", pixels[: len(pixels) // 2], pixels[:-row], pixels[:-1]):
        assert "% of the pixels are there" in refusal(grey_png(tmp_path / "short.png", part, bits, 1))
    assert "more pixels" in refusal(grey_png(tmp_path / "long.png", pixels + b"\0", bits, 1))


@pytest.mark.parametrize("size", [(16, 16), (17, 16), (16, 23), (64, 40)])
def test_interlaced_pngs_of_any_size_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    greys = np.random.default_rng(1).integers(0, 256, size)
    header = struct.pack(">IIBBBBB", size[1], size[0], 8, 0, 0, 0, 1)
    data = png_bytes((b"IHDR", header), (b"IDAT", zlib.compress(interlaced(greys, 8))), (b"IEND", b""))
    (tmp_path / "a.png").write_bytes(data)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png").numbers, greys)


def test_a_png_with_a_wrong_checksum_or_without_its_end_is_refused(tmp_path: Path) -> None:
    whole = grey_png(tmp_path / "whole.png", rows_of(GREYS, 8)).read_bytes()
    assert read_image(tmp_path / "whole.png").shape == (HEIGHT, WIDTH, 3)
    pixels = whole.index(b"IDAT")
    wrong = bytearray(whole)
    wrong[-13] ^= 1
    for name, data, words in (
        ("crc", bytes(wrong), "the checksum of chunk 2 is wrong"),
        ("no_end", whole[:-12], "it ends before its last chunk"),
        ("cut_end", whole[:-1], "it ends"),
        ("cut_pixels", whole[: pixels + 40], "it ends within chunk 2"),
        ("no_pixels", whole[: pixels - 4] + whole[-12:], ""),
        ("header_twice", whole[:33] + whole[8:], "chunk 2 is out of place"),
        ("endless", whole[:33] + struct.pack(">I", 2**32 - 1) + whole[37:], "it ends within chunk 2"),
    ):
        (tmp_path / f"{name}.png").write_bytes(data)
        assert words in refusal(tmp_path / f"{name}.png")


def test_pixels_in_many_pieces_are_read_and_refused_with_something_between(tmp_path: Path) -> None:
    packed = zlib.compress(rows_of(GREYS, 8))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    pieces = [(b"IDAT", packed[at : at + 7]) for at in range(0, len(packed), 7)]
    (tmp_path / "a.png").write_bytes(png_bytes((b"IHDR", header), *pieces, (b"IEND", b"")))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png")[..., 0], GREYS)
    between = [*pieces[:3], (b"tEXt", b"a\0b"), *pieces[3:]]
    (tmp_path / "b.png").write_bytes(png_bytes((b"IHDR", header), *between, (b"IEND", b"")))
    assert "not in one piece" in refusal(tmp_path / "b.png")
    tail = [(b"IHDR", header), (b"IDAT", packed[:-4]), (b"IEND", b"")]
    (tmp_path / "c.png").write_bytes(png_bytes(*tail))
    assert "without their checksum" in refusal(tmp_path / "c.png")


def test_a_png_that_unpacks_without_end_is_refused_without_unpacking_it(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 26))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(png_bytes((b"IHDR", header), (b"IDAT", bomb), (b"IEND", b"")))
    assert "more pixels" in refusal(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("compression", "shape"),
    [
        (None, "strips"),
        (None, "tiles"),
        ("zlib", "strips"),
        ("zlib", "tiles"),
        ("lzw", "strips"),
        ("packbits", "strips"),
    ],
)
def test_a_tiff_with_a_part_missing_is_refused(tmp_path: Path, compression: str | None, shape: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    options = {"tile": (16, 16)} if shape == "tiles" else {"rowsperstrip": 16}
    if compression in ("lzw", "packbits"):
        Image.fromarray(rgb).save(tmp_path / "a.tif", compression={"lzw": "tiff_lzw"}.get(compression, compression))
    else:
        tifffile.imwrite(tmp_path / "a.tif", rgb, photometric="rgb", compression=compression, **options)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), rgb)
    whole = (tmp_path / "a.tif").read_bytes()
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        tags = file.pages[0].tags
        code = 325 if shape == "tiles" else 279
        at, size = tags[code].valueoffset, 2 if tags[code].dtype == 3 else 4
        counts = np.atleast_1d(tags[code].value)
        first = int(np.atleast_1d(tags[code - 1 if shape == "tiles" else 273].value)[0])
    short = bytearray(whole)
    short[at : at + size] = int(counts[0] // 2).to_bytes(size, "little")
    (tmp_path / "short.tif").write_bytes(short)
    assert "short.tif: damaged or cut short" in refusal(tmp_path / "short.tif")
    cut = whole[: first + int(counts[0]) // 2]
    (tmp_path / "cut.tif").write_bytes(cut)
    refusal(tmp_path / "cut.tif")


def test_a_jpeg_or_bmp_cut_short_is_refused(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "a.bmp"):
        Image.fromarray(rgb).save(tmp_path / name)
        whole = (tmp_path / name).read_bytes()
        assert read_image(tmp_path / name).shape == rgb.shape
        for size in (len(whole) // 2, len(whole) - 2):
            (tmp_path / f"cut_{name}").write_bytes(whole[:size])
            refusal(tmp_path / f"cut_{name}")


JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 3},
    "progressive restarts": {"progressive": True, "restart_marker_rows": 1},
    "full colour": {"subsampling": 0, "quality": 95},
}


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_with_pixels_missing_before_its_end_marker_is_refused(tmp_path: Path, kind: str, mode: str) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (72, 90, 3), dtype=np.uint8)).convert(mode)
    image.save(tmp_path / "a.jpg", **JPEGS[kind])
    whole = (tmp_path / "a.jpg").read_bytes()
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.jpg"), np.asarray(Image.open(tmp_path / "a.jpg").convert("RGB"))
    )
    (tmp_path / "trailer.jpg").write_bytes(whole + b"what some cameras append")
    read_image(tmp_path / "trailer.jpg")
    for lost in (5, 40, 400):
        (tmp_path / "short.jpg").write_bytes(whole[: -2 - lost] + whole[-2:])
        assert "damaged or cut short (" in refusal(tmp_path / "short.jpg")


def test_libtiff_says_nothing_on_the_terminal(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 4, (48, 64, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(rgb).save(content, "TIFF", compression="tiff_lzw")
    damaged = bytearray(content.getvalue())
    damaged[200:260] = b"\xff" * 60
    (tmp_path / "damaged.tif").write_bytes(damaged)
    # An unknown tag, which libtiff warns of; the pixels are all there.
    tifffile.imwrite(
        tmp_path / "tagged.tif", rgb, photometric="rgb", compression="zlib", extratags=[(60001, "H", 1, 6, True)]
    )
    script = (
        "import os, sys\n"
        "from imaging.errors import InputError\n"
        "from imaging.images import read_image\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        print(read_image(name).shape)\n"
        "    except InputError as error:\n"
        "        print(error)\n"
        "os.write(2, b'still here')\n"
    )
    names = [str(tmp_path / name) for name in ("damaged.tif", "tagged.tif")]
    done = subprocess.run([sys.executable, "-c", script, *names], cwd=ROOT, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{names[0]}: damaged or cut short (")
    assert lines[1] == "(48, 64, 3)"
    assert done.stderr == "still here"


def test_chunks_of_the_test_pictures_have_their_checksum() -> None:
    assert png_chunk(b"IEND", b"") == b"\0\0\0\0IEND\xaeB`\x82"
