"""How much of an image is a copy of its origin: windows looked for in the origin, turned and flipped too.

Scores of memorisation compare with a training set; a method without training has none, and what it can copy is the one
patch that it takes its look from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataset.stain import Field, box_mean, optical_density
from imaging.turns import DIHEDRAL, turn

SIDE = 128
"""Images are looked at with about so many pixels on the shorter side."""
WINDOW = 32
_LAYOUT = 8
_FAINT = 1e-3


def copying(image: NDArray[np.uint8], origin: NDArray[np.uint8]) -> float:
    """How well the most alike quarter of the windows of ``image`` [H, W, 3] is found again in ``origin`` [H', W', 3].

    The mean, over that quarter, of the highest normalised cross-correlation of a window of `WINDOW` pixels with any
    place of the origin under any element of the dihedral group, of the mean optical density without what is broader
    than `_LAYOUT` pixels. 1 is a copy; what unrelated tissue gives is for a calibration to say.
    """
    windows = _windows(_detail(image))
    if not windows:
        return 0.0
    best = np.zeros(len(windows))
    detail = _detail(origin)
    for element in DIHEDRAL:
        turned = np.asarray(turn(detail, element))
        best = np.maximum(best, _found(windows, turned))
    best = np.sort(best)[::-1]
    return float(best[: max(1, len(best) // 4)].mean())


def _detail(image: NDArray[np.uint8]) -> Field:
    """Mean optical density at about `SIDE` pixels, without layout."""
    density = optical_density(image).mean(axis=2)
    factor = max(1, round(min(density.shape) / SIDE))
    height, width = (side // factor * factor for side in density.shape)
    small = density[:height, :width].reshape(height // factor, factor, width // factor, factor).mean(axis=(1, 3))
    detail: Field = (small - box_mean(small, _LAYOUT)).astype(np.float32)
    return detail


def _windows(detail: Field) -> list[Field]:
    """Windows side by side whose detail is more than noise, each of zero mean and length 1."""
    side = min(WINDOW, *detail.shape)
    found = []
    for top in range(0, detail.shape[0] - side + 1, side):
        for left in range(0, detail.shape[1] - side + 1, side):
            window = detail[top : top + side, left : left + side]
            window = window - window.mean()
            if window.std() > _FAINT:
                found.append(window / np.linalg.norm(window))
    return found


def _found(windows: list[Field], origin: Field) -> NDArray[np.float64]:
    """The highest normalised cross-correlation of each window [S, S] with any place of ``origin``."""
    side = windows[0].shape[0]
    if min(origin.shape) < side:
        return np.zeros(len(windows))
    places = tuple(length - side + 1 for length in origin.shape)
    spectrum = np.fft.rfft2(origin)
    mean, square = (_window_sums(each, side) for each in (origin, origin**2))
    length = np.sqrt(np.maximum(square - mean**2 / side**2, 0.0))
    usable = length > _FAINT * side
    best = []
    for window in windows:
        product = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(window, s=origin.shape)), s=origin.shape)
        correlation = np.where(usable, product[: places[0], : places[1]] / np.where(usable, length, 1.0), 0.0)
        best.append(float(correlation.max()))
    return np.asarray(best)


def _window_sums(field: Field, side: int) -> NDArray[np.float64]:
    total = np.cumsum(np.cumsum(np.pad(field.astype(np.float64), ((1, 0), (1, 0))), axis=0), axis=1)
    sums: NDArray[np.float64] = (
        total[side:, side:] - total[:-side, side:] - total[side:, :-side] + total[:-side, :-side]
    )
    return sums
