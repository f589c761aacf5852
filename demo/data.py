"""The training set of the demonstration weights: drawn slides, real images, mask images.

Images lie in pairs: numbers 2k and 2k + 1 come from one slide and share their stains, so that the network can be
taught to take the appearance of one image for another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dataset.tissue import draw_slide, draw_two_tone, random_slide
from demo.real import Labels, Sources, View, alike, field_scale, field_view, random_view
from demo.stains import Pixels, restain, slight_change

Kind = Literal["membrane", "nuclear", "stromal", "negative", "field", "nuclei", "mask"]

SIDE = 256
LARGE_SIDE = 512


class Amounts(NamedTuple):
    """Pairs of each kind. Those of real images are left out where their folders were not given."""

    drawn: int
    example: int
    field: int
    nuclei: int
    mask: int


TRAIN = Amounts(drawn=320, example=130, field=190, nuclei=100, mask=60)
HELD_OUT = Amounts(drawn=12, example=0, field=8, nuclei=8, mask=2)
LARGE = Amounts(drawn=14, example=12, field=18, nuclei=0, mask=0)

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
    "field": "an immunohistochemistry image with brown and blue nuclei",
    "nuclei": "a histology image of nuclei",
}
_MASK = "a two-tone mask"
CAPTIONS: tuple[str, ...] = ("", *_GENERAL, *_SPECIFIC.values(), _MASK)


@dataclass(frozen=True)
class Dataset:
    """``images`` [N, S, S, 3] and ``labels`` [N, S, S], uint8, in pairs; ``kinds`` one per image."""

    images: Pixels
    labels: Labels
    kinds: tuple[Kind, ...]

    def of(self, *kinds: Kind) -> Dataset:
        """The images of some kinds."""
        chosen = [i for i, kind in enumerate(self.kinds) if kind in kinds]
        return Dataset(self.images[chosen], self.labels[chosen], tuple(self.kinds[i] for i in chosen))


def caption_number(rng: np.random.Generator, kind: Kind) -> int:
    """Draw a caption for an image: its index in `CAPTIONS`; empty in a tenth of the cases."""
    if rng.random() < 0.1:
        return 0
    if kind == "mask":
        return CAPTIONS.index(_MASK)
    if rng.random() < 0.35:
        return CAPTIONS.index(_SPECIFIC[kind])
    return 1 + int(rng.choice(len(_GENERAL), p=(0.65, 0.25, 0.10)))


def load_dataset(path: Path, sources: Sources, amounts: Amounts, side: int, seed: int, *, held_out: bool) -> Dataset:
    """A set, read from the folder ``path``, or made and written there first (some minutes).

    Args:
        path: where the arrays are kept between runs.
        sources: the real images.
        amounts: how many pairs of each kind.
        side: of the images, pixels.
        seed: seed of everything drawn.
        held_out: from what is held out of the real images, as it is; else from what is not, in other stains too.
    """
    if not (path / "kinds.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)
        pairs = list(_pairs(rng, sources, amounts, side, held_out=held_out))
        views = [view for _, pair in pairs for view in pair]
        np.save(path / "images.npy", np.stack([view.image for view in views]))
        np.save(path / "labels.npy", np.stack([view.labels for view in views]))
        kinds = [kind for kind, _ in pairs for _ in range(2)]
        (path / "kinds.json").write_text(json.dumps(kinds), encoding="utf-8")
    names = json.loads((path / "kinds.json").read_text(encoding="utf-8"))
    images, labels = (np.load(path / f"{name}.npy", mmap_mode="r") for name in ("images", "labels"))
    return Dataset(images, labels, tuple(names))


def _pairs(
    rng: np.random.Generator, sources: Sources, amounts: Amounts, side: int, *, held_out: bool
) -> Iterator[tuple[Kind, tuple[View, View]]]:
    for _ in range(amounts.drawn):
        slide = random_slide(rng)
        yield slide.pattern, (View(*draw_slide(rng, slide, side)), View(*draw_slide(rng, slide, side)))
    for _ in range(amounts.example):
        pair = random_view(rng, sources.example, side), random_view(rng, sources.example, side)
        yield "membrane", pair if held_out else _jittered(rng, pair)
    fields = sources.held_out_fields if held_out else sources.fields
    for _ in range(amounts.field if fields else 0):
        field = fields[int(rng.integers(len(fields)))]
        scale = field_scale(rng, [field], side)
        # H&E is no more than one field in six of those with DAB.
        if field.classes == 2 and rng.random() < 0.5:
            field, scale = fields[0], field_scale(rng, fields[:1], side)
        pair = field_view(rng, field, side, scale), field_view(rng, field, side, scale)
        yield "field" if field.classes == 3 else "nuclei", pair if held_out else _jittered(rng, pair)
    nuclei = sources.held_out_nuclei if held_out else sources.nuclei
    neighbours = alike(nuclei) if nuclei else []
    for _ in range(amounts.nuclei if nuclei else 0):
        first = int(rng.integers(len(nuclei)))
        second = int(rng.choice(neighbours[first]))
        pair = random_view(rng, nuclei[first], side), random_view(rng, nuclei[second], side)
        yield "nuclei", pair if held_out else _jittered(rng, pair)
    for _ in range(amounts.mask):
        blank = np.zeros((side, side), np.uint8)
        yield "mask", (View(draw_two_tone(rng, side), blank), View(draw_two_tone(rng, side), blank))


def _jittered(rng: np.random.Generator, pair: tuple[View, View]) -> tuple[View, View]:
    """Both in the same slightly other stain, in half of the cases."""
    if rng.random() < 0.5:
        return pair
    change = slight_change(rng)
    first, second = (View(restain(view.image, change), view.labels) for view in pair)
    return first, second
