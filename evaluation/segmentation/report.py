"""The table of an evaluation: every number with what it is of, and what its deviation and interval are over."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import PurePath
from typing import Any

import numpy as np

from evaluation.segmentation.intervals import Interval, deviation, interval
from evaluation.segmentation.metrics import FieldScore
from evaluation.segmentation.record import Record

ALL = "all"
DIGITS = 6


@dataclass(frozen=True)
class Judged:
    """A model under the ``name`` it has in the table, and its scores."""

    name: str
    record: Record
    scores: tuple[FieldScore, ...]


@dataclass(frozen=True)
class Row:
    """One line. ``of`` says what is compared with the annotators: a ``model``, ``models`` together, an ``annotator``.

    ``annotator`` is ``all`` where the field's mean over them is taken. Deviations are over what ``sd_over`` says;
    intervals are of 95 %, over groups (patients, slides). What is not there is None.
    """

    of: str
    model: str
    encoder: str
    seed: str
    real: str
    synthetic: str
    validation: str
    steps: str
    split: str
    annotator: str
    class_name: str
    fields: int
    groups: int
    dice: float | None
    dice_sd: float | None
    dice_low: float | None
    dice_high: float | None
    iou: float | None
    iou_sd: float | None
    iou_low: float | None
    iou_high: float | None
    sd_over: str


@dataclass(frozen=True)
class Table:
    """Makes rows of scores on the fields of ``split``, with intervals of ``rounds`` resamplings by ``seed``."""

    split: str
    rounds: int
    seed: int

    def rows(self, judged: Sequence[Judged], mutual: Sequence[FieldScore]) -> list[Row]:
        """Each model against each annotator and all of them; the models together; the annotators with each other."""
        result: list[Row] = []
        for each in judged:
            result += self._against(("model", each.name, [each.record]), [each.scores])
        if len(judged) > 1:
            whole = ("models", ALL, [each.record for each in judged])
            result += self._against(whole, [each.scores for each in judged])
        pairs: dict[tuple[str, str], list[FieldScore]] = defaultdict(list)
        for score in mutual:
            pairs[score.annotator, score.against].append(score)
        for (one, other), scores in pairs.items():
            for name, some in _by_class(scores).items():
                result.append(self._row(("annotator", other, []), one, name, [[some]], "fields"))
        if len(pairs) > 1:
            for name in _by_class(mutual):
                every = [[each for each in scores if each.class_name == name] for scores in pairs.values()]
                result.append(self._row(("annotator", ALL, []), ALL, name, [every], "pairs of annotators"))
        return result

    def _against(self, what: tuple[str, str, list[Record]], runs: Sequence[Sequence[FieldScore]]) -> list[Row]:
        """Rows of one model, or of several together."""
        result = []
        annotators = list(dict.fromkeys(score.annotator for score in runs[0]))
        chosen = [[each] for each in annotators] + ([annotators] if len(annotators) > 1 else [])
        for some in chosen:
            name = some[0] if len(some) == 1 else ALL
            over = "models" if len(runs) > 1 else "annotators" if len(some) > 1 else "fields"
            for class_name in _by_class(runs[0]):
                parts = [
                    [
                        [each for each in run if each.class_name == class_name and each.annotator == annotator]
                        for annotator in some
                    ]
                    for run in runs
                ]
                result.append(self._row(what, name, class_name, parts, over))
        return result

    def _row(
        self,
        what: tuple[str, str, list[Record]],
        annotator: str,
        class_name: str,
        parts: Sequence[Sequence[Sequence[FieldScore]]],
        over: str,
    ) -> Row:
        """``parts`` are scores by model and annotator."""
        of, name, records = what
        measured: dict[str, Any] = {"fields": 0, "groups": 0}
        for measure in ("dice", "iou"):
            found = self._interval(parts, measure, over)
            measured |= {measure: None, **{f"{measure}_{each}": None for each in ("sd", "low", "high")}}
            if found is not None:
                measured |= {"fields": found.count, "groups": found.groups, measure: found.mean}
                measured |= {f"{measure}_{each}": getattr(found, each) for each in ("sd", "low", "high")}
        said: dict[str, Any] = {
            column: "; ".join(dict.fromkeys(str(getattr(record, column)) for record in records))
            for column in ("encoder", "seed", "real", "synthetic", "validation", "steps")
        }
        return Row(
            of=of, model=name, split=self.split, annotator=annotator, class_name=class_name, sd_over=over,
            **said, **measured,
        )  # fmt: skip

    def _interval(self, parts: Sequence[Sequence[Sequence[FieldScore]]], measure: str, over: str) -> Interval | None:
        """Of each field's mean over models and annotators; the deviation is over the outermost of these there are."""
        by_field: dict[str, list[float]] = defaultdict(list)
        groups: dict[str, str] = {}
        means: list[float] = []
        single = len(parts) == 1
        for run in parts[0] if single else [[score for part in run for score in part] for run in parts]:
            values = []
            for score in run:
                value: float | None = getattr(score, measure)
                if value is not None:
                    values.append(value)
                    by_field[score.sample].append(value)
                    groups[score.sample] = score.group
            if values:
                means.append(float(np.mean(values)))
        names = list(by_field)
        found = interval(
            [float(np.mean(by_field[each])) for each in names], [groups[each] for each in names], self.rounds, self.seed
        )
        if found is None or over == "fields":
            return found
        return Interval(float(np.mean(means)), deviation(means), found.low, found.high, found.count, found.groups)


def _by_class(scores: Iterable[FieldScore]) -> dict[str, list[FieldScore]]:
    found: dict[str, list[FieldScore]] = defaultdict(list)
    for score in scores:
        found[score.class_name].append(score)
    return found


def rows_csv(rows: Sequence[Row]) -> str:
    """The table as CSV; what is None is empty."""
    return _csv([each.name for each in fields(Row)], (asdict(row).values() for row in rows))


def fields_csv(judged: Sequence[Judged], mutual: Sequence[FieldScore]) -> str:
    """Every field's scores as CSV, of models and of annotators against each other."""
    scores = [(each.name, score) for each in judged for score in each.scores]
    scores += [("", score) for score in mutual]
    lines = ([model, *asdict(score).values()] for model, score in scores)
    return _csv(["model", *(each.name for each in fields(FieldScore))], lines)


def _csv(head: Sequence[str], lines: Iterable[Iterable[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


def as_text(rows: Sequence[Row]) -> list[str]:
    """Rows as lines for a terminal, those of Dice."""
    lines = []
    for row in rows:
        name = {"model": f"model {row.model}", "models": "all models"}.get(row.of, f"annotator {row.model}")
        against = f" against {row.annotator}" if row.annotator else ""
        if row.dice is None:
            lines.append(f"{name}{against}, {row.class_name}: in no field")
            continue
        sd = "" if row.dice_sd is None else f" ± {100 * row.dice_sd:.2f} over {row.sd_over}"
        bounds = (
            "" if row.dice_low is None or row.dice_high is None
            else f", 95 % from {100 * row.dice_low:.2f} to {100 * row.dice_high:.2f}"
        )  # fmt: skip
        lines.append(f"{name}{against}, {row.class_name}: Dice {100 * row.dice:.2f}{sd}{bounds}")
    return lines


def model_names(paths: Sequence[PurePath]) -> list[str]:
    """A short name for each model, its folder's; numbered where folders are called alike."""
    names: list[str] = []
    for path in paths:
        short = path.parent.name if path.name.endswith(".safetensors") else path.name
        short = short or "model"
        count = sum(each == short or each.startswith(f"{short}-") for each in names)
        names.append(short if not count else f"{short}-{count + 1}")
    return names


def _cell(value: object) -> object:
    return "" if value is None else round(value, DIGITS) if isinstance(value, float) else value
