"""Is a picture file whole? Pillow leaves black what is missing in some files, without a word.

Every function raises ValueError, with the reason as its text, where a file is not.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass

from PIL import TiffImagePlugin

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column, first row, step right, step down of the seven passes of an interlaced PNG (its specification, 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_MANY_BYTES = 1 << 18

_BITS_PER_SAMPLE = 258
_COMPRESSION = 259
_SAMPLES_PER_PIXEL = 277
_ROWS_PER_STRIP = 278
_PLANAR = 284
_STRIPS = (273, 279)  # offsets, byte counts
_TILES = (324, 325)
_TILE_SIDES = (322, 323)  # width, length
_PHOTOMETRIC = 262
_YCBCR = 6  # whose colours may be stored at half the size
_UNCOMPRESSED = 1
_SEPARATE_PLANES = 2

_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_RESTARTS = range(0xD0, 0xD8)
# In the pixels of a JPEG a marker's first byte stands for itself before 0.
_NEXT_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SURPLUS = 64 * b"\x55"
# Arithmetic coding leaves zeros away at its end, as its standard allows.
_ARITHMETIC = (0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)

# What libtiff says of a directory is about tags, which the pixels survive; these are about pixels.
_PIXEL_TROUBLE = re.compile(r"Decode|Lib:|Fill(Strip|Tile)|Read(Scanline|Encoded|Raw|Tile)|not yet in table")


@dataclass(frozen=True)
class PngParts:
    """The parts of a PNG file that say which pixels it holds."""

    width: int
    height: int
    bits: int
    colour_type: int
    interlaced: bool
    pixels: tuple[memoryview, ...]


def png_parts(data: bytes) -> PngParts:
    """Walk the chunks of a PNG file; their order and all checksums must be right, up to the last chunk."""
    view, position = memoryview(data), len(PNG_SIGNATURE)
    kinds: list[bytes] = []
    pixels: list[memoryview] = []
    header = b""
    while not kinds or kinds[-1] != b"IEND":
        if position + 12 > len(data):
            raise ValueError("it ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if end > len(data):
            raise ValueError(f"it ends within chunk {len(kinds) + 1}")
        if zlib.crc32(view[position + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            raise ValueError(f"the checksum of chunk {len(kinds) + 1} is wrong")
        body = view[position + 8 : end - 4]
        if (kind == b"IHDR") != (not kinds) or (kind in (b"IHDR", b"PLTE") and kind in kinds):
            raise ValueError(f"chunk {len(kinds) + 1} is out of place")
        if kind == b"IDAT":
            if pixels and kinds[-1] != b"IDAT":
                raise ValueError("its pixels are not in one piece")
            pixels.append(body)
        elif kind == b"IHDR":
            header = bytes(body)
        kinds.append(kind)
        position = end
    if len(header) != 13:
        raise ValueError("its header has a wrong length")
    width, height, bits, colour_type, _, _, interlace = struct.unpack(">IIBBBBB", header)
    if colour_type not in _PNG_CHANNELS or interlace > 1:
        raise ValueError("its header names an unknown colour type or interlacing")
    if colour_type == 3 and b"PLTE" not in kinds:
        raise ValueError("it has no palette")
    return PngParts(width, height, bits, colour_type, bool(interlace), tuple(pixels))


def check_png_pixels(parts: PngParts) -> None:
    """Unpack the pixels in small pieces: they must be exactly as many bytes as width, height and depth ask for."""
    wanted = _png_bytes(parts)
    unpacker = zlib.decompressobj()
    got = 0
    for part in parts.pixels:
        pending: bytes | memoryview = part
        while pending and not unpacker.eof and got <= wanted:
            got += len(unpacker.decompress(pending, _MANY_BYTES))
            pending = unpacker.unconsumed_tail
    while got <= wanted and not unpacker.eof:
        piece = unpacker.decompress(unpacker.unconsumed_tail, _MANY_BYTES)
        if not piece:
            break
        got += len(piece)
    if got < wanted:
        raise ValueError(f"{100 * got / wanted:.0f} % of the pixels are there")
    if got > wanted:
        raise ValueError("it holds more pixels than its header says")
    if not unpacker.eof:
        raise ValueError("its pixels end without their checksum")


def _png_bytes(parts: PngParts) -> int:
    bits = parts.bits * _PNG_CHANNELS[parts.colour_type]
    passes = _ADAM7 if parts.interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns = -(-(parts.width - left) // across)
        rows = -(-(parts.height - top) // down)
        if columns > 0 and rows > 0:
            total += rows * (1 + -(-columns * bits // 8))  # each row is led by the number of its filter
    return total


def check_tiff(image: TiffImagePlugin.TiffImageFile, size: int) -> None:
    """Check that the strips or tiles of an opened TIFF file of ``size`` bytes are all there and lie within it."""
    tags = image.tag_v2
    tiled = _TILES[0] in tags
    offsets, counts = (_numbers(tags.get(tag)) for tag in (_TILES if tiled else _STRIPS))
    width, height = int(tags.get(256, 0)), int(tags.get(257, 0))
    across, down = (width, int(tags.get(_ROWS_PER_STRIP, height)))
    if tiled:
        across, down = (int(tags.get(tag, 0)) for tag in _TILE_SIDES)
    if min(width, height, across, down) < 1:
        raise ValueError("the size of its strips or tiles is missing")
    samples = int(tags.get(_SAMPLES_PER_PIXEL, 1))
    bits = int(_numbers(tags.get(_BITS_PER_SAMPLE, 1))[0])
    planes = samples if tags.get(_PLANAR, 1) == _SEPARATE_PLANES else 1
    down = down if tiled else min(down, height)
    columns, rows = -(-width // across), -(-height // down)
    what = "tiles" if tiled else "strips"
    if len(offsets) < columns * rows * planes:
        raise ValueError(f"{len(offsets)} of {columns * rows * planes} {what} are there")
    if counts and len(counts) != len(offsets):
        raise ValueError(f"it has {len(offsets)} {what}, but the lengths of {len(counts)}")
    uncompressed = tags.get(_COMPRESSION, _UNCOMPRESSED) == _UNCOMPRESSED and tags.get(_PHOTOMETRIC) != _YCBCR
    row_bytes = -(-across * bits * (samples // planes) // 8)
    for index in range(columns * rows * planes):
        last = not tiled and index % rows == rows - 1
        wanted = row_bytes * (height - (rows - 1) * down if last else down) if uncompressed else 1
        count = counts[index] if counts else wanted
        if count < wanted:
            raise ValueError(f"one of its {what} has {count} of {wanted} bytes")
        if offsets[index] < 8 or offsets[index] + count > size:
            raise ValueError(f"one of its {what} lies outside of the file")


def _numbers(value: object) -> tuple[int, ...]:
    if value is None:
        return ()
    items = value if isinstance(value, tuple | list) else (value,)
    return tuple(int(item) for item in items)


def tells_of_lost_pixels(text: str) -> bool:
    """Whether what libtiff printed is about pixels, which it fills up as it can, rather than about tags."""
    return _PIXEL_TROUBLE.search(text) is not None


def jpeg_with_surplus(data: bytes) -> bytes:
    """Walk the segments of a JPEG file up to its end marker, and put bytes of no meaning behind each run of pixels.

    Decoders make up what is missing before a marker, without a word, and skip what is too much there. So the result
    decodes to the same pixels as ``data`` exactly if no pixels are missing (where they are Huffman-coded).
    """
    position, copied, surplus = 2, 0, _SURPLUS
    pieces: list[bytes] = []
    while position + 2 <= len(data):
        if data[position] != 0xFF:
            raise ValueError("its segments do not follow each other")
        marker = data[position + 1]
        position += 1 if marker == 0xFF else 2
        if marker == _END_OF_IMAGE:
            return b"".join([*pieces, data[copied:]])
        if marker == 0xFF or marker == 0x01:
            continue
        if marker in _ARITHMETIC:
            surplus = b""
        if marker not in _RESTARTS:
            if position + 2 > len(data):
                break
            position += struct.unpack_from(">H", data, position)[0]
        if marker == _START_OF_SCAN or marker in _RESTARTS:
            found = _NEXT_MARKER.search(data, position)
            position = found.start() if found else len(data)
            pieces += [data[copied:position], surplus]
            copied = position
    raise ValueError("it ends before its end marker")
