"""Opening picture files: what images and label maps have in common."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from dataclasses import dataclass

from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from imaging.errors import InputError
from imaging.integrity import (
    PNG_SIGNATURE,
    check_png_pixels,
    check_tiff,
    jpeg_with_surplus,
    png_parts,
    tells_of_lost_pixels,
)
from imaging.quiet import captured_stderr
from imaging.rawfile import read_bytes, shown

FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
MIN_SIDE = 16
# What the decoder of SD-1.5 takes in fp32: four arrays of 256 channels.
BYTES_PER_PIXEL = 4 * 256 * 4

# Pillow's decoders raise nearly anything where a file contradicts itself.
DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_SAMPLE_FORMAT = 339
_WHITE_IS_ZERO = 0
_SIGNED = 2


@dataclass(frozen=True)
class Picture:
    """A decoded file. ``image`` is loaded and upright; ``bits`` is the depth of one channel in the file.

    ``white_is_zero`` tells that the file stores its greys inverted (TIFF alone can), which Pillow has undone for up
    to eight bits. ``signed`` tells that its numbers may be negative (TIFF alone).
    """

    image: Image.Image
    format: str
    bits: int
    white_is_zero: bool = False
    signed: bool = False


def open_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG, TIFF, JPEG or BMP file of one page whole, and turn it upright as its orientation tag says.

    Image viewers and drawing programs honour that tag, so a mask drawn over the picture fits the turned one.
    Nothing that Pillow or libtiff have to say reaches the terminal.

    Raises:
        InputError: the file is missing, no regular file, larger than 1 GiB, not one of these formats, damaged or cut
            short, of several pages, smaller than 16 px on a side, or too large to be one patch.
    """
    data, name = read_bytes(path), shown(path)
    if not data:
        raise InputError(f"{name}: empty, so not a PNG, TIFF, JPEG or BMP image; export or copy it again")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _decode(name, data)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow names the size nowhere else before it refuses.
        pixels = int("".join(re.findall(r"\((\d+) pixels\)", str(error))))
        gibibytes = pixels * BYTES_PER_PIXEL / 2**30
        raise InputError(
            f"{name}: {pixels / 1e6:.0f} megapixels would want about {gibibytes:.0f} GiB of memory "
            "with SD-1.5 in fp32; cut it into smaller patches, for example of 512 px"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name}: not a PNG, TIFF, JPEG or BMP image that can be read; save it as an 8-bit PNG"
        ) from error
    except MemoryError as error:
        raise InputError(f"{name}: too large for the memory there is; cut it into smaller patches") from error
    except DAMAGE as error:
        raise _damaged(name, str(error)) from error


def _damaged(name: str, detail: str) -> InputError:
    detail = "".join(c if c.isprintable() else " " for c in detail)
    detail = " ".join(detail.split())[:200] or "its contents contradict each other"
    return InputError(f"{name}: damaged or cut short ({detail}); export or copy it again")


def _decode(name: str, data: bytes) -> Picture:
    if data[:2] not in (b"II", b"MM"):
        return _load(name, data)
    with captured_stderr() as said:
        try:
            picture = _load(name, data)
        except (InputError, UnidentifiedImageError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            raise
        except DAMAGE as error:
            raise _damaged(name, said().replace("tempfile.tif: ", "") or str(error)) from error
        text = said()
    if tells_of_lost_pixels(text):
        raise _damaged(name, text)
    return picture


def _load(name: str, data: bytes) -> Picture:
    parts = png_parts(data) if data.startswith(PNG_SIGNATURE) else None
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if min(width, height) < MIN_SIDE:
            raise InputError(f"{name}: {width}×{height} px; give an image of at least {MIN_SIDE}×{MIN_SIDE} px")
        file_format = str(image.format)
        pages = getattr(image, "n_frames", 1)
        if pages > 1:
            raise InputError(f"{name}: holds {pages} pages; save the one that is meant as a file of its own")
        bits, white_is_zero, signed = 8, False, False
        if parts is not None:
            if (width, height) != (parts.width, parts.height):
                raise ValueError("its header is not the first")
            check_png_pixels(parts)
            bits = parts.bits
        elif isinstance(image, TiffImagePlugin.TiffImageFile):
            check_tiff(image, len(data))
            tags = image.tag_v2
            bits = int(tags.get(_BITS_PER_SAMPLE, (1,))[0])
            white_is_zero = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            signed = tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
        elif file_format == "JPEG":
            _check_jpeg(image, data)
        elif image.mode == "1":
            bits = 1
        image.load()
        _check_palette(image)
        return Picture(ImageOps.exif_transpose(image), file_format, bits, white_is_zero, signed)


def _check_jpeg(image: Image.Image, data: bytes) -> None:
    image.load()
    with Image.open(io.BytesIO(jpeg_with_surplus(data)), formats=("JPEG",)) as again:
        if again.tobytes() != image.tobytes():
            raise ValueError("some of its pixels are missing")


def _check_palette(image: Image.Image) -> None:
    """Every index in use must have a colour; Pillow would take black."""
    if image.mode != "P":
        return
    highest, there = max(index for count, index in image.getcolors(256) or [(0, 0)]), len(image.getpalette() or ()) // 3
    if isinstance(highest, int) and highest >= there:
        raise ValueError(f"it uses colour {highest} of a palette of {there}")
