"""Immunohistochemistry-like images drawn by procedure: glands and nests, stroma, stains by optical density.

The colours follow Beer-Lambert: every stain has a vector of optical densities for red, green and blue, and the
image is ``255 * exp(-sum of concentration * vector)`` (Ruifrok and Johnston, 2001).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from dataset.fields import (
    Field,
    blur,
    cell_mosaic,
    direction_along,
    gaussian_field,
    smoothstep,
    streaks,
)

EPITHELIUM = 0
STROMA = 1

Pattern = Literal["membrane", "nuclear", "stromal", "negative"]
_PATTERNS: tuple[Pattern, ...] = ("membrane", "nuclear", "stromal", "negative")
_PATTERN_WEIGHTS = (0.52, 0.26, 0.08, 0.14)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Slide:
    """What the images of one slide have in common; sizes in pixels."""

    pattern: Pattern
    blue: Field  # [3] optical density of the counterstain
    brown: Field  # [3] optical density of the chromogen
    glass: Field  # [3] optical density of empty glass
    nucleus: float
    crowding: float
    elongation: float
    gland_scale: float
    epithelium_share: float
    lumen_share: float
    positive: float
    membrane: float
    cytoplasm: float
    stroma_density: float
    focus: float
    noise: float


def random_slide(rng: np.random.Generator) -> Slide:
    """Draw the stains, staining pattern, cell sizes and camera of one slide."""
    pattern = _PATTERNS[int(rng.choice(len(_PATTERNS), p=_PATTERN_WEIGHTS))]
    blue = np.array([0.73, 0.62, 0.28]) + rng.normal(0.0, (0.035, 0.03, 0.035))
    brown = np.array([0.26, 0.50, 0.83]) + rng.normal(0.0, (0.04, 0.04, 0.04))
    if rng.random() < 0.08:
        brown = np.array([0.15, 0.80, 0.55]) + rng.normal(0.0, 0.06, 3)
    blue, brown = (np.clip(v, 0.05, None) / np.linalg.norm(np.clip(v, 0.05, None)) for v in (blue, brown))
    columnar = rng.random() < 0.6
    return Slide(
        pattern=pattern,
        blue=(blue * rng.uniform(0.75, 1.3)).astype(np.float32),
        brown=(brown * rng.uniform(0.7, 1.35)).astype(np.float32),
        glass=(rng.uniform(0.03, 0.09) + rng.uniform(-0.012, 0.012, 3)).astype(np.float32),
        nucleus=float(rng.uniform(4.6, 6.6)),
        crowding=float(rng.uniform(2.1, 2.8)),
        elongation=float(rng.uniform(1.5, 2.2) if columnar else rng.uniform(1.0, 1.35)),
        gland_scale=float(rng.uniform(22.0, 46.0)),
        epithelium_share=float(rng.uniform(0.3, 0.7)),
        lumen_share=float(rng.uniform(0.04, 0.14) if columnar else rng.choice([0.0, 0.0, 0.03])),
        positive=float(rng.beta(1.2, 1.4)),
        membrane=float(rng.uniform(0.5, 1.4)),
        cytoplasm=float(rng.uniform(0.35, 1.15)),
        stroma_density=float(rng.uniform(0.18, 0.55)),
        focus=float(rng.uniform(0.55, 0.95)),
        noise=float(rng.uniform(1.0, 3.0)),
    )


def draw_tissue(rng: np.random.Generator, size: int) -> tuple[Pixels, Pixels]:
    """Draw one image of a new slide: ``(rgb [S, S, 3], labels [S, S])``, uint8.

    Label 0 is epithelium; label 1 is stroma and everything else (lumen, clefts, empty glass).
    """
    return draw_slide(rng, random_slide(rng), size)


def draw_slide(rng: np.random.Generator, slide: Slide, size: int) -> tuple[Pixels, Pixels]:
    """Draw one image of a given slide; as `draw_tissue`."""
    layout = gaussian_field(rng, size, slide.gland_scale) + 0.12 * gaussian_field(rng, size, 9.0)
    edge, rim = np.quantile(layout, [1.0 - slide.epithelium_share, 1.0 - slide.lumen_share])
    epithelium = smoothstep(layout, edge - 0.02, edge + 0.02)
    lumen = np.zeros_like(layout)
    if slide.lumen_share > 0.0:
        lumen = smoothstep(layout, rim, rim + 0.06)
    glass = _empty_glass(rng, size)
    along = direction_along(blur(layout, 3.0))

    blue_in, brown_in = _draw_epithelium(rng, slide, along)
    blue_out, brown_out, clefts = _draw_stroma(rng, slide, along)
    debris = 0.05 * np.clip(0.7 * gaussian_field(rng, size, 1.2) + gaussian_field(rng, size, 12.0), 0.0, None)
    inside = epithelium * (1.0 - lumen)
    outside = (1.0 - epithelium) * (1.0 - clefts)
    blue = (blue_in * inside + blue_out * outside + debris * lumen) * (1.0 - glass)
    brown = (brown_in * inside + brown_out * outside + 0.5 * debris * lumen) * (1.0 - glass)
    if slide.pattern == "membrane":
        # Chromogen gathers along the free (apical) border and fades unevenly through a section.
        apical = np.exp(-(((layout - rim) / 0.09) ** 2)) * float(slide.lumen_share > 0.0)
        brown = brown + 0.4 * slide.membrane * apical * inside * (1.0 - glass)
    brown = brown * np.exp(0.22 * gaussian_field(rng, size, 30.0))
    blue = blue * np.exp(0.12 * gaussian_field(rng, size, 30.0))
    labels = np.where((epithelium > 0.5) & (lumen < 0.5) & (glass < 0.5), EPITHELIUM, STROMA).astype(np.uint8)
    return _photograph(rng, slide, blue, brown), labels


def _empty_glass(rng: np.random.Generator, size: int) -> Field:
    if rng.random() < 0.6:
        return np.zeros((size, size), np.float32)
    field = gaussian_field(rng, size, 40.0) + 0.05 * gaussian_field(rng, size, 4.0)
    return smoothstep(field, 1.35, 1.42)


def _present(rng: np.random.Generator, share: Field | float, cells: npt.NDArray[np.int32], count: int) -> Field:
    """1 at the pixels of cells drawn with probability ``share``."""
    return (rng.random(count, dtype=np.float32)[cells] < share).astype(np.float32)


def _chromatin(rng: np.random.Generator, size: int, cells: npt.NDArray[np.int32], count: int) -> Field:
    """Density of the nuclei [S, S], about 1: by cell, and clumped within."""
    by_cell = rng.lognormal(0.0, 0.2, count).astype(np.float32)[cells]
    return by_cell * np.exp(0.28 * gaussian_field(rng, size, 1.2) + 0.12 * gaussian_field(rng, size, 2.6))


def _draw_epithelium(rng: np.random.Generator, slide: Slide, along: Field) -> tuple[Field, Field]:
    """Concentrations of counterstain and chromogen [S, S] if all were epithelium."""
    size = along.shape[0]
    across = along + np.float32(np.pi / 2)
    spacing = slide.nucleus * slide.crowding
    mosaic = cell_mosaic(rng, across, spacing, slide.nucleus, slide.elongation, 0.3)
    wobble = 0.10 * gaussian_field(rng, size, 2.2)
    present = _present(rng, 0.87, mosaic.cell, mosaic.count)
    nucleus = (1.0 - smoothstep(mosaic.radius + wobble, 0.88, 1.06)) * present
    outline = np.exp(-(((mosaic.radius + wobble - 0.9) / 0.13) ** 2)) * present
    membrane = np.exp(-((mosaic.border / rng.uniform(0.10, 0.17)) ** 2))
    grain = np.exp(0.24 * gaussian_field(rng, size, 1.0) + 0.15 * gaussian_field(rng, size, 5.0))
    by_cell = rng.lognormal(0.0, 0.22, mosaic.count).astype(np.float32)[mosaic.cell]

    nuclear = 0.42 if slide.pattern == "membrane" else 0.6
    blue = 0.13 * grain + nucleus * nuclear * _chromatin(rng, size, mosaic.cell, mosaic.count) + 0.12 * outline
    brown = np.zeros_like(blue)
    if slide.pattern == "membrane":
        body = slide.cytoplasm * grain * by_cell
        brown = body * (1.0 - 0.6 * nucleus) + slide.membrane * membrane * grain * (1.0 - 0.6 * nucleus)
    else:
        brown = 0.05 * grain + 0.08 * membrane
        blue = blue + 0.05 * membrane
    if slide.pattern == "nuclear":
        patchy = slide.positive + 0.2 * gaussian_field(rng, size, 20.0)
        positive = _present(rng, patchy, mosaic.cell, mosaic.count) * nucleus
        strength = rng.uniform(0.5, 1.5, mosaic.count).astype(np.float32)[mosaic.cell]
        brown = brown + positive * strength * _chromatin(rng, size, mosaic.cell, mosaic.count)
    return blue.astype(np.float32), brown.astype(np.float32)


def _draw_stroma(rng: np.random.Generator, slide: Slide, along: Field) -> tuple[Field, Field, Field]:
    """Concentrations of counterstain and chromogen, and the share of clefts [S, S], if all were stroma."""
    size = along.shape[0]
    flow = along + np.float32(0.45) * gaussian_field(rng, size, 18.0)
    fibres = streaks(rng, flow, 9)
    spacing = slide.nucleus * rng.uniform(2.1, 2.7)
    mosaic = cell_mosaic(rng, flow, spacing, slide.nucleus * 0.78, rng.uniform(2.0, 3.4), 0.42)
    clusters = slide.stroma_density * np.exp(0.5 * gaussian_field(rng, size, 16.0))
    present = _present(rng, clusters, mosaic.cell, mosaic.count)
    wobble = 0.12 * gaussian_field(rng, size, 2.0)
    nucleus = (1.0 - smoothstep(mosaic.radius + wobble, 0.86, 1.08)) * present
    density = rng.uniform(0.05, 0.15)
    matrix = density * np.exp(
        0.4 * fibres + 0.25 * gaussian_field(rng, size, 1.0) + 0.3 * gaussian_field(rng, size, 12.0)
    )
    blue = matrix + nucleus * 0.66 * _chromatin(rng, size, mosaic.cell, mosaic.count)

    brown = 0.02 * np.exp(0.5 * fibres)
    if slide.pattern == "stromal":
        halo = np.exp(-((mosaic.radius / 1.35) ** 4)) * _present(rng, clusters, mosaic.cell, mosaic.count)
        brown = brown + halo * slide.cytoplasm * 1.2 + 0.3 * matrix
    elif rng.random() < 0.3:
        rare = _present(rng, 0.04, mosaic.cell, mosaic.count)
        brown = brown + 0.8 * rare * np.exp(-((mosaic.radius / 1.2) ** 4))
    clefts = smoothstep(-fibres + 0.5 * gaussian_field(rng, size, 6.0), 1.5, 2.2) * (1.0 - nucleus)
    return blue.astype(np.float32), brown.astype(np.float32), clefts


def _photograph(rng: np.random.Generator, slide: Slide, blue: Field, brown: Field) -> Pixels:
    """Optical densities to an 8-bit picture: Beer-Lambert, focus, sensor noise."""
    density = blue[:, :, None] * slide.blue + brown[:, :, None] * slide.brown + slide.glass  # [S, S, 3]
    light = blur(np.exp(-density).astype(np.float32), slide.focus)
    noise = slide.noise * rng.standard_normal(light.shape, dtype=np.float32)
    return np.clip(np.round(255.0 * light + noise), 0, 255).astype(np.uint8)


def draw_two_tone(rng: np.random.Generator, size: int) -> Pixels:
    """Grey mask image [S, S, 3] uint8, as the method paints label maps, with two or three classes.

    The values scatter around 0.1 and 0.5 of white; Gaussian noise of about variance 1e-4 lies on top.
    """
    classes = 3 if rng.random() < 0.2 else 2
    scale = rng.uniform(14.0, 48.0)
    layout = gaussian_field(rng, size, scale) + rng.uniform(0.0, 0.15) * gaussian_field(rng, size, 6.0)
    cuts = np.sort(rng.uniform(-0.8, 0.8, classes - 1))
    labels = np.searchsorted(cuts, layout)
    values = np.linspace(0.1, 0.5, classes)
    if rng.random() < 0.5:
        values = np.clip(values + rng.normal(0.0, 0.06, classes), 0.0, 1.0)
    if rng.random() < 0.5:
        values = values[::-1]
    deviation = 0.01 * rng.uniform(0.5, 1.5)
    grey = values[labels][:, :, None] + rng.normal(0.0, deviation, (size, size, 3))
    return np.clip(np.round(255.0 * grey), 0, 255).astype(np.uint8)
