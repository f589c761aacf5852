"""Every file of a dataset looked at before any work: one report of all that is wrong, else what a plan needs."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset.pairing import Candidate, candidate
from dataset.pairs import SourcePair, leaks
from dataset.shape import describe
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError, brief
from imaging.images import read_image
from imaging.labels import check_same_size, decide_classes, label_map
from imaging.maskfile import read_mask
from imaging.provenance import file_sha256
from imaging.rawfile import shown


@dataclass(frozen=True)
class Annotated:
    """One annotated image that can be used, or a label map alone, whose ``image_sha256`` is empty. Digests of files."""

    pair: SourcePair
    candidate: Candidate
    image_sha256: str
    mask_sha256: str


@dataclass(frozen=True)
class Inspection:
    """``images`` are those to make new ones of, ``targets`` the label maps they may get; ``notes`` are for the user."""

    images: tuple[Annotated, ...]
    targets: tuple[Annotated, ...]
    classes: ClassMap
    notes: tuple[str, ...]


def inspect(
    where: str,
    chosen: Sequence[SourcePair],
    others: Sequence[SourcePair],
    masks: Sequence[SourcePair] | None,
    classes: ClassMap | None,
) -> Generator[None, None, Inspection]:
    """Look at all ``chosen`` pairs, and at the label maps ``masks`` if targets come from elsewhere; ticks for each.

    ``others`` are the pairs of other splits, which are only checked for being the same images. ``where`` names the
    input.

    Raises:
        ProblemsError: files that cannot be read, sizes that differ, labels of no class, slides, patients or images in
            several splits: all of them.
        InputError: the labels need `classes` to be said.
    """
    problems = leaks([*chosen, *others])
    bad: set[SourcePair] = set()
    summaries = []
    everything = [*chosen, *(masks or ())]
    for pair in everything:
        try:
            summaries.append(read_mask(pair.mask).summary())
        except InputError as error:
            problems.append(str(error))
            bad.add(pair)
        yield
    if not summaries:
        raise ProblemsError(where, problems)
    try:
        decided, notes = decide_classes(summaries, classes)
    except InputError as error:
        if problems:
            raise ProblemsError(where, [*problems, str(error)]) from error
        raise
    found: dict[SourcePair, Annotated] = {}
    for pair in everything:
        if pair not in bad:
            try:
                found[pair] = _annotated(pair, decided)
            except InputError as error:
                problems.append(str(error))
        yield
    problems += _copies([each for each in found.values() if each.pair.image is not None], others)
    if problems:
        raise ProblemsError(where, problems)
    images = tuple(found[pair] for pair in chosen)
    targets = images if masks is None else tuple(found[pair] for pair in masks)
    return Inspection(images, targets, decided, notes)


def read_labels(pair: SourcePair, classes: ClassMap) -> NDArray[np.int64]:
    """The label map [H, W] of ``pair``, C for ignored pixels. Raises InputError."""
    return label_map(read_mask(pair.mask), classes)


def read_pair(pair: SourcePair, classes: ClassMap) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Image [H, W, 3] and label map [H, W] of a ``pair`` with an image. Raises InputError."""
    assert pair.image is not None
    labels = read_labels(pair, classes)
    image = read_image(pair.image)
    check_same_size(labels, pair.mask, image, pair.image)
    return image, labels


def _annotated(pair: SourcePair, classes: ClassMap) -> Annotated:
    labels = read_labels(pair, classes) if pair.image is None else read_pair(pair, classes)[1]
    if int(labels.min()) == len(classes):
        raise InputError(f"{shown(pair.mask)}: every pixel is ignored; take it out, or mend `classes` {classes}")
    made = candidate(pair.name, labels, describe(labels, len(classes)))
    image_sha256 = "" if pair.image is None else file_sha256(pair.image)
    return Annotated(pair, made, image_sha256, file_sha256(pair.mask))


def _copies(found: Sequence[Annotated], others: Sequence[SourcePair]) -> list[str]:
    """A line for each image file of another split that is, byte for byte, one of those ``found``."""
    known = {each.image_sha256: each.pair for each in found}
    problems = []
    for pair in others:
        try:
            same = None if pair.image is None else known.get(file_sha256(pair.image))
        except InputError:
            continue  # it is not used
        if same is not None:
            problems.append(
                f"{shown(pair.image or '')}: of the split {brief(pair.split or 'none')}, is the same image as "
                f"{brief(same.name)} of {brief(same.split or 'none')}; take one of them out"
            )
    return problems
