"""The plan of a dataset: every image that will be made, and from what; a function of inputs, settings and seed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dataset.inspection import Annotated, Inspection
from dataset.pairing import choose_targets, item_seed
from dataset.pairs import SourcePair
from imaging.classes import ClassMap
from imaging.errors import InputError, brief
from imaging.rawfile import shown

ID_DIGITS = 16
MULTIPLE = 64
FEWEST_UNITS = 16
"""So that several workers have something to do."""


@dataclass(frozen=True)
class Source:
    """One input of a plan: its pair, and digests by which a change is noticed. ``shape`` is [H, W] in pixels."""

    pair: SourcePair
    image_sha256: str
    mask_sha256: str
    labels_sha256: str
    shape: tuple[int, int]
    fractions: tuple[float, ...]


@dataclass(frozen=True)
class Item:
    """One image to be made. ``origin`` and ``target`` are places among the plan's sources; rounds count from 1."""

    id: str
    round: int
    variant: int
    origin: int
    target: int
    dihedral: str
    seed: int
    fraction_distance: float
    shape_distance: float


@dataclass(frozen=True)
class Unit:
    """All images of an origin, which is inverted once for them, or of as many origins as fill a batch.

    ``batches`` are places among ``items``. What is denoised together is part of the plan: on some processors a result
    depends, in its last bits, on its batch.
    """

    items: tuple[Item, ...]
    batches: tuple[tuple[int, ...], ...]

    @property
    def key(self) -> str:
        """The unit's own name: that of its first item."""
        return self.items[0].id


@dataclass(frozen=True)
class Plan:
    """``settings`` is all that decides what the images are, as JSON; ``batch`` is how many are denoised together."""

    sources: tuple[Source, ...]
    items: tuple[Item, ...]
    classes: ClassMap
    settings: Mapping[str, Any]
    batch: int
    variants: int

    @property
    def units(self) -> list[Unit]:
        """The items in their order, divided between origins; not fewer than `FEWEST_UNITS` for full batches."""
        units: list[list[Item]] = [[]]
        full = min(self.batch, len(self.items) // FEWEST_UNITS)
        for item in self.items:
            if len(units[-1]) >= full and units[-1] and units[-1][-1].origin != item.origin:
                units.append([])
            units[-1].append(item)
        return [Unit(tuple(items), self._batches(items)) for items in units if items]

    def _batches(self, items: Sequence[Item]) -> tuple[tuple[int, ...], ...]:
        """Of one size each; images that share an origin's trajectory, which has a seed, lie next to each other."""
        alike: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = {}
        for place in sorted(range(len(items)), key=lambda place: (items[place].origin, items[place].seed, place)):
            item = items[place]
            shapes = (padded(self.sources[item.origin].shape), padded(self.target_shape(item)))
            alike.setdefault(shapes, []).append(place)
        return tuple(
            tuple(places[start : start + self.batch])
            for places in alike.values()
            for start in range(0, len(places), self.batch)
        )

    def target_shape(self, item: Item) -> tuple[int, int]:
        """[H, W] of an item's target, turned."""
        height, width = self.sources[item.target].shape
        return (width, height) if item.dihedral.endswith(("90", "270")) else (height, width)

    def digest(self) -> str:
        """SHA-256 of all that decides what the images are."""
        return hashlib.sha256("\n".join(item.id for item in self.items).encode()).hexdigest()


def padded(shape: tuple[int, int]) -> tuple[int, int]:
    """[H, W] rounded up to what the networks take."""
    return (shape[0] + -shape[0] % MULTIPLE, shape[1] + -shape[1] % MULTIPLE)


def make_plan(
    found: Inspection, settings: Mapping[str, Any], *, rounds: int, variants: int, seed: int, batch: int
) -> Plan:
    """Choose the targets of all images, round after round. Raises InputError if there are not so many.

    ``settings`` must hold all that changes an image beside its inputs: the method's, the weights' digest, the type.
    """
    separate = found.targets is not found.images
    everything = (*found.images, *found.targets) if separate else found.images
    sources = tuple(_source(each) for each in everything)
    first = len(found.images) if separate else 0
    candidates = [each.candidate for each in found.targets]
    fractions = np.stack([each.descriptor.fractions for each in candidates])
    text = json.dumps(settings, sort_keys=True)
    items = []
    for origin, annotated in enumerate(found.images):
        choices = choose_targets(annotated.candidate, candidates, fractions, rounds, seed)
        start = item_seed(seed, annotated.candidate)
        for number, choice in enumerate(choices, start=1):
            target = first + choice.target
            for variant in range(variants):
                content = (sources[origin].image_sha256, sources[origin].labels_sha256, sources[target].labels_sha256)
                parts = (*content, choice.dihedral, str(start + variant), str(found.classes), text)
                name = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogateescape")).hexdigest()[:ID_DIGITS]
                items.append(
                    Item(
                        f"r{number}-{name}",
                        number,
                        variant,
                        origin,
                        target,
                        choice.dihedral,
                        start + variant,
                        round(choice.fraction_distance, 6),
                        round(choice.shape_distance, 6),
                    )
                )
    if len({item.id for item in items}) < len(items):
        raise InputError("two of the planned images would be the same; take images out that are there twice")
    return Plan(sources, tuple(items), found.classes, settings, batch, variants)


def _source(each: Annotated) -> Source:
    fractions = tuple(round(float(value), 6) for value in each.candidate.descriptor.fractions)
    return Source(
        each.pair, each.image_sha256, each.mask_sha256, each.candidate.digest, each.candidate.shape, fractions
    )


def plan_table(plan: Plan) -> str:
    """The plan as CSV, a line for each image."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    names = ("id", "round", "variant", "origin", "target", "dihedral", "seed", "fraction_distance", "shape_distance")
    table.writerow(names)
    for item in plan.items:
        origin, target = (plan.sources[place].pair for place in (item.origin, item.target))
        values = asdict(item) | {"origin": origin.name, "target": target.mask_name}
        table.writerow([values[name] for name in names])
    return text.getvalue()


def plan_json(plan: Plan) -> str:
    """The plan as text that `read_plan` reads. Paths are absolute, so that it can be taken up from anywhere.

    The first line is the digest of the second.
    """
    sources = []
    for source in plan.sources:
        pair = source.pair
        image = None if pair.image is None else str(pair.image.absolute())
        sources.append(asdict(source) | {"pair": {**asdict(pair), "image": image, "mask": str(pair.mask.absolute())}})
    content = {
        "sources": sources,
        "items": [asdict(item) for item in plan.items],
        "classes": str(plan.classes),
        "settings": plan.settings,
        "batch": plan.batch,
        "variants": plan.variants,
    }
    text = json.dumps(content)
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n"


def read_plan(path: Path) -> Plan:
    """The plan that a run wrote to ``path``. Raises InputError if it is not whole."""
    try:
        digest, _, text = path.read_bytes().removesuffix(b"\n").partition(b"\n")
        if hashlib.sha256(text).hexdigest().encode() != digest:
            raise ValueError("not as it was written")
        content = json.loads(text)
        sources = tuple(
            Source(
                SourcePair(
                    **{
                        **each["pair"],
                        "image": None if each["pair"]["image"] is None else Path(each["pair"]["image"]),
                        "mask": Path(each["pair"]["mask"]),
                    }
                ),
                each["image_sha256"],
                each["mask_sha256"],
                each["labels_sha256"],
                (each["shape"][0], each["shape"][1]),
                tuple(each["fractions"]),
            )
            for each in content["sources"]
        )
        items = tuple(Item(**each) for each in content["items"])
        classes = ClassMap.parse(content["classes"])
        return Plan(sources, items, classes, content["settings"], content["batch"], content["variants"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = brief(str(error))
        raise InputError(f"{shown(path)}: the plan cannot be read ({reason}); remove it and run again") from error
