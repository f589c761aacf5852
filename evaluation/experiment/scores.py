"""What the trainings came to, as arrays: Dice by choice of subset, seed, field of view and annotator.

Notation: D choices of the subset, S seeds, F fields of view, A annotators, G groups (patients or slides).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.experiment.arms import Arm
from evaluation.experiment.plan import Plan, Run
from imaging.errors import InputError, brief

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One arm on the subsets of one share: ``values`` [D, S, F, A] of all trainings, and how many images they saw."""

    values: Values
    real: float
    synthetic: float
    steps: tuple[int, ...]

    @property
    def total(self) -> float:
        """Images seen in training, a mean over the choices."""
        return self.real + self.synthetic


@dataclass(frozen=True)
class Scores:
    """``groups`` [F] numbers each field's group; ``cells`` are those of which all trainings are over."""

    fields: tuple[str, ...]
    groups: NDArray[np.int64]
    annotators: tuple[str, ...]
    cells: Mapping[tuple[float, Arm], Cell]

    def cell(self, share: float, arm: Arm) -> Cell | None:
        """The cell of an arm on a share, if its trainings are over."""
        return self.cells.get((share, arm))


def gather(plan: Plan, results: Mapping[str, Mapping[str, Any]], label: str | None) -> Scores:
    """All that is over, from the ``score.json`` of each run, by its id. ``label`` is the scored class, None their mean.

    Fields in which a class is in neither the model's nor the annotator's labels in some training are left out for this
    class and annotator in all of them, so that all are judged on the same.

    Raises:
        InputError: a score is damaged, or of other fields than the rest.
    """
    tables: dict[str, dict[tuple[str, str, str], float | None]] = {}
    groups: dict[str, str] = {}
    for name, content in results.items():
        try:
            rows = content["fields"]
            tables[name] = {
                (each["sample"], each["annotator"], each["label"]): _dice(each["dice"])
                for each in rows
                if label is None or each["label"] == label
            }
            groups |= {each["sample"]: each["group"] for each in rows}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"runs/{brief(name)}: its score is damaged ({brief(str(error))}); remove it") from error
    keys = set().union(*tables.values()) if tables else set()
    for name, table in tables.items():
        if set(table) != keys or not all(each is None or 0.0 <= each <= 1.0 for each in table.values()):
            raise InputError(f"runs/{brief(name)}: was judged on other images than the rest; remove it and run again")
    absent = {key for table in tables.values() for key, dice in table.items() if dice is None}
    fields = tuple(sorted({key[0] for key in keys - absent}))
    annotators = tuple(sorted({key[1] for key in keys}))
    labels = sorted({key[2] for key in keys})
    by_group = {group: place for place, group in enumerate(sorted({groups[field] for field in fields}))}
    scores: dict[str, Values] = {}
    for name, table in tables.items():
        stacked = np.full((len(fields), len(annotators), len(labels)), np.nan)
        for f, field in enumerate(fields):
            for a, annotator in enumerate(annotators):
                for c, each in enumerate(labels):
                    key = (field, annotator, each)
                    if key in table and key not in absent:
                        stacked[f, a, c] = table[key]
        scores[name] = mean_of_known(stacked, axis=2)
    cells: dict[tuple[float, Arm], Cell] = {}
    for share, arm in dict.fromkeys((run.share, run.arm) for run in plan.runs):
        grid = _grid(plan, share, arm, scores)
        if grid:
            contents = [results[run.id] for row in grid for run in row]
            cells[share, arm] = Cell(
                np.stack([np.stack([scores[run.id] for run in row]) for row in grid]),
                float(np.mean([each["real"] for each in contents])),
                float(np.mean([each["synthetic"] for each in contents])),
                tuple(sorted({int(each["steps"]) for each in contents})),
            )
    return Scores(fields, np.array([by_group[groups[field]] for field in fields], np.int64), annotators, cells)


def _dice(value: Any) -> float | None:
    return None if value is None else float(value)


def _grid(plan: Plan, share: float, arm: Arm, scores: Mapping[str, Values]) -> list[list[Run]]:
    """The runs of an arm, by choice of the subset and seed; none if one is missing."""
    draws = [each.draw for each in plan.subsets if each.share == share]
    grid = [[Run(share, draw, arm, seed) for seed in range(plan.seeds)] for draw in draws]
    return grid if all(run.id in scores for row in grid for run in row) else []


def mean_of_known(values: Values, axis: int) -> Values:
    """The mean along an axis of what is no NaN; NaN where nothing is."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def by_field(cell: Cell) -> Values:
    """[D, S, F]: the mean over annotators."""
    return mean_of_known(cell.values, axis=3)


def annotator_means(cell: Cell) -> Values:
    """[A]: the mean over everything else."""
    return mean_of_known(cell.values.transpose(3, 0, 1, 2).reshape(cell.values.shape[3], -1), axis=1)


def rows_of(results: Mapping[str, Mapping[str, Any]]) -> Sequence[tuple[Any, ...]]:
    """A line for each training, image, annotator and class, with its seed; the first is the head."""
    head = ("run", "share", "draw", "arm", "seed", "real", "synthetic", "steps", "validation")
    found: list[tuple[Any, ...]] = [(*head, "image", "group", "annotator", "class", "dice")]
    for name in sorted(results):
        content = results[name]
        start = (name, *(content[key] for key in head[1:]))
        for each in content["fields"]:
            dice = "" if each["dice"] is None else f"{each['dice']:.6f}"
            found.append((*start, each["sample"], each["group"], each["annotator"], each["label"], dice))
    return found
