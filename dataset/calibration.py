"""What the measures of quality give on real pairs: the yardstick for those of new images."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from dataset.inspection import read_pair
from dataset.plan import Plan
from dataset.quality import Look, OriginModel, judge
from imaging.turns import turn

MEASURES = ("fidelity", "separation", "stain_distance", "copying")
MOST_PAIRS = 24
ASSUMED = 0.95
"""Above this an image counts as copied where no real pairs say what is usual."""


@dataclass(frozen=True)
class Calibration:
    """Each measure of `MEASURES` on real images, judged as if each had been made from another one for its own map.

    ``same_slide`` tells that they are of the origin's own slide; otherwise their stains may differ from its.
    """

    values: Mapping[str, tuple[float, ...]]
    same_slide: bool

    @property
    def copied_above(self) -> float:
        """Half-way from the most alike real images to a copy, whose measure is 1; what is above counts as one."""
        alike = self.values["copying"]
        return (1.0 + max(alike)) / 2 if alike else ASSUMED

    def as_json(self) -> dict[str, Any]:
        """For a file; `from_json` reads it."""
        return {"values": {name: list(each) for name, each in self.values.items()}, "same_slide": self.same_slide}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Calibration:
        """What `as_json` gave."""
        return Calibration({name: tuple(each) for name, each in content["values"].items()}, content["same_slide"])


def calibrate(plan: Plan) -> Generator[None, None, Calibration]:
    """Judge real images as if they were new: of the plan's own pairs, or, where slides are known, of one slide each.

    Ticks after each. Raises InputError if a file cannot be read any more.
    """
    pairs = _of_one_slide(plan)
    same_slide = bool(pairs)
    if not pairs:
        pairs = [
            (item.origin, item.target, item.dihedral)
            for item in plan.items
            if plan.sources[item.target].pair.image is not None and item.target != item.origin
        ]
    values: dict[str, list[float]] = {name: [] for name in MEASURES}
    for origin, target, element in list(dict.fromkeys(pairs))[:: max(1, len(pairs) // MOST_PAIRS)][:MOST_PAIRS]:
        image, labels = read_pair(plan.sources[origin].pair, plan.classes)
        other, wanted = read_pair(plan.sources[target].pair, plan.classes)
        quality = judge(
            OriginModel.of(image, labels, len(plan.classes)),
            Look.of(np.asarray(turn(other, element), dtype=np.uint8)),
            np.asarray(turn(wanted, element), dtype=np.int64),
        )
        for name in MEASURES:
            values[name].append(float(getattr(quality, name)))
        yield
    return Calibration({name: tuple(sorted(each)) for name, each in values.items()}, same_slide)


def _of_one_slide(plan: Plan) -> list[tuple[int, int, str]]:
    by_slide: dict[str, list[int]] = {}
    for place in dict.fromkeys(item.origin for item in plan.items):
        slide = plan.sources[place].pair.slide
        if slide:
            by_slide.setdefault(slide, []).append(place)
    return [(one, other, "identity") for each in by_slide.values() for one, other in pairwise(each)]
