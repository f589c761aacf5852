"""Readers' answers beside the truth, as arrays.

Notation: R readers, N trials without the repeats. Signs are 1 for in-silico, or the right one of two, else -1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.review.answers import Answer, Answers
from evaluation.review.key import Key, Trial

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """``signs`` and ``ratings`` (sign times confidence) [R, N], 0 where there is no answer; ``truth`` [N]."""

    key: Key
    answers: Sequence[Answers]
    trials: tuple[Trial, ...]
    truth: Array
    signs: Array
    ratings: Array

    @classmethod
    def of(cls, key: Key, answers: Sequence[Answers]) -> Table:
        """Of a study and its readers."""
        trials = tuple(trial for trial in key.trials if not trial.repeat_of)
        truth = np.array([key.truth(each) for each in trials], dtype=np.float64)
        signs, ratings = np.zeros((2, len(answers), len(trials)))
        for r, reader in enumerate(answers):
            for n, trial in enumerate(trials):
                given = reader.by_trial.get(trial.id)
                if given is not None:
                    signs[r, n], ratings[r, n] = given.sign, given.sign * given.confidence
        return cls(key, answers, trials, truth, signs, ratings)

    @property
    def right(self) -> Array:
        """Whether each answer is right [R, N], NaN where there is none."""
        return np.where(self.signs == 0, np.nan, self.signs == self.truth)

    def given(self, trial: int) -> list[tuple[str, Answer]]:
        """All readers' answers to a trial, with their names."""
        found = [(each.reader, each.by_trial.get(self.trials[trial].id)) for each in self.answers]
        return [(reader, answer) for reader, answer in found if answer is not None]
