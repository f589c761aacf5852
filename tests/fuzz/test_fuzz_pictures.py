"""Damaged pictures: refused in one line, or read as something of the right shape; nothing reaches the terminal."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imaging.errors import InputError
from imaging.images import read_image
from imaging.labels import read_label_set
from tests.fuzz.mutations import mutate_bytes, seeds
from tests.fuzz.reading import read_labels, refused_in_one_line_or_read

COUNT = 40


def encoded(mode: str, form: str, **options: object) -> bytes:
    rng = np.random.default_rng(5)
    shape = (40, 48, 3) if mode == "RGB" else (40, 48)
    pixels = rng.integers(0, 3, shape).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(pixels)
    if mode == "P":
        image.putpalette(bytes(range(9)))
    if mode == "1":
        image = image.point(lambda value: 255 * (value > 0)).convert("1")
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


WHOLE = {
    "grey.png": encoded("L", "PNG"),
    "palette.png": encoded("P", "PNG", bits=2),
    "one.png": encoded("1", "PNG"),
    "deep.png": encoded("I;16", "PNG"),
    "rgb.png": encoded("RGB", "PNG"),
    "plain.tif": encoded("L", "TIFF"),
    "lzw.tif": encoded("RGB", "TIFF", compression="tiff_lzw"),
    "deflate.tif": encoded("I;16", "TIFF", compression="tiff_adobe_deflate"),
    "a.jpg": encoded("RGB", "JPEG"),
    "a.bmp": encoded("P", "BMP"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_are_read(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(WHOLE[name])
    assert read_image(tmp_path / name).shape == (40, 48, 3) if name != "deep.png" and name != "deflate.tif" else True


@pytest.mark.parametrize("seed", seeds(COUNT))
@pytest.mark.parametrize("name", WHOLE)
def test_damaged_files_are_refused_in_one_line_or_read(
    name: str, seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path, whole = tmp_path / name, tmp_path / f"whole_{name}"
    path.write_bytes(mutate_bytes(WHOLE[name], random.Random(f"{name} {seed}")))
    whole.write_bytes(WHOLE[name])
    for read in (read_image, read_labels):
        pixels = refused_in_one_line_or_read(read, path)
        if pixels is not None and name.endswith(".png"):
            # Checksums cover all of a PNG, so what is read at all is what was written.
            np.testing.assert_array_equal(pixels, read(whole))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("rows", range(0, 40, 7))
def test_a_png_with_rows_missing_is_refused(rows: int, tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 48, 40, 8, 0, 0, 0, 0)
    pixels = zlib.compress((b"\0" + bytes(48)) * rows)
    path = tmp_path / "short.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    with pytest.raises(InputError, match=r"short\.png: damaged or cut short \(\d+ % of the pixels are there\)"):
        read_label_set([path], None)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "loop", "long", "null", "surrogate", "nothing"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "nothing":
        path.symlink_to(tmp_path / "gone")
    else:
        path = tmp_path / {"long": "x" * 300, "null": "a\0b", "surrogate": "\udcff\ud800"}[kind]
    for read in (lambda: read_image(path), lambda: read_label_set([path], None)):
        with pytest.raises(InputError) as refusal:
            read()
        assert str(refusal.value).isprintable()
