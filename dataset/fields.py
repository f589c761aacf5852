"""Random fields and cell mosaics from which tissue is drawn; numpy alone, everything vectorised.

Notation: S image side in pixels. Arrays are indexed [row, column]; angles are radians from the column axis
towards the row axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

_REACH = 2  # lattice neighbours searched on each side; seeds farther away are never the nearest


def gaussian_field(rng: np.random.Generator, size: int, scale: float) -> Field:
    """Smooth random field [S, S] of zero mean and unit deviation.

    ``scale`` is the standard deviation, in pixels, of the Gaussian that smooths white noise. The field is
    periodic.
    """
    noise = rng.standard_normal((size, size), dtype=np.float32)
    smooth = blur(noise, scale)
    smooth -= smooth.mean()
    deviation = float(smooth.std())
    return smooth / np.float32(max(deviation, 1e-12))


def blur(image: Field, scale: float) -> Field:
    """Periodic Gaussian blur of the first two axes; ``scale`` in pixels."""
    rows = np.fft.fftfreq(image.shape[0])[:, None]
    columns = np.fft.rfftfreq(image.shape[1])[None, :]
    transfer = np.exp(-2.0 * (np.pi * scale) ** 2 * (rows**2 + columns**2))
    if image.ndim == 3:
        transfer = transfer[:, :, None]
    spectrum = np.fft.rfft2(image, axes=(0, 1)) * transfer
    return np.fft.irfft2(spectrum, s=image.shape[:2], axes=(0, 1)).astype(np.float32)


def smoothstep(value: Field, low: float, high: float) -> Field:
    """0 below ``low``, 1 above ``high``, smooth between."""
    x = np.clip((value - low) / (high - low), 0.0, 1.0)
    return (x * x * (3.0 - 2.0 * x)).astype(np.float32)


def direction_along(field: Field) -> Field:
    """Angle [S, S] of the field's level lines, from a smoothed gradient."""
    gradient_row, gradient_column = np.gradient(field)
    return np.arctan2(gradient_column, -gradient_row).astype(np.float32)


def streaks(rng: np.random.Generator, angle: Field, length: int) -> Field:
    """Texture [S, S] drawn out along ``angle`` (line integral convolution), zero mean, unit deviation."""
    size = angle.shape[0]
    noise = gaussian_field(rng, size, 0.8)
    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    step_row, step_column = np.sin(angle), np.cos(angle)
    total = np.zeros_like(noise)
    for step in range(-length, length + 1):
        row = (rows + step * step_row).astype(np.int32) % size
        column = (columns + step * step_column).astype(np.int32) % size
        total += noise[row, column]
    total -= total.mean()
    return (total / max(float(total.std()), 1e-12)).astype(np.float32)


@dataclass(frozen=True)
class Mosaic:
    """Which cell each pixel belongs to, each [S, S].

    ``radius`` is the elliptical distance to the cell's centre in units of its nucleus's half axes (1 on the
    nucleus's outline), ``border`` the distance to the neighbouring cell in the same units (0 on the membrane),
    ``cell`` the cell's number, below ``count``.
    """

    radius: Field
    border: Field
    cell: npt.NDArray[np.int32]
    count: int


def cell_mosaic(
    rng: np.random.Generator, angle: Field, spacing: float, half_axis: float, elongation: float, jitter: float
) -> Mosaic:
    """Voronoi mosaic of a jittered hexagonal lattice under an oriented elliptical distance.

    Args:
        angle: [S, S] direction of the long axis of the nuclei.
        spacing: lattice constant, pixels.
        half_axis: geometric mean of a nucleus's two half axes, pixels; varies by cell.
        elongation: long over short axis; varies by cell.
        jitter: displacement of the seeds in lattice constants.
    """
    size = angle.shape[0]
    height = spacing * 0.866
    margin = _REACH + 1
    lattice_rows = int(size / height) + 2 * margin + 1
    lattice_columns = int(size / spacing) + 2 * margin + 1
    shape = (lattice_rows, lattice_columns)
    row_number, column_number = np.mgrid[0:lattice_rows, 0:lattice_columns]
    seed_row = (row_number - margin + 0.5 + jitter * rng.uniform(-1, 1, shape)) * height
    shift = 0.5 * (row_number % 2)
    seed_column = (column_number - margin + 0.25 + shift + jitter * rng.uniform(-1, 1, shape)) * spacing
    at_row = np.clip(seed_row, 0, size - 1).astype(np.int32)
    at_column = np.clip(seed_column, 0, size - 1).astype(np.int32)
    tilt = angle[at_row, at_column] + rng.normal(0.0, 0.18, shape)
    stretch = np.sqrt(np.maximum(elongation * rng.lognormal(0.0, 0.15, shape), 1.0))
    extent = half_axis * rng.lognormal(0.0, 0.13, shape)
    along, across = 1.0 / (extent * stretch), stretch / extent
    table = np.stack(
        [
            seed_row,
            seed_column,
            np.cos(tilt) * along,
            np.sin(tilt) * along,
            -np.sin(tilt) * across,
            np.cos(tilt) * across,
        ]
    ).astype(np.float32)

    rows, columns = np.mgrid[0:size, 0:size].astype(np.float32)
    base_row = (rows / height).astype(np.int32) + margin
    base_column = ((columns / spacing) - 0.25).astype(np.int32) + margin
    nearest = np.full((size, size), np.inf, np.float32)
    second = np.full((size, size), np.inf, np.float32)
    cell = np.zeros((size, size), np.int32)
    for row_offset in range(-_REACH, _REACH + 1):
        for column_offset in range(-_REACH, _REACH + 1):
            number = (base_row + row_offset) * lattice_columns + base_column + column_offset
            row, column, along_x, along_y, across_x, across_y = table.reshape(6, -1)[:, number]
            down, right = rows - row, columns - column
            distance = (right * along_x + down * along_y) ** 2 + (right * across_x + down * across_y) ** 2
            closer = distance < nearest
            second = np.where(closer, nearest, np.minimum(second, distance))
            nearest = np.where(closer, distance, nearest)
            cell = np.where(closer, number, cell)
    radius = np.sqrt(nearest)
    return Mosaic(radius, np.sqrt(second) - radius, cell, lattice_rows * lattice_columns)
