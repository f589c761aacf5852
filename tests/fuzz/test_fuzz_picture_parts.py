"""Pictures damaged before their checksums were taken, as faulty programs write them, and kinds that are rarer."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from imaging.errors import InputError
from imaging.images import read_image
from tests.fuzz.mutations import mutate_bytes, seeds
from tests.fuzz.reading import read_labels, refused_in_one_line_or_read
from tests.imaging.picture_files import png_bytes

COUNT = 4
HEIGHT, WIDTH = 24, 27
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
KINDS = [
    (colour_type, bits, interlace)
    for colour_type, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}.items()
    for bits in depths
    for interlace in (0, 1)
]
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def packed(header: bytes, palette: bytes, transparency: bytes, pixels: bytes) -> bytes:
    chunks = [(b"IHDR", header), (b"PLTE", palette), (b"tRNS", transparency), (b"IDAT", pixels), (b"IEND", b"")]
    return png_bytes(*(chunk for chunk in chunks if chunk[1] or chunk[0] == b"IEND"))


def unfiltered(colour_type: int, bits: int, interlace: int) -> bytes:
    """Rows of zeros and ones for every pass; the last channel of a picture with alpha is opaque."""
    channels = CHANNELS[colour_type]
    pixels = np.random.default_rng(bits).integers(0, 2, (HEIGHT, WIDTH, channels))
    if colour_type in (4, 6):
        pixels[..., -1] = 2**bits - 1
    rows = []
    for left, top, across, down in PASSES if interlace else ((0, 0, 1, 1),):
        for row in pixels[top::down, left::across]:
            ones = np.unpackbits(row.reshape(-1).astype(">u2").view(np.uint8)).reshape(-1, 16)[:, 16 - bits :]
            rows.append(b"\0" + np.packbits(ones.reshape(-1)).tobytes())
    return b"".join(rows)


def damaged_png(kind: tuple[int, int, int], rng: random.Random) -> bytes:
    colour_type, bits, interlace = kind
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, interlace)
    palette = bytes((255, 0, 0, 0, 0, 255)) if colour_type == 3 else b""
    transparency, pixels = b"", unfiltered(*kind)
    part = rng.randrange(6)
    if part == 0:
        header = mutate_bytes(header, rng)
    elif part == 1:
        changed = bytearray(header)
        changed[rng.choice((3, 7, 8, 9, 10, 11, 12))] = rng.randrange(32)
        header = bytes(changed)
    elif part == 2:
        palette = mutate_bytes(palette, rng)
    elif part == 3:
        transparency = rng.randbytes(rng.randrange(8))
    elif part == 4:
        pixels = mutate_bytes(pixels, rng)
    stream = zlib.compress(pixels)
    return packed(header, palette, transparency, mutate_bytes(stream, rng) if part == 5 else stream)


def saved(mode: str, form: str, **options: object) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 4, (40, 48, 3), dtype=np.uint8)
    image = Image.fromarray(pixels).quantize(4) if mode == "P" else Image.fromarray(pixels).convert(mode)
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def tiff(planar: bool = False, **options: object) -> bytes:
    pixels = np.random.default_rng(4).integers(0, 4, (40, 48, 3), dtype=np.uint8)
    content = io.BytesIO()
    kind = "separate" if planar else "contig"
    tifffile.imwrite(
        content, np.moveaxis(pixels, 2, 0).copy() if planar else pixels, photometric="rgb", planarconfig=kind, **options
    )
    return content.getvalue()


RARER: dict[str, Callable[[], bytes]] = {
    "tiles.tif": lambda: tiff(tile=(16, 16)),
    "planes.tif": lambda: tiff(planar=True),
    "planes-in-tiles.tif": lambda: tiff(planar=True, tile=(16, 16)),
    "strips.tif": lambda: tiff(rowsperstrip=8, byteorder=">"),
    "big.tif": lambda: tiff(bigtiff=True),
    "jpeg.tif": lambda: saved("RGB", "TIFF", compression="jpeg"),
    "fax.tif": lambda: saved("1", "TIFF", compression="group4"),
    "palette.tif": lambda: saved("P", "TIFF", compression="packbits"),
    "lzma.tif": lambda: saved("L", "TIFF", compression="lzma"),
    "progressive.jpg": lambda: saved("RGB", "JPEG", progressive=True),
    "restarts.jpg": lambda: saved("L", "JPEG", restart_marker_rows=1),
    "grey.bmp": lambda: saved("L", "BMP"),
    "alpha.bmp": lambda: saved("RGBA", "BMP"),
    "one.bmp": lambda: saved("1", "BMP"),
}


def check_refused_in_one_line_or_read(path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for read in (read_image, read_labels):
        refused_in_one_line_or_read(read, path)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_png_of_every_kind_is_read_whole(kind: tuple[int, int, int], tmp_path: Path) -> None:
    colour_type, bits, interlace = kind
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, interlace)
    palette = bytes((255, 0, 0, 0, 0, 255)) if colour_type == 3 else b""
    path = tmp_path / "a.png"
    path.write_bytes(packed(header, palette, b"", zlib.compress(unfiltered(*kind))))
    if bits == 16:
        with pytest.raises(InputError, match="16-bit values below 4096"):
            read_image(path)
    else:
        assert read_image(path).shape == (HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("seed", seeds(COUNT))
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_png_of_wrong_parts_is_refused_in_one_line_or_read(
    kind: tuple[int, int, int], seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(damaged_png(kind, random.Random(f"{kind} {seed}")))
    check_refused_in_one_line_or_read(path, capfd)


@pytest.mark.parametrize("seed", seeds(COUNT))
@pytest.mark.parametrize("name", RARER)
def test_damaged_files_of_rarer_kinds_are_refused_in_one_line_or_read(
    name: str, seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = RARER[name]()
    (tmp_path / name).write_bytes(whole)
    assert read_image(tmp_path / name).shape == (40, 48, 3)
    (tmp_path / name).write_bytes(mutate_bytes(whole, random.Random(f"{name} {seed}")))
    check_refused_in_one_line_or_read(tmp_path / name, capfd)


@pytest.mark.parametrize("name", RARER)
def test_a_cut_file_is_refused_or_gives_all_its_pixels(name: str, tmp_path: Path) -> None:
    path, whole = tmp_path / name, RARER[name]()
    path.write_bytes(whole)
    pixels = read_image(path)
    for length in range(0, len(whole), max(1, len(whole) // 25)):
        path.write_bytes(whole[:length])
        with contextlib.suppress(InputError):
            np.testing.assert_array_equal(read_image(path), pixels)
