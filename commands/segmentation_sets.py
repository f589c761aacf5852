"""From folders to what a segmentation model is trained, chosen and judged on, with no leak between these."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from commands.evaluation_requests import TrainRequest
from commands.samples import SampleSet, choose_samples, read_samples
from evaluation.samples import Sample
from evaluation.segmentation.leakage import independent, known, leaks
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError, brief
from imaging.labels import decide_classes
from imaging.maskfile import read_mask
from imaging.rawfile import shown

TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validation")
TEST = ("test", "testing")
SHARE = 0.2


@dataclass(frozen=True)
class Sets:
    """What a model is trained on and chosen by, the classes, and what the user should know."""

    real: tuple[Sample, ...]
    synthetic: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    classes: ClassMap
    notes: tuple[str, ...]


def training_sets(request: TrainRequest, source: Path) -> Sets:
    """Everything that ``request`` trains on.

    Raises:
        InputError: a folder cannot be used, splits are unclear, or the labels need `classes` to be said.
        ProblemsError: something held out is known in training, or a file cannot be read: all of these.
    """
    found = read_samples(source)
    if any(each.synthetic for each in found.samples):
        raise InputError(f"{shown(source)}: holds in-silico images; give them with `synthetic`, and real ones as INPUT")
    real, split = choose_samples(found.samples, request.split, TRAINING)
    made = [read_samples(path) for path in request.synthetic]
    classes, notes = decide(found, request.classes)
    notes = [*notes, *_annotators(real)]
    classes, more = _as_made(classes, made, request)
    notes += more
    synthetic = _synthetic(made)
    share, name = _validation(request.validation, [each.split for each in found.samples if each.split != split])
    if share is None:
        validation: tuple[Sample, ...] = tuple(each for each in found.samples if each.split == name)
        if name == split:
            raise InputError(
                f"`validation` {brief(name)}: is the split to train on; give another, or a share of slides"
            )
    else:
        real, validation = split_by_slides(real, share, request.seed)
        notes.append(_chosen(validation, real))
        digests = [known(each) for each in validation]
        kept = independent((known(each) for each in synthetic), digests)
        if not all(kept):
            notes.append(
                f"{kept.count(False)} of {len(kept)} in-silico images are left out: made from what is validated on"
            )
        synthetic = tuple(each for each, keep in zip(synthetic, kept, strict=True) if keep)
    used = {each.name for each in (*real, *validation)}
    others = [known(each) for each in found.samples if each.name not in used]
    learnt = [known(each) for each in (*real, *synthetic, *validation)]
    problems = leaks(learnt, others, "other splits", targets=True)
    if problems:
        raise ProblemsError(shown(source), problems)
    return Sets(real, synthetic, validation, classes, tuple(notes))


def decide(found: SampleSet, text: str | None) -> tuple[ClassMap, list[str]]:
    """The classes of a set, as the user says in ``text``, as it says itself, or as its label maps show; and notes.

    Raises:
        InputError: the labels need `classes` to be said.
        ProblemsError: label maps cannot be read: all of these.
    """
    if text is not None:
        return ClassMap.parse(text), []
    if found.classes is not None:
        return found.classes, []
    problems, summaries = [], []
    for path in (path for each in found.samples for _, path in each.masks):
        try:
            summaries.append(read_mask(path).summary())
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise ProblemsError(shown(found.path), problems)
    classes, notes = decide_classes(summaries, None)
    return classes, list(notes)


def split_by_slides(
    samples: Sequence[Sample], share: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    """The ``samples``, and of them apart those of about the ``share`` of patients (or slides) that ``seed`` draws.

    Raises:
        InputError: there is one patient or slide alone.
    """
    groups = sorted({each.group for each in samples})
    if len(groups) < 2:
        raise InputError(
            f"`validation`: all images are of one slide, {brief(groups[0])}; give a split of its own, or more slides"
        )
    count = min(max(1, round(share * len(groups))), len(groups) - 1)
    drawn = {groups[place] for place in np.random.default_rng((seed, 4)).permutation(len(groups))[:count]}
    return (
        tuple(each for each in samples if each.group not in drawn),
        tuple(each for each in samples if each.group in drawn),
    )


def check_apart(output: Path, inputs: Sequence[Path]) -> None:
    """Raise InputError if results would lie among inputs, or these among them."""
    for given in inputs:
        one, other = os.path.realpath(output), os.path.realpath(given)
        if one == other or one.startswith(other + os.sep) or other.startswith(one + os.sep):
            raise InputError(
                f"{shown(output)}: results must not lie among the inputs, nor these among them; choose another"
            )


def _validation(text: str | None, splits: Sequence[str]) -> tuple[float | None, str]:
    """A share of the slides, or the name of a split."""
    if text is None:
        named = next((each for each in splits if each.lower() in VALIDATION), "")
        return (None, named) if named else (SHARE, "")
    if text in splits:
        return None, text
    if re.fullmatch(r"[0-9]*\.?[0-9]+", text) and 0 < float(text) < 1:
        return float(text), ""
    known_splits = ", ".join(brief(each or "none") for each in sorted(set(splits))) or "none but the one to train on"
    raise InputError(f"`validation` {brief(text)}: give a share between 0 and 1, or a split; there are {known_splits}")


def _chosen(validation: Sequence[Sample], real: Sequence[Sample]) -> str:
    groups, others = ({each.group for each in some} for some in (validation, real))
    text = f"validation: {len(validation)} images of {len(groups)} of {len(groups) + len(others)} slides or patients"
    if any(not each.patient and not each.slide for each in (*validation, *real)):
        text += (
            "; where no slide is named each image counts as a slide of its own, so that patches of one may be in both"
        )
    return text


def _annotators(samples: Sequence[Sample]) -> list[str]:
    names = {each.masks[0][0] for each in samples if len(each.masks) > 1}
    return [f"several annotators: the label maps of {brief(name)} are learnt from" for name in sorted(names)]


def _synthetic(made: Sequence[SampleSet]) -> tuple[Sample, ...]:
    """All in-silico images, of all folders, under names of their own."""
    several = len(made) > 1
    result = []
    for number, found in enumerate(made, start=1):
        for each in found.samples:
            if not each.synthetic:
                raise InputError(f"{shown(found.path)}: {brief(each.name)} is not made by `dataset`; give it as INPUT")
            result.append(replace(each, name=f"{number}/{each.name}") if several else each)
    return tuple(result)


def _as_made(classes: ClassMap, made: Sequence[SampleSet], request: TrainRequest) -> tuple[ClassMap, list[str]]:
    """The classes, with the names that in-silico sets have for them if they have none; these must be the same."""
    for found in made:
        names = None if found.classes is None else found.classes.names
        if names is None or names == classes.names:
            continue
        unnamed = [f"class {place}" for place in range(len(classes))]
        if list(classes.names) == unnamed and len(names) == len(classes) and request.classes is None:
            note = f"classes are called as in {shown(found.path)}: {', '.join(map(brief, names))}"
            classes = replace(classes, names=names)
            return _as_made(classes, made, request)[0], [note]
        if list(names) == unnamed:
            continue
        raise InputError(
            f"{shown(found.path)}: has the classes {brief(', '.join(names), 100)}, and the real label maps "
            f"have {brief(', '.join(classes.names), 100)}; name them alike, in one order, with `classes`"
        )
    return classes, []
