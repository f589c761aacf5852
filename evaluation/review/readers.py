"""Whether readers can tell, each and all together, and whether they agree with themselves and each other.

Notation: as in `evaluation.review.table`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.review.key import PAIRS, SINGLE
from evaluation.review.statistics import (
    ALPHA,
    NOTHING,
    Estimate,
    area,
    binomial_tails,
    bootstrapped,
    centred_ranks,
    cohen_kappa,
    crossed,
    dealt_tails,
    fisher_tails,
    fleiss_kappa,
    proportion,
)
from evaluation.review.table import Array, Table

ABOVE, BELOW, CHANCE = "above chance", "below chance", "not told from chance"


@dataclass(frozen=True)
class Told:
    """How well kinds are told apart.

    ``caught`` of the in-silico images and ``false_alarms`` of the real ones are called in-silico (of pairs there are no
    false alarms). ``above`` and ``below`` are the chances of so many right answers or more, and of so many or fewer,
    from a reader who cannot tell; ``by_chance`` is the accuracy expected then. ``area`` is that under the ROC curve of
    signs times confidence, ``area_above`` the chance of one as large.
    """

    accuracy: Estimate
    by_chance: float
    above: float
    below: float
    verdict: str
    area: Estimate
    area_above: float
    caught: Estimate
    false_alarms: Estimate


@dataclass(frozen=True)
class Agreement:
    """``share`` of ``count`` answers that are the same, and kappa."""

    count: int
    share: Estimate
    kappa: Estimate


@dataclass(frozen=True)
class ReaderScore:
    """One reader: ``answered`` of ``asked`` trials, the repeats left out, which are in ``with_self``."""

    reader: str
    answered: int
    asked: int
    told: Told
    with_self: Agreement
    seconds: float
    revised: int


def score_reader(table: Table, r: int) -> ReaderScore:
    """The score of the reader of index ``r``."""
    by_trial = table.answers[r].by_trial
    given = [by_trial[trial.id] for trial in table.trials if trial.id in by_trial]
    twice = []
    for trial in table.key.trials:
        first, again = by_trial.get(trial.repeat_of), by_trial.get(trial.id)
        if trial.repeat_of and first is not None and again is not None:
            # Pairs change sides when they come again.
            twice.append((first.sign, again.sign if table.key.mode == SINGLE else -again.sign))
    return ReaderScore(
        table.answers[r].reader,
        len(given),
        len(table.trials),
        _told(table, r),
        agreement(np.array(twice, dtype=np.float64).reshape(-1, 2).T, table.key.seed),
        float(np.median([answer.seconds for answer in given])) if given else 0.0,
        sum(answer.revisions > 0 for answer in by_trial.values()),
    )


def _told(table: Table, r: int) -> Told:
    seen = table.signs[r] != 0
    truth, signs, ratings = table.truth[seen], table.signs[r, seen], table.ratings[r, seen]
    count, right = truth.size, int((truth == signs).sum())
    coins = table.key.mode == PAIRS
    if coins:
        above, below = binomial_tails(right, count)
        caught, false_alarms, by_chance = proportion(right, count), NOTHING, 0.5
    else:
        positives, called = int((truth > 0).sum()), int((signs > 0).sum())
        hits = int(((truth > 0) & (signs > 0)).sum())
        above, below = fisher_tails(hits, positives, called, count)
        caught = proportion(hits, positives)
        false_alarms = proportion(called - hits, count - positives)
        by_chance = (positives * called + (count - positives) * (count - called)) / max(1, count) ** 2
    return Told(
        proportion(right, count),
        by_chance,
        above,
        below,
        _verdict(above, below),
        area(ratings, truth > 0),
        dealt_tails(centred_ranks(ratings), truth, coins=coins, seed=table.key.seed)[0],
        caught,
        false_alarms,
    )


def _verdict(above: float, below: float) -> str:
    return ABOVE if above <= ALPHA else BELOW if below <= ALPHA else CHANCE


def score_together(table: Table) -> Told:
    """The mean reader, with intervals for other readers and other images like these."""
    single = table.key.mode == SINGLE
    everything = np.arange(table.truth.size)
    strata = [everything[table.truth > 0], everything[table.truth < 0]] if single else [everything]
    right, positive = table.right, table.truth > 0

    def accuracy(readers: NDArray[np.int64], images: NDArray[np.int64]) -> float | None:
        return _mean_of_means(right[np.ix_(readers, images)])

    def roc(readers: NDArray[np.int64], images: NDArray[np.int64]) -> float | None:
        areas = []
        for r in readers:
            mine = images[table.signs[r, images] != 0]
            ours, others = table.ratings[r, mine[positive[mine]]], table.ratings[r, mine[~positive[mine]]]
            if ours.size and others.size:
                order = np.sort(others)
                below, upto = np.searchsorted(order, ours, "left"), np.searchsorted(order, ours, "right")
                areas.append(float((below + upto).mean()) / (2 * others.size))
        return float(np.mean(areas)) if areas else None

    count = len(table.answers)
    answered = np.maximum(1, (table.signs != 0).sum(axis=1, keepdims=True))
    weights = (table.signs / answered).mean(axis=0)
    ranks = np.zeros_like(table.signs)
    for r in range(count):
        seen = table.signs[r] != 0
        ranks[r, seen] = centred_ranks(table.ratings[r, seen])
    seed = table.key.seed
    above, below = dealt_tails(weights, table.truth, coins=not single, seed=seed)
    shares = np.nansum(right, axis=0), np.maximum(1, (table.signs != 0).sum(axis=0))
    by_image = shares[0] / shares[1]
    seen_by = (table.signs != 0).any(axis=0)
    estimate = crossed(accuracy, count, strata, seed)
    if estimate.low is None:
        estimate = proportion(float(by_image[seen_by].sum()), int(seen_by.sum()))
    caught = seen_by & positive if single else seen_by
    alarms = seen_by & ~positive
    return Told(
        estimate,
        0.5 + 0.5 * float(weights.sum() * table.truth.mean()) if single else 0.5,
        above,
        below,
        _verdict(above, below),
        crossed(roc, count, strata, seed),
        dealt_tails(ranks.sum(axis=0), table.truth, coins=not single, seed=seed)[0],
        proportion(float(by_image[caught].sum()), int(caught.sum())),
        proportion(float((1 - by_image)[alarms].sum()), int(alarms.sum())) if single else NOTHING,
    )


def _mean_of_means(right: Array) -> float | None:
    counts = (~np.isnan(right)).sum(axis=1)
    there = counts > 0
    return float((np.nansum(right, axis=1)[there] / counts[there]).mean()) if there.any() else None


def agreement(signs: Array, seed: int) -> Agreement:
    """Of two or more lists of answers [R, N], on what all have answered: Cohen's kappa of two, Fleiss' of more."""
    common = signs[:, (signs != 0).all(axis=0)].astype(np.int64)
    count = common.shape[1]

    def kappa(places: NDArray[np.int64]) -> float | None:
        return cohen_kappa(*common[:, places]) if len(common) == 2 else fleiss_kappa(common[:, places])

    same = int((common == common[:1]).all(axis=0).sum())
    return Agreement(count, proportion(same, count), bootstrapped(kappa(np.arange(count)), kappa, count, seed))
