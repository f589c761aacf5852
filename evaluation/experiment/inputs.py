"""Every annotated image looked at before any work: one report of all that is wrong, else digests and class shares."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from evaluation.samples import Sample, load_image
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from imaging.labels import check_same_size, decide_classes, label_map
from imaging.maskfile import Mask, read_mask
from imaging.provenance import file_sha256
from imaging.rawfile import shown


@dataclass(frozen=True)
class Looked:
    """By sample name: digests of the ``images`` and of all annotators' ``masks``, and each class's share of pixels."""

    classes: ClassMap
    images: Mapping[str, str]
    masks: Mapping[str, tuple[str, ...]]
    fractions: Mapping[str, tuple[float, ...]]
    notes: tuple[str, ...]


def look_at(where: str, samples: Sequence[Sample], classes: ClassMap | None) -> Generator[None, None, Looked]:
    """Read all ``samples``, twice; ticks for each. ``where`` names the input.

    Raises:
        ProblemsError: files that cannot be read, sizes that differ, labels of no class: all of them.
        InputError: the labels need `classes` to be said.
    """
    problems: list[str] = []
    summaries: list[Mask] = []
    for each in samples:
        for _, path in each.masks:
            try:
                summaries.append(read_mask(path).summary())
            except InputError as error:
                problems.append(str(error))
        yield
    if problems:
        raise ProblemsError(where, problems)
    if not summaries:
        raise InputError(f"{where}: no annotated images there")
    decided, notes = decide_classes(summaries, classes)
    images: dict[str, str] = {}
    masks: dict[str, tuple[str, ...]] = {}
    fractions: dict[str, tuple[float, ...]] = {}
    for each in samples:
        try:
            image = load_image(each)
            counted = np.zeros(len(decided) + 1)
            for _, path in each.masks:
                labels = label_map(read_mask(path), decided)
                check_same_size(labels, path, image, each.image)
                counted += np.bincount(labels.ravel(), minlength=len(decided) + 1)
            if not counted[:-1].any():
                raise InputError(f"{shown(each.masks[0][1])}: every pixel is ignored; take it out, or mend `classes`")
            if each.name in images:
                raise InputError(f"{shown(each.image)}: is there twice; take it out once")
            fractions[each.name] = tuple(float(share) for share in counted[:-1] / counted[:-1].sum())
            images[each.name] = file_sha256(each.image)
            masks[each.name] = tuple(file_sha256(path) for _, path in each.masks)
        except InputError as error:
            problems.append(str(error))
        yield
    if problems:
        raise ProblemsError(where, problems)
    return Looked(decided, images, masks, fractions, notes)
