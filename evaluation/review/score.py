"""What readers' answers come to: can they tell, do they agree, which images gave themselves away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from evaluation.review.answers import Answers
from evaluation.review.groups import GroupScore, ImageScore, score_arms, score_classes, score_images
from evaluation.review.key import Key
from evaluation.review.readers import Agreement, ReaderScore, Told, agreement, score_reader, score_together
from evaluation.review.table import Table


@dataclass(frozen=True)
class Score:
    """All of it. ``together`` and ``all_readers`` (Fleiss) are None where there are too few readers for them."""

    study: str
    mode: str
    readers: tuple[ReaderScore, ...]
    together: Told | None
    between: tuple[tuple[str, str, Agreement], ...]
    all_readers: Agreement | None
    arms: tuple[GroupScore, ...]
    classes: tuple[GroupScore, ...]
    images: tuple[ImageScore, ...]


def score(key: Key, answers: Sequence[Answers]) -> Score:
    """The score of one study; chance in it is dealt by the study's seed."""
    table = Table.of(key, answers)
    signs, names = table.signs, [each.reader for each in answers]
    pairs = combinations(range(len(answers)), 2)
    return Score(
        key.study,
        key.mode,
        tuple(score_reader(table, r) for r in range(len(answers))),
        score_together(table) if len(answers) > 1 else None,
        tuple((names[a], names[b], agreement(signs[[a, b]], key.seed)) for a, b in pairs),
        agreement(signs, key.seed) if len(answers) > 2 else None,
        score_arms(table),
        score_classes(table),
        score_images(table),
    )
