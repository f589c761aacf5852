"""Picture files that Pillow does not write, byte by byte, for the tests of reading."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

GREY, RGB, GREY_ALPHA, RGBA = 0, 2, 4, 6


def write_raw_png(path: Path, array: NDArray[np.integer], bits: int, colour_type: int) -> Path:
    """Write [H, W] or [H, W, C] numbers below 2**bits as an unfiltered PNG of that depth."""
    height, width = array.shape[:2]
    flat = array.reshape(height, -1)
    if bits < 8:
        each = np.unpackbits(flat.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = np.packbits(each.reshape(height, -1), axis=1)
    else:
        rows = np.ascontiguousarray(flat.astype(">u2" if bits == 16 else np.uint8)).view(np.uint8)
    data = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    path.write_bytes(png_bytes(*chunks))
    return path


def png_bytes(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks, each a kind and a body."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk with its length and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
