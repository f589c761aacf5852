"""One mask file: the numbers and colours of its pixels, before it is said which class each of them is.

Notation: H, W height and width in pixels. A colour is held as one number, 0xRRGGBB.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from imaging.decode import Picture, open_picture
from imaging.errors import InputError
from imaging.rawfile import shown

# Pillow spreads greys of 2 and 4 bits over 0..255; these steps undo it.
_STEP_OF_BITS = {2: 85, 4: 17}


@dataclass(frozen=True)
class Mask:
    """One mask file as it is stored.

    ``numbers`` [H, W] are greys or palette indices, None where there are colours alone. ``colours`` [H, W] is None
    for a grey file. ``palette`` holds the colours of all indices, for a palette file. ``white`` is the number that a
    grey file of up to 8 bits shows white. ``transparent`` tells that a colour in use is marked transparent.
    ``counted`` are a summary's pixels by colour.
    """

    path: str
    numbers: NDArray[np.int64] | None
    colours: NDArray[np.int64] | None
    palette: tuple[int, ...] = ()
    white: int | None = None
    transparent: bool = False
    counted: Mapping[int, int] | None = None

    @cached_property
    def used_numbers(self) -> list[int]:
        """Every number in use, ascending."""
        return [] if self.numbers is None else np.unique(self.numbers).tolist()

    @cached_property
    def used_colours(self) -> Mapping[int, int]:
        """Every colour in use, ascending, and how many pixels have it."""
        if self.counted is not None:
            return self.counted
        if self.colours is None:
            return {}
        colours, counts = np.unique(self.colours, return_counts=True)
        return dict(zip(colours.tolist(), counts.tolist(), strict=True))

    def summary(self) -> Mask:
        """The same with each number and colour in use once, [1, n]: all that telling classes needs of many files."""
        used = [np.array([list(each)], np.int64) for each in (self.used_numbers, self.used_colours)]
        return replace(
            self,
            numbers=None if self.numbers is None else used[0],
            colours=None if self.colours is None else used[1],
            counted=self.used_colours,
        )


def read_mask(path: str | os.PathLike[str]) -> Mask:
    """Read a label map as the file stores it.

    Taken are grey images of 1 to 32 bits, palette images and RGB images; three equal channels count as grey. An
    orientation tag is applied, as for images.

    Raises:
        InputError: as :func:`imaging.decode.open_picture`; or the file is a JPEG (which blurs labels), partly
            transparent, of floating-point numbers, in colour with 16 bits, or stores its greys inverted.
    """
    name = shown(path)
    picture = open_picture(path)
    if picture.format == "JPEG":
        raise InputError(f"{name}: JPEG alters the labels at every border; save the label map as PNG or TIFF")
    if picture.white_is_zero:
        raise InputError(f"{name}: a TIFF with inverted greys (WhiteIsZero); save it with BlackIsZero, or as PNG")
    mode = picture.image.mode
    if mode == "P":
        return _from_palette(name, picture.image)
    if mode in ("1", "L"):
        white = 1 if mode == "1" else 255 // _STEP_OF_BITS.get(picture.bits, 1)
        return Mask(name, _whole(picture), None, white=None if picture.signed else white)
    if mode == "I" or mode.startswith("I;16"):
        return Mask(name, _whole(picture), None)
    if mode in ("LA", "PA", "RGB", "RGBA"):
        return _from_channels(name, picture)
    raise InputError(f"{name}: a label map wants whole numbers in one channel; save it as 8- or 16-bit grey PNG")


def _whole(picture: Picture) -> NDArray[np.int64]:
    values = np.asarray(picture.image).astype(np.int64)
    if picture.image.mode.startswith("I;16") and picture.signed:
        return np.where(values >= 2**15, values - 2**16, values)
    if picture.image.mode == "I" and not picture.signed:
        return values & 0xFFFFFFFF
    if picture.image.mode == "L" and picture.signed:
        return np.where(values >= 2**7, values - 2**8, values)
    step = _STEP_OF_BITS.get(picture.bits, 1) if picture.image.mode == "L" else 1
    return values // step


def _from_palette(name: str, image: Image.Image) -> Mask:
    numbers = np.asarray(image).astype(np.int64)
    palette = _packed(np.asarray(image.getpalette("RGB") or [], dtype=np.int64).reshape(-1, 3))
    clear = image.info.get("transparency", ())
    if isinstance(clear, int):
        transparent = bool((numbers == clear).any())
    else:
        transparent = any(index < len(clear) and clear[index] != 255 for index in np.unique(numbers).tolist())
    return Mask(name, numbers, palette[numbers], tuple(palette.tolist()), transparent=transparent)


def _packed(rgb: NDArray[np.int64]) -> NDArray[np.int64]:
    """[..., 3] -> 0xRRGGBB [...]."""
    packed: NDArray[np.int64] = (rgb[..., 0] << 16) | (rgb[..., 1] << 8) | rgb[..., 2]
    return packed


def _from_channels(name: str, picture: Picture) -> Mask:
    if picture.bits == 16:
        # Pillow keeps eight bits of each, which would merge labels.
        raise InputError(f"{name}: 16-bit label maps are read in grey alone; save it as 16-bit grey without alpha")
    image = picture.image
    arrays: list[NDArray[Any]] = [np.asarray(band) for band in image.split()]
    if image.mode in ("LA", "PA", "RGBA"):
        alpha = arrays.pop()
        if (alpha != 255).any():
            raise transparent_pixels(name)
    if image.mode == "PA":
        indices = Image.fromarray(arrays[0])
        indices.putpalette(image.getpalette("RGB") or [])
        return _from_palette(name, indices)
    numbers = arrays[0].astype(np.int64)
    if image.mode == "LA":
        return Mask(name, numbers, None, white=255)
    rgb = np.stack(arrays, axis=-1).astype(np.int64)
    colours = _packed(rgb)
    equal = bool((rgb == rgb[..., :1]).all())
    clear = image.info.get("transparency")
    transparent = isinstance(clear, tuple) and bool((rgb == np.array(clear)).all(axis=-1).any())
    return Mask(name, numbers if equal else None, colours, white=255 if equal else None, transparent=transparent)


def transparent_pixels(name: str) -> InputError:
    """The refusal of a mask in which some pixels are transparent."""
    return InputError(f"{name}: has transparent pixels, whose label is unclear; paint them and drop the alpha")
