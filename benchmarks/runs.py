"""Rows of benchmarks/results read back, and put together where they may be compared: within one run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.record import COMPARABLE, Row

Shape = tuple[tuple[str, int], ...]


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

    @property
    def total_bytes(self) -> int | None:
        """Memory held at most, the networks included."""
        if self.row.peak_bytes is None or self.row.weight_bytes is None:
            return None
        return self.row.peak_bytes + self.row.weight_bytes

    def shape(self, without: Collection[str] = ()) -> Shape:
        """As a key, ``without`` some of its entries."""
        return tuple((name, value) for name, value in self.row.shape.items() if name not in without)


@dataclass(frozen=True)
class Comparison:
    """Ours beside theirs in one run."""

    ours: Measured
    theirs: Measured

    @property
    def time(self) -> float:
        """Theirs divided by ours."""
        return self.theirs.seconds / self.ours.seconds

    @property
    def further(self) -> float | None:
        """As `time`, for each image of a job after the first."""
        theirs, ours = self.theirs.row.further, self.ours.row.further
        return None if theirs is None or ours is None else theirs / ours

    @property
    def memory(self) -> float | None:
        """Theirs divided by ours."""
        theirs, ours = self.theirs.total_bytes, self.ours.total_bytes
        return None if theirs is None or ours is None else theirs / ours


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
    runs: dict[tuple[Place, str, Shape, str], list[Measured]] = defaultdict(list)
    for each in measured:
        if each.row.what in whats:
            runs[each.place, each.row.what, each.shape(), each.date].append(each)
    latest: dict[tuple[Place, int, Shape, str, str], Comparison] = {}
    for (place, what, shape, _), members in sorted(runs.items(), key=lambda item: item[0][-1]):
        for ours in members:
            for theirs in members:
                if _is_ours(ours) and not _is_ours(theirs):
                    key = (place, whats.index(what), shape, ours.row.impl, theirs.row.impl)
                    latest[key] = Comparison(ours, theirs)
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
    runs: dict[tuple[Place, Shape, str], dict[str, list[Measured]]] = defaultdict(lambda: defaultdict(list))
    for each in measured:
        if each.row.what == what:
            side = each.row.impl if varying else ""
            runs[each.place, each.shape(without=varying), side][each.date].append(each)
    found = defaultdict(list)
    for (place, _, _), by_date in sorted(runs.items(), key=lambda item: item[0]):
        found[place].append(by_date[max(by_date)])
    return dict(found)


def _is_ours(measured: Measured) -> bool:
    return measured.row.impl.startswith("ours")


def _measured(entry: dict[str, Any]) -> Measured:
    row = Row(**{field.name: entry[field.name] for field in fields(Row) if field.name in entry})
    itemsize = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}[row.dtype]
    assert row.weight_bytes is not None
    threads = 0 if entry["threads"] is None else entry["threads"]
    place = Place(
        entry["device"], entry["times_compare"] == COMPARABLE, threads, row.dtype, row.weight_bytes // itemsize
    )
    return Measured(row, place, entry["date"])
