"""Other stains for an image: a linear change of its optical densities (Beer-Lambert; Ruifrok and Johnston, 2001)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
StainChange = npt.NDArray[np.float64]
"""[3, 3]: densities of red, green and blue, as a row, times this are the new ones."""

_BASIS = np.array([[0.71, 0.63, 0.31], [0.25, 0.46, 0.85], [0.57, 0.57, 0.59]])
_BASIS /= np.linalg.norm(_BASIS, axis=1, keepdims=True)
_TO_AMOUNTS = np.linalg.inv(_BASIS)


def slight_change(rng: np.random.Generator) -> StainChange:
    """Another strength and a slightly other hue of haematoxylin and DAB, as between laboratories."""
    gain = rng.lognormal(0.0, (0.22, 0.25, 0.1))
    other = np.clip(_BASIS + rng.normal(0.0, 0.035, _BASIS.shape), 0.02, None)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return _TO_AMOUNTS @ (gain[:, None] * other)


def other_stains(rng: np.random.Generator) -> StainChange:
    """Any other hues, paler or stronger: the part of the densities that is not grey, turned about the grey axis."""
    angle, colourful, strength = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 1.1), rng.uniform(0.5, 1.15)
    grey = np.full((3, 3), 1.0 / 3.0)
    axis = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / np.sqrt(3.0)
    turned = np.cos(angle) * (np.eye(3) - grey) + np.sin(angle) * axis
    return strength * (grey + colourful * turned)


def restain(image: Pixels, change: StainChange) -> Pixels:
    """The image [..., 3] uint8 in other stains. White stays white."""
    density = -np.log((image.astype(np.float32) + 1.0) / 256.0)
    light = np.exp(-np.clip(density @ change.astype(np.float32), 0.0, None))
    return np.clip(np.round(256.0 * light - 1.0), 0, 255).astype(np.uint8)
