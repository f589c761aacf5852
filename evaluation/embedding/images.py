"""The images of an embedding, all looked at before any network runs: whose they are, and how much of each class.

Notation: C classes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.samples import Sample, load_pair
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from imaging.labels import decide_classes
from imaging.maskfile import read_mask
from imaging.provenance import file_sha256

REAL = "real"


@dataclass(frozen=True)
class EmbeddedImage:
    """One image: a ``sample`` of the set ``arm``, which is `REAL` or the name of an in-silico set.

    ``round`` is 0 for real images and None where it is not known. ``unit`` is the patient, slide or, where neither is
    known, image, and of in-silico images that of their origin. ``shares`` [C] are of the labelled pixels, empty where
    there are none. ``digest`` is the SHA-256 of the image's file, ``shape`` its [H, W].
    """

    sample: Sample
    arm: str
    round: int | None
    unit: str
    shares: tuple[float, ...]
    digest: str
    shape: tuple[int, int]

    @property
    def real(self) -> bool:
        """Whether it is one of the real images."""
        return self.arm == REAL


def look_at(
    where: str, real: Sequence[Sample], arms: Mapping[str, Sequence[Sample]], classes: ClassMap | None
) -> Generator[None, None, tuple[list[EmbeddedImage], ClassMap, tuple[str, ...]]]:
    """Read all images and label maps, real ones first; ticks for each real one twice, for others once.

    Returns the images, the classes and what the user should know of these. Images that this program made hold class
    numbers, others what the real ones hold. ``where`` names the inputs.

    Raises:
        ProblemsError: files that cannot be read, sizes that differ, labels of no class: all of them.
        InputError: the labels need `classes` to be said.
    """
    problems: list[str] = []
    summaries = []
    for sample in real:
        try:
            summaries.append(read_mask(sample.masks[0][1]).summary())
        except InputError as error:
            problems.append(str(error))
        yield
    if not summaries:
        raise ProblemsError(where, problems)
    decided, notes = decide_classes(summaries, classes)
    numbered = ClassMap(decided.names, tuple(range(len(decided))), ignored=(255,))
    units = {sample.name: sample.group for sample in real}
    found = []
    for arm, samples in ({REAL: real} | dict(arms)).items():
        for sample in samples:
            try:
                found.append(_embedded(sample, arm, numbered if sample.synthetic else decided, units))
            except InputError as error:
                problems.append(str(error))
            yield
    if problems:
        raise ProblemsError(where, list(dict.fromkeys(problems)))
    return found, decided, notes


def _embedded(sample: Sample, arm: str, classes: ClassMap, units: Mapping[str, str]) -> EmbeddedImage:
    image, labels = load_pair(sample, classes)
    counts = np.bincount(labels.ravel(), minlength=len(classes) + 1)[: len(classes)]
    shares = tuple((counts / counts.sum()).tolist()) if counts.any() else ()
    if arm == REAL:
        number: int | None = 0
        unit = sample.group
    else:
        number = sample.round if sample.round > 0 else None
        unit = units.get(sample.origin) or (sample.group if sample.group != sample.name else f"{arm}/{sample.name}")
    return EmbeddedImage(sample, arm, number, unit, shares, file_sha256(sample.image), (image.shape[0], image.shape[1]))


def units_of(images: Sequence[EmbeddedImage], fewest: int) -> tuple[list[str], str]:
    """What is drawn as a whole in statistics, for each image, and what that is: ``slide`` or ``image``.

    Where fewer than ``fewest`` patients or slides have real images, each real image stands for itself, with those made
    of it.
    """
    if len({each.unit for each in images if each.real}) >= fewest:
        known = any(each.sample.slide or each.sample.patient for each in images if each.real)
        return [each.unit for each in images], "slide" if known else "image"
    names = {each.sample.name for each in images if each.real}
    made = [each.sample.origin if each.sample.origin in names else f"{each.arm}/{each.sample.name}" for each in images]
    return [each.sample.name if each.real else own for each, own in zip(images, made, strict=True)], "image"


def share_table(images: Sequence[EmbeddedImage], count: int) -> NDArray[np.float64]:
    """Shares of ``count`` classes by image, [n, C]; NaN where an image has no labelled pixel."""
    return np.array([each.shares or (np.nan,) * count for each in images]).reshape(-1, count)
