"""Further images beside the annotated ones, made without any network: copies under turns, and collages.

All sets of a subset follow the same recipes: origin, target map and turn of each image, round after round, are those of
the in-silico images. A set is a folder with ``images/``, ``masks/`` and a manifest, as `dataset` makes them; label maps
hold class numbers, 255 for none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evaluation.samples import Sample, load_labels, load_pair
from imaging.classes import ClassMap
from imaging.errors import InputError, brief
from imaging.images import encode_png
from imaging.output import replacing, write_text
from imaging.rawfile import read_bytes, shown
from imaging.turns import DIHEDRAL, turn

MANIFEST = "manifest.jsonl"
IGNORED = 255
SHIFTS = 96
"""Of the origin over itself, until each class's tissue fills the whole canvas, or nearly."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Recipe:
    """A further image: whose it is, the label map it shall have, turned. Names of annotated images; rounds from 1."""

    round: int
    origin: str
    target: str
    dihedral: str


Change = Callable[[Pixels], Pixels]
"""What is done to a copy: an image [H, W, 3] to one of the same size."""


def make_copies(
    folder: Path,
    recipes: Sequence[Recipe],
    samples: Sequence[Sample],
    classes: ClassMap,
    change: Change | None = None,
) -> Generator[None, None, None]:
    """The origins under the turns of their recipes' targets; ticks for each. Raises InputError."""
    known = {each.name: each for each in samples}

    def make(recipe: Recipe) -> tuple[Pixels, Labels]:
        image, labels = load_pair(known[recipe.origin], classes)
        turned = turn(image, recipe.dihedral)
        return turned if change is None else change(turned), turn(labels, recipe.dihedral)

    return _make(folder, recipes, known, classes, make)


def make_collages(
    folder: Path, recipes: Sequence[Recipe], samples: Sequence[Sample], classes: ClassMap, seed: int
) -> Generator[None, None, None]:
    """Images of the recipes' targets, each class filled with the origin's tissue of that class; ticks for each.

    A class that the origin has not is taken from another of the ``samples``, by chance; one that none has is ignored.
    Raises InputError.
    """
    known = {each.name: each for each in samples}

    def make(recipe: Recipe) -> tuple[Pixels, Labels]:
        rng = np.random.default_rng(_number(f"{seed}\0{recipe}"))
        target = turn(load_labels(known[recipe.target], classes), recipe.dihedral)
        others = [each for each in samples if each.name != recipe.origin]
        order = [known[recipe.origin], *(others[place] for place in rng.permutation(len(others)))]
        return collage(order, target, classes, rng)

    return _make(folder, recipes, known, classes, make)


def collage(
    donors: Sequence[Sample], target: Labels, classes: ClassMap, rng: np.random.Generator
) -> tuple[Pixels, Labels]:
    """An image [H, W, 3] for the ``target`` labels [H, W] from the first of ``donors`` that has each class.

    Returns it with the labels; pixels of a class that no donor has are ignored.
    """
    result = np.zeros((*target.shape, 3), np.uint8)
    labels = target.copy()
    for c in (int(each) for each in np.unique(target)):
        # Ignored pixels show the origin's tissue, whatever it is.
        found = next(filter(None, (_tissue(donor, c, classes) for donor in donors)), None)
        if found is None:
            labels[target == c] = len(classes)
            continue
        result[target == c] = spread(*found, target.shape, rng)[target == c]
    return result, labels


def _tissue(donor: Sample, c: int, classes: ClassMap) -> tuple[Pixels, NDArray[np.bool_]] | None:
    image, labels = load_pair(donor, classes)
    of_class = labels == c if c < len(classes) else np.ones(labels.shape, dtype=bool)
    return (image, of_class) if of_class.any() else None


def spread(image: Pixels, of_class: NDArray[np.bool_], shape: tuple[int, ...], rng: np.random.Generator) -> Pixels:
    """A canvas of ``shape`` [H', W'] covered with the tissue of ``image`` [H, W, 3] where ``of_class`` [H, W] holds.

    The image lies on it first as it is, then under turns and shifts at random, each filling what is still empty; the
    last holes take single pixels.
    """
    canvas = np.zeros((*shape, 3), np.uint8)
    empty = np.ones(shape, dtype=bool)
    for number in range(SHIFTS):
        element = DIHEDRAL[int(rng.integers(len(DIHEDRAL)))] if number else "identity"
        turned, kept = turn(image, element), turn(of_class, element)
        top, left = (
            int(rng.integers(1 - inner, outer)) if number else 0
            for inner, outer in zip(kept.shape, shape[:2], strict=True)
        )
        on = (slice(max(0, top), top + kept.shape[0]), slice(max(0, left), left + kept.shape[1]))
        height, width = empty[on].shape
        off = (slice(max(0, -top), max(0, -top) + height), slice(max(0, -left), max(0, -left) + width))
        filled = empty[on] & kept[off]
        canvas[on][filled] = turned[off][filled]
        empty[on] &= ~filled
        if not empty.any():
            return canvas
    tissue = image[of_class]
    canvas[empty] = tissue[rng.integers(len(tissue), size=int(empty.sum()))]
    return canvas


def move_doubts(trusted: NDArray[np.uint8], plain: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """``plain`` labels [H, W] with as many pixels left out as ``trusted`` leaves out, elsewhere: its holes, shifted.

    Pixels that ``plain`` itself leaves out stay so.
    """
    height, width = plain.shape
    doubtful = (trusted == IGNORED) & (plain != IGNORED)
    shift = (int(rng.integers(height)), int(rng.integers(width)))
    return np.where(np.roll(doubtful, shift, axis=(0, 1)), IGNORED, plain).astype(np.uint8)


def _make(
    folder: Path,
    recipes: Sequence[Recipe],
    known: dict[str, Sample],
    classes: ClassMap,
    make: Callable[[Recipe], tuple[Pixels, Labels]],
) -> Generator[None, None, None]:
    lines = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for recipe in recipes:
        name = f"{hashlib.sha256(repr(recipe).encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.png"
        image, labels = make(recipe)
        mask = np.where(labels >= len(classes), IGNORED, labels).astype(np.uint8)
        paths = (folder / "images" / name, folder / "masks" / name)
        with replacing(*paths) as partials:
            for partial, content in zip(partials, (image, mask), strict=True):
                partial.write_bytes(encode_png(content))
        lines.append(
            json.dumps(
                {
                    "file_name": f"images/{name}",
                    "mask_file_name": f"masks/{name}",
                    "synthetic": True,
                    "round": recipe.round,
                    "origin": recipe.origin,
                    "target": recipe.target,
                    "dihedral": recipe.dihedral,
                    "slide_id": known[recipe.origin].slide,
                    "patient_id": known[recipe.origin].patient,
                }
            )
            + "\n"
        )
        yield
    write_text(folder / MANIFEST, "".join(lines))


def read_set(folder: Path, subset: Sequence[Sample]) -> list[Sample]:
    """The further images of a finished set, of `make_copies`, `make_collages` or `dataset`.

    ``Sample.masks`` are label maps of class numbers; ``trusted`` is there in sets of `dataset`.

    Raises:
        InputError: the manifest is damaged, or an origin is none of ``subset``: its labels would be known beforehand.
    """
    path = folder / MANIFEST
    known = {each.name: each for each in subset}
    found = []
    for number, line in enumerate(read_bytes(path).decode("utf-8", "replace").splitlines(), start=1):
        place = f"{shown(path)} line {number}"
        try:
            row = json.loads(line)
            name, mask, origin, round_ = (row[key] for key in ("file_name", "mask_file_name", "origin", "round"))
            trusted = row.get("trusted_mask_file_name")
            texts = [name, mask, origin, *([trusted] if trusted is not None else [])]
            if not all(isinstance(each, str) and "\0" not in each for each in texts) or type(round_) is not int:
                raise ValueError("a value of another type")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InputError(f"{place}: damaged ({brief(str(error))}); remove {shown(folder)} and run again") from error
        if origin not in known:
            raise InputError(
                f"{place}: made from {brief(origin)}, which is none of the subset's images; remove {shown(folder)}"
            )
        found.append(
            replace(
                known[origin],
                name=name,
                image=folder / name,
                masks=(("", folder / mask),),
                synthetic=True,
                round=round_,
                origin=origin,
                trusted=None if trusted is None else folder / trusted,
            )
        )
    return found


def _number(text: str) -> int:
    return int(hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16], 16)
