"""Opening picture files: what images and label maps have in common."""

from __future__ import annotations

import os
import re
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from model.errors import InputError

FORMATS = ("PNG", "TIFF", "JPEG", "BMP")
MIN_SIDE = 16
# What the decoder of SD-1.5 takes in fp32: four arrays of 256 channels.
BYTES_PER_PIXEL = 4 * 256 * 4

_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, TypeError, LookupError, struct.error, zlib.error)
_BITS_PER_SAMPLE = 258
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0


@dataclass(frozen=True)
class Picture:
    """A decoded file. ``image`` is loaded and upright; ``bits`` is the depth of one channel in the file.

    ``white_is_zero`` tells that the file stores its greys inverted (TIFF alone can), which Pillow has undone.
    """

    image: Image.Image
    format: str
    bits: int
    white_is_zero: bool


def open_picture(path: str | os.PathLike[str]) -> Picture:
    """Read a PNG, TIFF, JPEG or BMP file of one page whole, and turn it upright as its orientation tag says.

    Image viewers and drawing programs honour that tag, so a mask drawn over the picture fits the turned one.

    Raises:
        InputError: the file is missing, not one of these formats, damaged, of several pages, smaller than
            16 px on a side, or too large to be one patch.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path}: no such file; check the name and the folder")
    if not path.is_file():
        raise InputError(f"{path}: not a file; give the path of an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Damaged metadata in a readable TIFF is no reason to bother anybody.
            warnings.filterwarnings("ignore", module="PIL.TiffImagePlugin")
            with Image.open(path, formats=FORMATS) as image:
                return _load(path, image)
    except InputError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        # Pillow names the size nowhere else before it refuses.
        pixels = int("".join(re.findall(r"\((\d+) pixels\)", str(error))))
        gibibytes = pixels * BYTES_PER_PIXEL / 2**30
        raise InputError(
            f"{path}: {pixels / 1e6:.0f} megapixels would want about {gibibytes:.0f} GiB of memory "
            "with SD-1.5 in fp32; cut it into smaller patches, for example of 512 px"
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{path}: not a PNG, TIFF, JPEG or BMP image that can be read; save it as an 8-bit PNG"
        ) from error
    except PermissionError as error:
        raise InputError(f"{path}: may not be read ({error.strerror}); change its permissions") from error
    except _DAMAGE as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{path}: damaged or cut short ({detail}); export or copy it again") from error


def _load(path: Path, image: Image.Image) -> Picture:
    width, height = image.size
    if min(width, height) < MIN_SIDE:
        raise InputError(f"{path}: {width}×{height} px; give an image of at least {MIN_SIDE}×{MIN_SIDE} px")
    pages = getattr(image, "n_frames", 1)
    if pages > 1:
        raise InputError(f"{path}: holds {pages} pages; save the one that is meant as a file of its own")
    file_format = str(image.format)
    bits, white_is_zero = _depth(path, image)
    image.load()
    return Picture(ImageOps.exif_transpose(image), file_format, bits, white_is_zero)


def _depth(path: Path, image: Image.Image) -> tuple[int, bool]:
    """Bits of one channel as stored, which Pillow's mode does not tell, and whether greys are inverted."""
    if image.format == "PNG":
        with path.open("rb") as file:
            return file.read(25)[24], False  # IHDR: signature 8, length and type 8, size 8, depth 1
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(_BITS_PER_SAMPLE, (1,))
        return int(bits[0]), image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
    return (1 if image.mode == "1" else 8), False
