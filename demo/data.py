"""The training set of the demonstration weights: drawn slides, augmented crops of the example, mask images.

Images lie in pairs: numbers 2k and 2k + 1 come from one slide and share their stains, so that the network can be
taught to take the appearance of one image for another.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL.Image import Resampling, Transform

from dataset.tissue import draw_slide, draw_two_tone, random_slide

Pixels = npt.NDArray[np.uint8]
Kind = Literal["membrane", "nuclear", "stromal", "negative", "mask"]

SIDE = 256
DRAWN_PAIRS = 400
CROP_PAIRS = 300
MASK_PAIRS = 100
HELD_OUT_PAIRS = 12
LARGE_SIDE = 512
LARGE_PAIRS = 24

_GENERAL = (
    "an immunohistochemistry image of epithelium and stroma",
    "a histology image of epithelium and stroma",
    "a photo of tissue",
)
_SPECIFIC: dict[Kind, str] = {
    "membrane": "an immunohistochemistry image with brown epithelium and blue nuclei",
    "nuclear": "an immunohistochemistry image with brown nuclei in the epithelium",
    "stromal": "an immunohistochemistry image with brown cells in the stroma",
    "negative": "an immunohistochemistry image with blue nuclei and no brown stain",
}
_MASK = "a two-tone mask"
CAPTIONS: tuple[str, ...] = ("", *_GENERAL, *_SPECIFIC.values(), _MASK)


@dataclass(frozen=True)
class Dataset:
    """``images`` [N, 256, 256, 3] uint8 in pairs; ``kinds`` one per image."""

    images: Pixels
    kinds: tuple[Kind, ...]


def caption_number(rng: np.random.Generator, kind: Kind) -> int:
    """Draw a caption for an image: its index in `CAPTIONS`; empty in a tenth of the cases."""
    if rng.random() < 0.1:
        return 0
    if kind == "mask":
        return CAPTIONS.index(_MASK)
    if rng.random() < 0.35:
        return CAPTIONS.index(_SPECIFIC[kind])
    return 1 + int(rng.choice(len(_GENERAL), p=(0.65, 0.25, 0.10)))


def load_dataset(folder: Path, example: Path, seed: int = 0) -> tuple[Dataset, Dataset]:
    """Training and held-out sets, read from ``folder``, or made and written there first (some minutes).

    Args:
        folder: where the arrays are kept between runs.
        example: the real image that ships with the repository.
        seed: seed of everything drawn.

    Raises:
        FileNotFoundError: there is no example image.
    """
    if not (folder / "kinds.json").exists():
        if not example.exists():
            raise FileNotFoundError(f"{example}: no such image; run from the repository root or pass --example")
        folder.mkdir(parents=True, exist_ok=True)
        train = _make(np.random.default_rng(seed), example, DRAWN_PAIRS, CROP_PAIRS, MASK_PAIRS)
        held_out = _make(np.random.default_rng(seed + 1), example, HELD_OUT_PAIRS, 0, 2)
        np.save(folder / "train.npy", train.images)
        np.save(folder / "held_out.npy", held_out.images)
        kinds = {"train": train.kinds, "held_out": held_out.kinds}
        (folder / "kinds.json").write_text(json.dumps(kinds), encoding="utf-8")
    names = json.loads((folder / "kinds.json").read_text(encoding="utf-8"))
    train_images = np.load(folder / "train.npy", mmap_mode="r")
    held_out_images = np.load(folder / "held_out.npy", mmap_mode="r")
    return (
        Dataset(train_images, tuple(names["train"])),
        Dataset(held_out_images, tuple(names["held_out"])),
    )


def load_large(folder: Path, example: Path, seed: int = 2) -> Dataset:
    """As `load_dataset`, a few pairs of 512×512: drawn slides, and the whole example in other stains and turns."""
    if not (folder / "large.json").exists():
        rng = np.random.default_rng(seed)
        with PillowImage.open(example) as opened:
            source = np.asarray(opened.convert("RGB"))
        images: list[Pixels] = []
        kinds: list[Kind] = []
        for _ in range(LARGE_PAIRS):
            slide = random_slide(rng)
            images += [draw_slide(rng, slide, LARGE_SIDE)[0] for _ in range(2)]
            stained = source if rng.random() < 0.35 else jitter_stain(rng, source)
            images += [dihedral(stained, int(rng.integers(8))) for _ in range(2)]
            kinds += [slide.pattern] * 2 + ["membrane"] * 2
        np.save(folder / "large.npy", np.stack(images))
        (folder / "large.json").write_text(json.dumps(kinds), encoding="utf-8")
    kept = json.loads((folder / "large.json").read_text(encoding="utf-8"))
    return Dataset(np.load(folder / "large.npy", mmap_mode="r"), tuple(kept))


def _make(rng: np.random.Generator, example: Path, drawn: int, crops: int, masks: int) -> Dataset:
    images: list[Pixels] = []
    kinds: list[Kind] = []
    for _ in range(drawn):
        slide = random_slide(rng)
        images += [draw_slide(rng, slide, SIDE)[0] for _ in range(2)]
        kinds += [slide.pattern] * 2
    if crops > 0:
        with PillowImage.open(example) as opened:
            source = np.asarray(opened.convert("RGB"))
        for _ in range(crops):
            stained = source if rng.random() < 0.35 else jitter_stain(rng, source)
            images += [random_crop(rng, stained, SIDE) for _ in range(2)]
            kinds += ["membrane"] * 2
    for _ in range(2 * masks):
        images.append(draw_two_tone(rng, SIDE))
        kinds.append("mask")
    return Dataset(np.stack(images), tuple(kinds))


def jitter_stain(rng: np.random.Generator, image: Pixels) -> Pixels:
    """The image [H, W, 3] with other stain strengths and hues, changed in optical density."""
    density = -np.log((image.astype(np.float64) + 1.0) / 256.0)
    basis = np.array([[0.71, 0.63, 0.31], [0.25, 0.46, 0.85], [0.57, 0.57, 0.59]])
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    amounts = density @ np.linalg.inv(basis)  # [H, W, 3]
    gain = rng.lognormal(0.0, (0.22, 0.25, 0.1))
    other = np.clip(basis + rng.normal(0.0, 0.035, basis.shape), 0.02, None)
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    light = np.exp(-np.clip((amounts * gain) @ other, 0.0, None))
    return np.clip(np.round(256.0 * light - 1.0), 0, 255).astype(np.uint8)


def random_crop(rng: np.random.Generator, image: Pixels, side: int) -> Pixels:
    """A square crop, flipped or turned by right angles; in half of the cases also scaled and tilted."""
    height, width = image.shape[:2]
    if rng.random() < 0.5:
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        crop = image[top : top + side, left : left + side]
    else:
        angle, scale = rng.uniform(-np.pi / 4, np.pi / 4), rng.uniform(0.85, 1.2)
        cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
        reach = 0.5 * side * (abs(cosine) + abs(sine)) + 1.0
        low, high_x, high_y = (
            min(reach, width / 2),
            max(width - reach, width / 2),
            max(height - reach, height / 2),
        )
        x, y = rng.uniform(low, high_x), rng.uniform(min(reach, height / 2), high_y)
        half = side / 2
        affine = (
            cosine,
            -sine,
            x - cosine * half + sine * half,
            sine,
            cosine,
            y - sine * half - cosine * half,
        )
        tilted = PillowImage.fromarray(image).transform((side, side), Transform.AFFINE, affine, Resampling.BICUBIC)
        crop = np.asarray(tilted)
    return dihedral(crop, int(rng.integers(8)))


def dihedral(image: Pixels, number: int) -> Pixels:
    """One of the eight flips and right-angle rotations of the first two axes."""
    rotated = np.rot90(image, number % 4)
    return np.ascontiguousarray(rotated[:, ::-1] if number >= 4 else rotated)
