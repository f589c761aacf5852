"""Real images to train on: the example, and, from folders beside the repository, a Ki67 field, H&E and nuclei.

Every source gives views, square crops with a label map. What is held out never enters a training view: the right fifth
of the Ki67 field, of the nuclei every fifth image and all of one stain (pink).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL.Image import Resampling, Transform

from dataset.stain import box_mean, stain_densities
from demo.stains import Pixels

Labels = npt.NDArray[np.uint8]

_FIELD_SCALES = (1.0, 0.75, 0.5)
_KEPT = 0.8  # of a field's width; the rest is held out
_NEIGHBOURS = 3


class View(NamedTuple):
    """A crop: pixels [S, S, 3], labels [S, S]; class 0 is the darkest one."""

    image: Pixels
    labels: Labels


@dataclass(frozen=True)
class RealImage:
    """An image [H, W, 3] with its label map [H, W], uint8, of ``classes`` classes."""

    image: Pixels
    labels: Labels
    classes: int = 2

    def scaled(self, factor: float) -> RealImage:
        """The same at another size: averaged, labels by nearest neighbour."""
        if factor == 1.0:
            return self
        size = (round(self.image.shape[1] * factor), round(self.image.shape[0] * factor))
        image = PillowImage.fromarray(self.image).resize(size, Resampling.BOX if factor < 1 else Resampling.BICUBIC)
        labels = PillowImage.fromarray(self.labels).resize(size, Resampling.NEAREST)
        return RealImage(np.asarray(image), np.asarray(labels), self.classes)

    def columns(self, first: float, last: float) -> RealImage:
        """The columns between two shares of the width."""
        low, high = (round(share * self.image.shape[1]) for share in (first, last))
        return RealImage(self.image[:, low:high], self.labels[:, low:high], self.classes)


@dataclass(frozen=True)
class Sources:
    """What there is to train on, and what is held out. Lists that are empty are of folders that were not given."""

    example: RealImage
    fields: list[RealImage]
    held_out_fields: list[RealImage]
    nuclei: list[RealImage]
    held_out_nuclei: list[RealImage]


def read_sources(example: Path, openslide: Path | None, nuclei: Path | None) -> Sources:
    """Read every source.

    Args:
        example: the image that ships with the repository; its labels are beside it, ``_mask`` in their name.
        openslide: folder of ``OS-2-ndpi.png, OS-2-vsi.png, OS-1-detail.png``, crops of OpenSlide's test slides.
        nuclei: folder of ``images/`` and ``masks/`` (255 is nucleus), the coloured part of DSB 2018.

    Raises:
        FileNotFoundError: a named folder lacks its files.
    """
    if not example.exists():
        raise FileNotFoundError(f"{example}: no such image; run from the repository root or pass --example")
    mask = example.with_name(f"{example.stem}_mask.png")
    fields: list[RealImage] = []
    held_out_fields: list[RealImage] = []
    if openslide is not None:
        for name in ("OS-2-ndpi.png", "OS-2-vsi.png", "OS-1-detail.png"):
            whole = _with_nuclei(_rgb(openslide / name), dab=name != "OS-1-detail.png")
            if name == "OS-1-detail.png":
                fields.append(whole)
                continue
            # Both scanners show one field, so the same part of both is held out.
            fields.append(whole.columns(0.0, _KEPT))
            held_out_fields.append(whole.columns(_KEPT, 1.0))
    kept: list[RealImage] = []
    held_out: list[RealImage] = []
    if nuclei is not None:
        paths = sorted((nuclei / "images").glob("*.png"))
        if not paths:
            raise FileNotFoundError(f"{nuclei}/images: no PNG files")
        for number, path in enumerate(paths):
            labels = np.where(_grey(nuclei / "masks" / path.name) > 127, 0, 1).astype(np.uint8)
            image = RealImage(_rgb(path), labels)
            (held_out if number % 5 == 0 or is_pink(image.image) else kept).append(image)
    return Sources(RealImage(_rgb(example), _grey(mask)), fields, held_out_fields, kept, held_out)


def is_pink(image: Pixels) -> bool:
    """Whether the image's mean red lies above its mean blue: the eosin-stained group of DSB 2018."""
    red, _, blue = image.reshape(-1, 3).mean(axis=0)
    return bool(red > blue + 8.0)


def field_view(rng: np.random.Generator, field: RealImage, side: int, factor: float) -> View:
    """A turned crop of a field at a scale that its size allows; a third with tissue against glass as its classes."""
    view = random_view(rng, field.scaled(factor), side)
    if field.classes == 3 and rng.random() < 0.33:
        density = box_mean(stain_densities(view.image)[..., :2].sum(axis=-1).clip(0.0, 0.3), 12)
        view = View(view.image, (density < threshold(density)).astype(np.uint8))
    return view


def field_scale(rng: np.random.Generator, fields: list[RealImage], side: int) -> float:
    """A scale at which a crop of ``side`` fits every one of ``fields``."""
    smallest = min(min(field.labels.shape) for field in fields)
    return float(rng.choice([scale for scale in _FIELD_SCALES if smallest * scale >= side]))


def alike(images: list[RealImage]) -> list[list[int]]:
    """For each image the nearest others by mean and deviation of colour: probably of its slide."""
    colours = np.stack(
        [np.concatenate([r.image.mean(axis=(0, 1)), 0.5 * r.image.std(axis=(0, 1))]) for r in images]
    )  # [N, 6]
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return [list(row[:_NEIGHBOURS]) for row in np.argsort(distance, axis=1)]


def random_view(rng: np.random.Generator, source: RealImage, side: int) -> View:
    """A square crop, flipped or turned by right angles; in half of the cases also scaled and tilted, if it fits."""
    height, width = source.labels.shape
    angle, scale = rng.uniform(-np.pi / 4, np.pi / 4), rng.uniform(0.85, 1.2)
    cosine, sine = np.cos(angle) / scale, np.sin(angle) / scale
    half = side / 2
    reach = half * (abs(cosine) + abs(sine)) + 1.0
    turn = int(rng.integers(8))
    if rng.random() < 0.5 or 2.0 * reach > min(height, width):
        top, left = int(rng.integers(0, height - side + 1)), int(rng.integers(0, width - side + 1))
        image = source.image[top : top + side, left : left + side]
        labels = source.labels[top : top + side, left : left + side]
    else:
        x, y = rng.uniform(reach, width - reach), rng.uniform(reach, height - reach)
        affine = (cosine, -sine, x - cosine * half + sine * half, sine, cosine, y - sine * half - cosine * half)
        image, labels = (
            np.asarray(PillowImage.fromarray(array).transform((side, side), Transform.AFFINE, affine, how))
            for array, how in ((source.image, Resampling.BICUBIC), (source.labels, Resampling.NEAREST))
        )
    return View(dihedral(image, turn), dihedral(labels, turn))


def dihedral(image: Pixels, number: int) -> Pixels:
    """One of the eight flips and right-angle rotations of the first two axes."""
    rotated = np.rot90(image, number % 4)
    return np.ascontiguousarray(rotated[:, ::-1] if number >= 4 else rotated)


def threshold(values: npt.NDArray[np.floating]) -> float:
    """Otsu's threshold: the cut with the largest variance between the two sides."""
    counts, edges = np.histogram(values, 256)
    centres = (edges[:-1] + edges[1:]) / 2
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])[::-1]
    sums = np.cumsum(counts * centres)
    low = sums[:-1] / np.maximum(below[:-1], 1)
    high = (sums[-1] - sums[:-1]) / np.maximum(above[1:], 1)
    return float(edges[1 + int(np.argmax(below[:-1] * above[1:] * (low - high) ** 2))])


def _with_nuclei(image: Pixels, *, dab: bool) -> RealImage:
    """Label nuclei by density, which nobody has checked: brown 0, blue 1 and the rest 2; without DAB dark 0, rest 1."""
    stains = box_mean(stain_densities(image), 2)  # [H, W, 3]
    brown = stains[..., 1] > threshold(stains[..., 1]) if dab else np.zeros(image.shape[:2], bool)
    blue = stains[..., 0] > threshold(stains[..., 0][~brown])
    if not dab:
        return RealImage(image, np.where(blue, 0, 1).astype(np.uint8))
    return RealImage(image, np.where(brown, 0, np.where(blue, 1, 2)).astype(np.uint8), classes=3)


def _rgb(path: Path) -> Pixels:
    with PillowImage.open(path) as opened:
        return np.asarray(opened.convert("RGB"))


def _grey(path: Path) -> Labels:
    with PillowImage.open(path) as opened:
        return np.asarray(opened.convert("L"))
