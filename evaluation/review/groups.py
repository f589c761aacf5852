"""Where the in-silico images come from that readers find out, what is in them, and which they are.

Notation: as in `evaluation.review.table`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.review.answers import FINDINGS, Answer
from evaluation.review.key import SINGLE, Key, Trial
from evaluation.review.statistics import Estimate, proportion
from evaluation.review.table import Array, Table


@dataclass(frozen=True)
class GroupScore:
    """Trials of one arm, or of the class that most of their pixels are of; of pairs that is the in-silico image's.

    ``caught`` of its in-silico images and ``false_alarms`` of its real ones are called in-silico, over all readers;
    ``accuracy_by_reader`` is in the readers' order; ``findings`` are shares of the answers. Intervals of all readers
    count images, not answers, as if readers always agreed: rather too wide than too narrow.
    """

    name: str
    images: int
    accuracy: Estimate
    caught: Estimate
    false_alarms: Estimate
    accuracy_by_reader: tuple[Estimate, ...]
    findings: dict[str, float]


@dataclass(frozen=True)
class ImageScore:
    """One image: ``called`` in-silico by so many of ``readers``; ``sureness`` is their mean sign times confidence."""

    arm: str
    name: str
    synthetic: bool
    readers: int
    called: int
    sureness: float
    findings: dict[str, int]
    comments: tuple[str, ...]


def score_arms(table: Table) -> tuple[GroupScore, ...]:
    """By the set that images come from; of pairs by the in-silico ones' alone."""
    arms = [table.key.images[_asked(table.key, trial)].arm for trial in table.trials]
    return _groups(table, arms, [each.name for each in table.key.arms])


def score_classes(table: Table) -> tuple[GroupScore, ...]:
    """By the class that has the most pixels."""
    classes = [int(np.argmax(table.key.images[_asked(table.key, trial)].shares)) for trial in table.trials]
    return _groups(table, classes, table.key.classes)


def _asked(key: Key, trial: Trial) -> int:
    """The image that a trial counts for: the one shown, or of two the in-silico one."""
    found = key.synthetic(trial)
    return trial.images[0] if found is None else found


def _groups(table: Table, members: Sequence[int], names: Sequence[str]) -> tuple[GroupScore, ...]:
    """A group for each of ``names`` that is there; ``members`` [N] are indices of them."""
    return tuple(
        _group(table, name, np.array(members) == index) for index, name in enumerate(names) if index in members
    )


def _group(table: Table, name: str, inside: NDArray[np.bool_]) -> GroupScore:
    right = table.right
    synthetic = np.array([table.key.synthetic(trial) is not None for trial in table.trials])
    given = [answer for n in np.flatnonzero(inside) for _, answer in table.given(int(n))]
    return GroupScore(
        name,
        int(inside.sum()),
        over_images(right[:, inside]),
        over_images(right[:, inside & synthetic]),
        over_images(1 - right[:, inside & ~synthetic]),
        tuple(over_images(each[None, inside]) for each in right),
        {each: sum(each in answer.findings for answer in given) / max(1, len(given)) for each in FINDINGS},
    )


def over_images(shares: Array) -> Estimate:
    """The mean over images of the mean over readers, of ``shares`` [R, N] with NaN where there is no answer."""
    counts = (~np.isnan(shares)).sum(axis=0)
    seen = counts > 0
    return proportion(float((np.nansum(shares, axis=0)[seen] / counts[seen]).sum()), int(seen.sum()))


def score_images(table: Table) -> tuple[ImageScore, ...]:
    """Every image; those that gave themselves away most come first."""
    found = []
    for n, trial in enumerate(table.trials):
        for side, index in enumerate(trial.images):
            # The sign that says that this one is in-silico.
            sign = 1 if side == len(trial.images) - 1 else -1
            found.append(_image(table, index, sign, table.given(n)))
    return tuple(sorted(found, key=lambda each: (-each.called / max(1, each.readers), -each.sureness, each.name)))


def _image(table: Table, index: int, sign: int, given: Sequence[tuple[str, Answer]]) -> ImageScore:
    image = table.key.images[index]
    arm = table.key.arms[image.arm]
    # Of pairs, what is seen is seen in the one that is called in-silico.
    about = [(reader, each) for reader, each in given if table.key.mode == SINGLE or each.sign == sign]
    return ImageScore(
        arm.name,
        image.name,
        arm.synthetic,
        len(given),
        sum(answer.sign == sign for _, answer in given),
        float(np.mean([sign * answer.sign * answer.confidence for _, answer in given])) if given else 0.0,
        {each: sum(each in answer.findings for _, answer in about) for each in FINDINGS},
        tuple(f"{reader}: {each.comment}" for reader, each in about if each.comment.strip()),
    )
