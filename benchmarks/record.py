"""The one schema of all rows: added to files of JSON lines, shown meanwhile, and read back run by run."""

from __future__ import annotations

import json
import platform
import subprocess
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

COMPARABLE = "on this device"
RATIOS_ONLY = "ratios between sides of this run only: a CPU shared with other work"

T = TypeVar("T")


class Axis(NamedTuple):
    """One way in which jobs grow: what its rows are called, the entries of their shape that grow, and their unit."""

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
    """Where and with which networks a row was measured. If not ``absolute``, only ratios within a run mean anything."""

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
class Row:
    """One side of one comparison. Times are the device's, in seconds; rows of one run have the same date."""

    what: str
    impl: str
    shape: dict[str, int]
    dtype: str
    p20: float
    p50: float
    p80: float
    rounds: int
    peak_bytes: int | None  # memory held at most beyond what was held before; None where it is not counted
    max_error: float  # the output's largest difference from ``against``
    against: str  # float64 arithmetic, or another side
    processor_p50: float | None = None  # of all threads; on a shared CPU steadier than the time that went by
    weight_bytes: int | None = None  # of the networks; None for single kernels
    marginal: float | None = None  # the last round's time for each image after the first; on a CPU processor time
    floor: float | None = None  # least time on an H100, by kernels.cost; None where it does not apply
    device: str = ""
    threads: int | None = None  # of a CPU
    times_compare: str = RATIOS_ONLY
    versions: dict[str, str | None] | None = None
    commit: str | None = None
    date: str = ""

    @property
    def place(self) -> Place:
        """Where, in which type and with how large networks."""
        parameters = (self.weight_bytes or 0) // getattr(torch, self.dtype).itemsize
        return Place(self.device, self.times_compare == COMPARABLE, self.threads or 0, self.dtype, parameters)

    @property
    def seconds(self) -> float:
        """On a shared CPU processor time, which other work disturbs less."""
        return self.p50 if self.place.absolute or self.processor_p50 is None else self.processor_p50

    @property
    def total_bytes(self) -> int | None:
        """Memory held at most, the networks included; None without either."""
        if self.peak_bytes is None or self.weight_bytes is None:
            return None
        return self.peak_bytes + self.weight_bytes


def surroundings(device: torch.device) -> dict[str, Any]:
    """The fields of a row that are the same for all of a run."""
    describe = ["git", "describe", "--always", "--dirty"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True, check=False)
    cuda = device.type == "cuda"
    libraries = ("torch", "triton", "diffusers", "transformers")
    return {
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or "CPU",
        "threads": None if cuda else torch.get_num_threads(),
        "times_compare": COMPARABLE if cuda else RATIOS_ONLY,
        "versions": {name: _version(name) for name in libraries} | {"cuda": torch.version.cuda},
        "commit": commit.stdout.strip() if commit.returncode == 0 else None,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def append(file: Path, row: Row, around: dict[str, Any]) -> None:
    """Add ``row``, measured in the surroundings ``around``, as one JSON line to ``file``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(replace(row, **around))) + "\n")


class Recorder:
    """Appends the rows of one run to ``file`` and prints them."""

    def __init__(self, file: Path, device: torch.device) -> None:
        self._file, self._around = file, surroundings(device)

    def add(self, rows: Sequence[Row]) -> None:
        """Rows of one comparison; times are shown beside the first one's."""
        for row in rows:
            append(self._file, row, self._around)
            shape = ", ".join(f"{name} {value}" for name, value in row.shape.items())
            figures = {
                "p50 s": row.p50,
                "p50 / first": row.p50 / rows[0].p50,
                "CPU s": row.processor_p50,
                "p50 / floor": None if row.floor is None else row.p50 / row.floor,
                "extra MB": None if row.peak_bytes is None else row.peak_bytes / 1e6,
                "max error": row.max_error,
                "each further target s": row.marginal,
            }
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
            print(f"{row.what} ({shape}), {row.impl}: {shown}")


def read(folder: Path) -> list[Row]:
    """All rows of networks and jobs in the ``folder``'s files, those of single kernels left out.

    Raises ValueError, naming file and line, for one that is not a row.
    """
    names, found = {field.name for field in fields(Row)}, []
    for file in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                if entry.get("weight_bytes") is None:
                    continue
                if "further" in entry:  # its name in older rows
                    entry["marginal"] = entry["further"]
                row = Row(**{name: value for name, value in entry.items() if name in names})
                if not (row.device and row.date and row.place):
                    raise KeyError("device, date")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{file}, line {number}: not a row of a benchmark ({error})") from error
            found.append(row)
    return found


def compared(rows: Iterable[Row], whats: Sequence[str]) -> dict[Place, list[tuple[Row, Row]]]:
    """Ours and theirs, in the order of ``whats``: each side that is not ours beside each of ours.

    They are from the latest run that has both.
    """
    runs: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row.date):
        if row.what in whats:
            runs[row.date, row.place, whats.index(row.what), shape_key(row)].append(row)
    latest = {}
    for (_, *key), members in runs.items():
        for ours, theirs in product(members, members):
            if ours.impl.startswith("ours") and not theirs.impl.startswith("ours"):
                latest[*key, ours.impl, theirs.impl] = ours, theirs
    return _by_place(latest)


def last_runs(rows: Iterable[Row], what: str, varying: Collection[str] = ()) -> dict[Place, list[list[Row]]]:
    """The latest run of ``what`` at each shape, its rows in the order in which they were written.

    The entries of the shape that are ``varying`` differ within a run; without any, the sides do.
    """
    latest: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.date):
        if row.what == what:
            run = latest.setdefault((row.place, shape_key(row, varying), row.impl if varying else ""), [])
            if run and run[0].date != row.date:
                run.clear()
            run.append(row)
    return _by_place(latest)


def shape_key(row: Row, without: Collection[str] = ()) -> tuple[tuple[str, int], ...]:
    """The row's shape ``without`` some of its entries."""
    return tuple((name, value) for name, value in row.shape.items() if name not in without)


def relative(run: Sequence[Row]) -> list[float]:
    """Times of a run, divided by the first."""
    return [row.seconds / run[0].seconds for row in run]


def _by_place(found: Mapping[tuple[Any, ...], T]) -> dict[Place, list[T]]:
    """What was ``found``, sorted by its keys, by the place that each key begins with."""
    places = defaultdict(list)
    for (place, *_), value in sorted(found.items(), key=lambda item: item[0]):
        places[place].append(value)
    return dict(places)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
