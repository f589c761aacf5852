"""The schema of benchmark rows, and the file they are appended to."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"

COMPARABLE = "on this device"
RATIOS_ONLY = "ratios between sides of this run only: a CPU shared with other work"


@dataclass(frozen=True)
class Row:
    """One side of one comparison. Times are of the device, in ``unit``; rows of one run have the same date."""

    what: str
    impl: str
    shape: dict[str, int]
    dtype: str
    p20: float
    p50: float
    p80: float
    host_p50: float  # until the call returned, the device still working
    rounds: int
    peak_bytes: int | None  # memory held at most beyond the input; None where it is not counted
    max_error: float  # the output's largest difference from ``against``
    floor: float | None  # least time on an H100, by kernels.cost; None where it does not apply
    visited: float | None = None  # share of second-pass tiles that were not skipped
    unit: Literal["us", "s"] = "us"
    processor_p50: float | None = None  # of all threads; on a shared CPU steadier than the time that went by
    against: str = "float64"  # what max_error is measured against: exact arithmetic, or another side
    held_bytes: int | None = None  # memory held before the call (on the CPU, the process's); peak_bytes come on top
    weight_bytes: int | None = None  # part of held_bytes: the networks
    parts: dict[str, float] | None = None  # the last round's time by phase
    further: float | None = None  # the last round's time for each image after the first; on a CPU processor time


def quantiles(times: Sequence[float]) -> tuple[float, float, float]:
    """p20, p50 and p80 of ``times``."""
    all_times = torch.tensor(times, dtype=torch.float64)
    p20, p50, p80 = (float(all_times.quantile(x)) for x in (0.2, 0.5, 0.8))
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
    """Add one JSON line to ``file``."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lines:
        lines.write(json.dumps(asdict(row) | around) + "\n")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
