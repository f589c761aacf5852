"""Reading and writing images, and padding them to the sizes that the networks take.

Notation: H, W height and width in pixels.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imaging.decode import Picture, open_picture
from imaging.errors import InputError
from imaging.output import replacing
from imaging.rawfile import shown

_CONVERTED = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "YCbCr")
_REFUSED = {
    "CMYK": "in CMYK, a printing colour space; save it as RGB",
    "LAB": "in CIE Lab colours; save it as RGB",
    "F": "of floating-point numbers; save it as 8-bit RGB",
    "I": "of 32-bit integers; save it as 8-bit RGB",
}
# Twelve-bit cameras that do not scale up to 16 bits stay below this.
_DARK_16_BIT = 4096


def read_image(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Read a PNG, TIFF, JPEG or BMP image as RGB, uint8 [H, W, 3].

    Grey and palette images become RGB, transparent parts are laid on white, an orientation tag is applied, and of
    more than eight bits the upper eight are taken.

    Raises:
        InputError: as :func:`imaging.decode.open_picture`; or the colours are CMYK, Lab, floating-point or 32-bit
            integers; or a 16-bit image is so dark that it was never scaled to 16 bits.
    """
    picture = open_picture(path)
    mode = picture.image.mode
    if mode.startswith("I;16"):
        rgb = _from_deep_grey(picture)
    elif mode in _CONVERTED:
        rgb = _on_white(picture.image)
    else:
        kind = _REFUSED.get(mode, f"of an unusual kind ({mode}); save it as 8-bit RGB")
        raise InputError(f"{shown(path)}: an image {kind}")
    if picture.bits == 16 and int(rgb.max()) < _DARK_16_BIT >> 8:
        raise InputError(
            f"{shown(path)}: 16-bit values below {_DARK_16_BIT}, which would come out black; "
            "scale them to 0..65535 or save it with 8 bits"
        )
    return rgb


def _from_deep_grey(picture: Picture) -> NDArray[np.uint8]:
    grey = (np.asarray(picture.image).astype(np.uint16) >> (picture.bits - 8)).astype(np.uint8)
    if picture.white_is_zero:
        grey = 255 - grey  # Pillow undoes that for up to eight bits alone
    return np.repeat(grey[..., None], 3, axis=2)  # [H, W, 3]


def _on_white(image: Image.Image) -> NDArray[np.uint8]:
    if not image.has_transparency_data:
        return np.array(image.convert("RGB"))
    rgba = np.array(image.convert("RGBA")).astype(np.uint32)  # [H, W, 4]
    colour, alpha = rgba[..., :3], rgba[..., 3:]
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def write_png(path: str | os.PathLike[str], array: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> None:
    """Write uint8 [H, W] or [H, W, 3] as PNG, with ``text`` as its text metadata.

    The file appears under its name only when it is whole; an error or an interrupt leaves nothing behind, and
    a file that was there before stays as it was.

    Raises:
        InputError: the file cannot be written.
        ValueError: the array is not of this shape and type, or the name does not end in ``.png``.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: the name of a PNG file ends in .png")
    content = encode_png(array, text)
    with replacing(path) as (partial,):
        partial.write_bytes(content)


def encode_png(array: NDArray[np.uint8], text: Mapping[str, str] | None = None) -> bytes:
    """uint8 [H, W] or [H, W, 3] as the bytes of a PNG file, with ``text`` as its text metadata.

    Raises:
        ValueError: the array is not of this shape and type.
    """
    grey, colour = array.ndim == 2, array.ndim == 3 and array.shape[2] == 3
    if array.dtype != np.uint8 or not (grey or colour) or array.size == 0:
        raise ValueError(f"need uint8 [H, W] or [H, W, 3], not {array.dtype} {list(array.shape)}")
    info = PngInfo()
    for key, value in ({} if text is None else text).items():
        info.add_text(key, value)
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def pad_to_multiple(array: NDArray[Any], multiple: int) -> NDArray[Any]:
    """Pad [H, W] or [H, W, C] at the bottom and right, by reflection, until H and W are multiples of ``multiple``.

    Image and labels padded alike stay pixel-exact, since a pixel and its label are mirrored to the same place.
    Where the padding is wider than the array, the reflection is repeated. :func:`crop` undoes it.

    Raises:
        ValueError: ``multiple`` is not positive or the array is empty.
    """
    if multiple < 1 or array.size == 0:
        raise ValueError(f"cannot pad {list(array.shape)} to a multiple of {multiple}")
    height, width = array.shape[:2]
    widths = [(0, -height % multiple), (0, -width % multiple)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, widths, mode="reflect")


def crop(array: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """Take the upper left ``height`` × ``width`` pixels of [H, W] or [H, W, C], as a view.

    Raises:
        ValueError: the array is smaller than that.
    """
    if not (0 < height <= array.shape[0] and 0 < width <= array.shape[1]):
        raise ValueError(f"cannot crop {list(array.shape)} to {height}×{width}")
    return array[:height, :width]
