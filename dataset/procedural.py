"""Datasets drawn by procedure, on which everything can be tried: a few slides, some patches of each."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataset.fields import Field, gaussian_field
from dataset.tissue import Pattern, Slide, draw_slide, random_slide
from imaging.images import write_png
from imaging.output import write_text

SLIDES, PATCHES = 3, 3
SIDE = 128
CLASSES = "epithelium=0,stroma=1"
ANNOTATORS = ("a", "b", "c")
DISAGREEMENT = 1.5
"""Pixels by which a border of one annotator lies off another's, as a standard deviation."""

_MEAN_STAINS = {"blue": (0.74, 0.63, 0.29), "brown": (0.27, 0.52, 0.85), "glass": (0.06, 0.06, 0.06)}
"""Optical densities about which `dataset.tissue.random_slide` draws."""


@dataclass(frozen=True)
class World:
    """Where a drawn world lies: ``annotated`` is the manifest of its images for training and validation, ``test`` the
    folder of its test images, with each annotator's label maps.
    """

    annotated: Path
    test: Path


def draw_dataset(root: Path, *, slides: int = SLIDES, patches: int = PATCHES, side: int = SIDE, seed: int = 0) -> Path:
    """Draw ``slides`` · ``patches`` square patches into ``root``; returns the manifest. Slides do not mix splits.

    The last slide is the split ``val``, the others ``train``. Raises InputError if it cannot be written.
    """
    rng = np.random.default_rng(seed)
    lines = []
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for slide in range(slides):
        # Membranous stains alone: what the demonstration weights draw best.
        drawn = random_slide(rng)
        while drawn.pattern != "membrane":
            drawn = random_slide(rng)
        drawn = replace(drawn, gland_scale=min(drawn.gland_scale, side / 6), lumen_share=0.0)
        for patch in range(patches):
            image, labels = draw_slide(rng, drawn, side)
            name = f"slide{slide}-{patch}.png"
            write_png(root / "images" / name, image)
            write_png(root / "masks" / name, labels)
            row = {
                "file_name": f"images/{name}",
                "mask_file_name": f"masks/{name}",
                "split": "val" if slide == slides - 1 else "train",
                "slide_id": f"slide{slide}",
            }
            lines.append(json.dumps(row) + "\n")
    write_text(root / "manifest.jsonl", "".join(lines))
    return root / "manifest.jsonl"


def draw_world(
    root: Path,
    *,
    slides: tuple[int, int, int] = (24, 6, 12),
    patches: int = 1,
    side: int = SIDE,
    seed: int = 0,
    pattern: Pattern = "nuclear",
    variation: float = 1.0,
    annotators: int = 3,
) -> World:
    """Draw slides of one assay, a staining ``pattern``, for an experiment: ``slides`` for training, validation, test.

    Stains, cells and glands differ from slide to slide as they do in life. Each slide gives ``patches`` square images
    of ``side`` px. The first annotator draws the truth; the others' borders lie off it by some pixels, smoothly.
    With more ``variation`` the slides' stains lie farther apart, by this factor. Raises InputError if it cannot be
    written.
    """
    rng = np.random.default_rng(seed)
    annotated, test = root / "annotated", root / "test"
    names = ANNOTATORS[:annotators]
    for folder in (annotated / "images", annotated / "masks", test / "images"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (test / f"masks_{name}").mkdir(exist_ok=True)
    lines = []
    splits = [split for split, count in zip(("train", "val", "test"), slides, strict=True) for _ in range(count)]
    for number, split in enumerate(splits):
        slide = _of_pattern(rng, pattern, side, variation)
        for patch in range(patches):
            image, labels = draw_slide(rng, slide, side)
            # As QuPath names tiles, which tells the slide.
            name = f"slide{number:03} [x={patch * side},y=0,w={side},h={side}].png"
            if split == "test":
                write_png(test / "images" / name, image)
                for place, annotator in enumerate(names):
                    write_png(test / f"masks_{annotator}" / name, _otherwise(rng, labels) if place else labels)
                continue
            write_png(annotated / "images" / name, image)
            write_png(annotated / "masks" / name, labels)
            row = {"file_name": f"images/{name}", "mask_file_name": f"masks/{name}", "split": split}
            lines.append(json.dumps({**row, "slide_id": f"slide{number:03}"}) + "\n")
    write_text(annotated / "manifest.jsonl", "".join(lines))
    return World(annotated / "manifest.jsonl", test)


def _of_pattern(rng: np.random.Generator, pattern: Pattern, side: int, variation: float) -> Slide:
    drawn = random_slide(rng)
    # A red chromogen, which takes less of blue than of green, is another assay.
    while drawn.pattern != pattern or drawn.brown[2] < drawn.brown[1]:
        drawn = random_slide(rng)
    stains: dict[str, Any] = {
        name: farther(getattr(drawn, name), mean, variation) for name, mean in _MEAN_STAINS.items()
    }
    return replace(drawn, gland_scale=min(drawn.gland_scale, side / 6), **stains)


def farther(stain: Field, mean: tuple[float, ...], variation: float) -> Field:
    """A stain's optical densities [3], ``variation`` times as far from their ``mean``, none below what glass has."""
    centre = np.array(mean, np.float32)
    return np.maximum(centre + variation * (stain - centre), 0.01).astype(np.float32)


def _otherwise(rng: np.random.Generator, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``labels`` [S, S] as another annotator draws them: every border moved a little."""
    size = labels.shape[0]
    rows, columns = np.mgrid[:size, :size]
    moved = [
        np.clip(np.rint(place + DISAGREEMENT * gaussian_field(rng, size, 8.0)), 0, size - 1).astype(np.int64)
        for place in (rows, columns)
    ]
    return np.ascontiguousarray(labels[moved[0], moved[1]])
