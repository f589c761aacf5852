"""From folders to the samples that are evaluated: any layout of annotated images, and datasets made in silico."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dataset.layouts import IMAGES, read_annotators, read_source
from dataset.pairs import SourcePair
from dataset.summary import MANIFEST
from dataset.tables import SUFFIXES, Row, read_rows
from evaluation.samples import Sample
from imaging.classes import ClassMap
from imaging.errors import InputError, brief
from imaging.rawfile import shown


@dataclass(frozen=True)
class SampleSet:
    """What lies at ``path``. ``classes`` is what the set itself says of its labels, if it does."""

    path: Path
    samples: tuple[Sample, ...]
    classes: ClassMap | None


def read_samples(path: Path) -> SampleSet:
    """Find the annotated images of ``path``: any layout of `dataset` (docs/datasets.md), or a folder it made.

    A folder with ``images/`` and several of ``masks_NAME/`` has several annotators.

    Raises:
        InputError: it is none of them, or some images lack a label map (all of these at once).
    """
    if os.path.isdir(path / IMAGES) and not (path / MANIFEST).exists():
        annotators = read_annotators(path)
        if annotators:
            return SampleSet(path, _annotated(annotators), None)
    source = read_source(path)
    samples = [_sample(pair) for pair in source.pairs]
    manifest = path / MANIFEST if os.path.isdir(path) else path
    if manifest.suffix.lower() in SUFFIXES and manifest.exists():
        rows = list(read_rows(manifest))
        if len(rows) == len(samples):
            samples = [
                _made(manifest.parent, each, place, row) for each, (place, row) in zip(samples, rows, strict=True)
            ]
        if all(each.synthetic for each in samples):
            return SampleSet(path, tuple(samples), _classes_of(rows[0][1]))
    return SampleSet(path, tuple(samples), source.classes)


def choose_samples(
    samples: Sequence[Sample], wanted: str | None, usual: Sequence[str]
) -> tuple[tuple[Sample, ...], str]:
    """Those of one split, and its name: ``wanted``, else the one that is called as ``usual``, else all if there is one.

    Raises:
        InputError: there is no such split, or there are several of other names.
    """
    splits = sorted({each.split for each in samples})
    listed = ", ".join(brief(split or "none") for split in splits)
    chosen = wanted
    if wanted is None:
        called = [split for split in splits if split.lower() in usual]
        chosen = called[0] if called else splits[0] if len(splits) == 1 else None
        if chosen is None:
            raise InputError(f"`split`: there are several ({listed}); say which one")
    elif wanted not in splits:
        raise InputError(f"`split` {brief(wanted)}: there is no such split; known are {listed}")
    assert chosen is not None
    return tuple(each for each in samples if each.split == chosen), chosen


def _classes_of(row: Row) -> ClassMap | None:
    """The classes of a dataset made in silico, whose label maps hold their numbers."""
    names = row.get("class_fractions")
    if not isinstance(names, dict):
        return None
    try:
        classes = ClassMap(tuple(names), tuple(range(len(names))), ignored=(255,))
        return classes if ClassMap.parse(str(classes)) == classes else None
    except InputError:
        return None


def _sample(pair: SourcePair) -> Sample:
    if pair.image is None:
        raise InputError(f"{shown(pair.mask)}: a label map without image; evaluation wants annotated images")
    return Sample(pair.name, pair.image, (("", pair.mask),), pair.split, pair.slide, pair.patient)


def _annotated(by_name: dict[str, tuple[SourcePair, ...]]) -> tuple[Sample, ...]:
    first, *others = by_name.items()
    samples = []
    for place, pair in enumerate(first[1]):
        masks = [(first[0], pair.mask), *((name, pairs[place].mask) for name, pairs in others)]
        samples.append(replace(_sample(pair), masks=tuple(masks)))
    return tuple(samples)


def _made(folder: Path, sample: Sample, place: str, row: Row) -> Sample:
    """``sample`` with what a row of a made dataset says beyond other manifests."""
    if row.get("synthetic") is not True:
        return sample
    number, origin, trusted = row.get("round"), row.get("origin"), row.get("trusted_mask_file_name")
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < 10_000:
        raise InputError(f"{place}: round is {brief(repr(number))}; give a whole number from 0")
    origin_sha256, target_sha256 = row.get("origin_sha256"), row.get("target_sha256")
    texts = {"origin_sha256": origin_sha256, "target_sha256": target_sha256}
    for column, value in {"origin": origin, "trusted_mask_file_name": trusted, **texts}.items():
        if not isinstance(value, str | None):
            raise InputError(f"{place}: {column} is {brief(repr(value))}; give text")
    return replace(
        sample,
        synthetic=True,
        round=number,
        origin=origin or "",
        trusted=folder / trusted if trusted else None,
        origin_sha256=origin_sha256 or "",
        target_sha256=target_sha256 or "",
    )
