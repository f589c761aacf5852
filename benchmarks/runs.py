"""Rows of benchmarks/results read back, and put together where they may be compared: within one run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import Place, Row

Shape = tuple[tuple[str, int], ...]


class Axis(NamedTuple):
    """One way in which jobs grow: what its rows are called, the entries of a row's shape that grow, and their unit."""

    what: str
    entries: tuple[str, ...]
    unit: str


AXES = {
    "size": Axis("scaling by size", ("height", "width"), "pixels a side"),
    "classes": Axis("scaling by classes", ("classes",), "classes"),
    "targets": Axis("scaling by targets", ("targets",), "targets of one origin"),
}


def read(folder: Path) -> list[Row]:
    """All rows of networks and jobs in the ``folder``'s files, those of single kernels left out.

    Raises ValueError, naming file and line, for one that is not a row.
    """
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                row = _row(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{file}, line {number}: not a row of a benchmark ({error})") from error
            if row is not None:
                found.append(row)
    return found


def compared(rows: Iterable[Row], whats: Sequence[str]) -> dict[Place, list[tuple[Row, Row]]]:
    """Ours and theirs: every side that is not ours beside each of ours, from the latest run that has both.

    In the order of ``whats``.
    """
    runs: dict[tuple[str, Place, int, Shape], list[Row]] = defaultdict(list)
    for row in rows:
        if row.what in whats:
            runs[row.date, row.place, whats.index(row.what), shape_key(row)].append(row)
    latest: dict[tuple[Place, int, Shape, str, str], tuple[Row, Row]] = {}
    for (_, place, number, shape), members in sorted(runs.items(), key=lambda item: item[0]):
        for ours, theirs in product(members, members):
            if ours.impl.startswith("ours") and not theirs.impl.startswith("ours"):
                latest[place, number, shape, ours.impl, theirs.impl] = ours, theirs
    found = defaultdict(list)
    for (place, *_), pair in sorted(latest.items(), key=lambda item: item[0]):
        found[place].append(pair)
    return dict(found)


def last_runs(rows: Iterable[Row], what: str, varying: Collection[str] = ()) -> dict[Place, list[list[Row]]]:
    """The latest run of ``what`` at each shape, its rows in the order in which they were written.

    The entries of the shape that are ``varying`` differ within a run; without any, the sides do.
    """
    runs: dict[tuple[Place, Shape, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.what == what:
            runs[row.place, shape_key(row, varying), row.impl if varying else "", row.date].append(row)
    latest = {key[:-1]: run for key, run in sorted(runs.items(), key=lambda item: item[0])}
    found = defaultdict(list)
    for (place, *_), run in latest.items():
        found[place].append(run)
    return dict(found)


def shape_key(row: Row, without: Collection[str] = ()) -> Shape:
    """The row's shape ``without`` some of its entries."""
    return tuple((name, value) for name, value in row.shape.items() if name not in without)


def relative(run: Sequence[Row]) -> list[float]:
    """Times of a run, divided by the first."""
    return [row.seconds / run[0].seconds for row in run]


def _row(entry: dict[str, Any]) -> Row | None:
    if entry.get("weight_bytes") is None:
        return None
    if "further" in entry:  # its name in older rows
        entry["marginal"] = entry["further"]
    row = Row(**{field.name: entry[field.name] for field in fields(Row) if field.name in entry})
    if not (row.device and row.date and row.place):
        raise KeyError("device, date")
    return row
