"""The one schema of all rows, the file they are appended to, and how they are shown meanwhile."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

COMPARABLE = "on this device"
RATIOS_ONLY = "ratios between sides of this run only: a CPU shared with other work"


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
class Row:
    """One side of one comparison. Times are the device's, in seconds; rows of one run have the same date."""

    what: str
    impl: str
    shape: dict[str, int]
    dtype: str
    p20: float
    p50: float
    p80: float
    host_p50: float  # until the call returned, the device still working
    rounds: int
    peak_bytes: int | None  # memory held at most beyond what was held before; None where it is not counted
    max_error: float  # the output's largest difference from ``against``
    against: str  # float64 arithmetic, or another side
    processor_p50: float | None = None  # of all threads; on a shared CPU steadier than the time that went by
    held_bytes: int | None = None  # memory held before the call (on the CPU, the process's)
    weight_bytes: int | None = None  # part of held_bytes: the networks; None for single kernels
    parts: dict[str, float] | None = None  # the last round's time by phase
    marginal: float | None = None  # the last round's time for each image after the first; on a CPU processor time
    floor: float | None = None  # least time on an H100, by kernels.cost; None where it does not apply
    visited: float | None = None  # share of second-pass tiles that were not skipped
    device: str = ""
    threads: int | None = None  # of a CPU
    times_compare: str = RATIOS_ONLY
    versions: dict[str, str | None] | None = None
    commit: str | None = None
    date: str = ""

    @property
    def place(self) -> Place:
        """Where, in which type and with how large networks."""
        parameters = (0 if self.weight_bytes is None else self.weight_bytes) // getattr(torch, self.dtype).itemsize
        threads = 0 if self.threads is None else self.threads
        return Place(self.device, self.times_compare == COMPARABLE, threads, self.dtype, parameters)

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


def quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80 of ``times``."""
    p20, p50, p80 = torch.tensor(times, dtype=torch.float64).quantile(torch.tensor([0.2, 0.5, 0.8]).double()).tolist()
    return p20, p50, p80


def surroundings(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the code: device, versions, commit; and what its times may be compared with."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
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
        columns = ("p50 s", "/ first", "CPU s", "of floor", "extra MB", "memory / first", "max error")
        print(f"{'impl':<50}" + "".join(f"{column:>16}" for column in columns))

    def add(self, rows: Sequence[Row]) -> None:
        """Rows of one comparison; times, and memory with the networks, are shown beside the first one's."""
        headings = [f"{row.what}, {', '.join(f'{name} {n}' for name, n in row.shape.items())}" for row in rows]
        for row, heading, previous in zip(rows, headings, [None, *headings[:-1]], strict=True):
            append(self._file, row, self._around)
            if heading != previous:
                print(heading)
            memory = _ratio(row.total_bytes, rows[0].total_bytes)
            extra = None if row.peak_bytes is None else row.peak_bytes / 1e6
            cells = (row.p50, row.p50 / rows[0].p50, row.processor_p50, _ratio(row.p50, row.floor), extra, memory)
            shown = ("" if cell is None else f"{cell:.4g}" for cell in (*cells, row.max_error))
            print(f"  {row.impl:<48}" + "".join(f"{cell:>16}" for cell in shown))
            if row.parts is not None:
                print("    " + ", ".join(f"{phase} {taken:.2f} s" for phase, taken in row.parts.items()))
            if row.marginal is not None:
                print(f"    each further target {row.marginal:.2f} s")


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
