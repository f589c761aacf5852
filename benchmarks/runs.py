"""Rows of benchmarks/results read back, and put together where they may be compared: within one run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.record import COMPARABLE, Row

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


@dataclass(frozen=True, order=True)
class Place:
    """What a job's cost depends on beside the job: where it ran, in which type, with how large networks.

    ``absolute`` says that times mean something by themselves; elsewhere only ratios within a run do.
    """

    device: str
    absolute: bool
    threads: int
    dtype: str
    parameters: int

    @property
    def title(self) -> str:
        """For readers."""
        where = self.device if self.absolute else f"CPU, {self.threads} thread{'s' * (self.threads != 1)}"
        return f"{where}, {self.dtype}, {self.parameters / 1e6:.0f} million parameters"


@dataclass(frozen=True)
class Measured:
    """One row, and the run that it belongs to: all rows of a run have its date."""

    row: Row
    place: Place
    date: str

    @property
    def seconds(self) -> float:
        """On a shared CPU processor time, which other work disturbs less."""
        if self.place.absolute or self.row.processor_p50 is None:
            return self.row.p50
        return self.row.processor_p50

    def shape(self, without: Collection[str] = ()) -> Shape:
        """As a key, ``without`` some of its entries."""
        return tuple((name, value) for name, value in self.row.shape.items() if name not in without)


class Comparison(NamedTuple):
    """Ours beside theirs in one run."""

    ours: Measured
    theirs: Measured


def read(folder: Path) -> list[Measured]:
    """All rows of networks and jobs in the ``folder``'s files, those of single kernels left out.

    Raises ValueError, naming file and line, for one that is not a row.
    """
    found = []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                if entry.get("weight_bytes") is not None:
                    found.append(_measured(entry))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{file}, line {number}: not a row of a benchmark ({error})") from error
    return found


def compared(measured: Iterable[Measured], whats: Sequence[str]) -> dict[Place, list[Comparison]]:
    """Every side that is not ours beside each of ours, from the latest run that has both; in the order of ``whats``."""
    runs: dict[tuple[str, Place, int, Shape], list[Measured]] = defaultdict(list)
    for each in measured:
        if each.row.what in whats:
            runs[each.date, each.place, whats.index(each.row.what), each.shape()].append(each)
    latest: dict[tuple[Place, int, Shape, str, str], Comparison] = {}
    for (_, place, number, shape), members in sorted(runs.items(), key=lambda item: item[0]):
        for ours, theirs in product(members, members):
            if ours.row.impl.startswith("ours") and not theirs.row.impl.startswith("ours"):
                latest[place, number, shape, ours.row.impl, theirs.row.impl] = Comparison(ours, theirs)
    found = defaultdict(list)
    for (place, *_), comparison in sorted(latest.items(), key=lambda item: item[0]):
        found[place].append(comparison)
    return dict(found)


def last_runs(
    measured: Iterable[Measured], what: str, varying: Collection[str] = ()
) -> dict[Place, list[list[Measured]]]:
    """The latest run of ``what`` at each shape, its rows in the order in which they were written.

    The entries of the shape that are ``varying`` differ within a run; without any, the sides do.
    """
    runs: dict[tuple[Place, Shape, str, str], list[Measured]] = defaultdict(list)
    for each in measured:
        if each.row.what == what:
            runs[each.place, each.shape(varying), each.row.impl if varying else "", each.date].append(each)
    latest = {key[:-1]: run for key, run in sorted(runs.items(), key=lambda item: item[0])}
    found = defaultdict(list)
    for (place, *_), run in latest.items():
        found[place].append(run)
    return dict(found)


def _measured(entry: dict[str, Any]) -> Measured:
    if "further" in entry:  # its name in older rows
        entry["marginal"] = entry["further"]
    row = Row(**{field.name: entry[field.name] for field in fields(Row) if field.name in entry})
    itemsize = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[row.dtype]
    assert row.weight_bytes is not None
    threads = 0 if entry["threads"] is None else entry["threads"]
    parameters = row.weight_bytes // itemsize
    place = Place(entry["device"], entry["times_compare"] == COMPARABLE, threads, row.dtype, parameters)
    return Measured(row, place, entry["date"])
