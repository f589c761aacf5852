"""The schema of benchmark rows, and the file they are appended to."""

from __future__ import annotations

import json
import platform
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


@dataclass(frozen=True)
class Row:
    """One side of one comparison. Times are of the device, in microseconds."""

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
    max_error: float  # against float64
    floor: float | None  # least time on an H100, by kernels.cost; None where it does not apply
    visited: float | None = None  # share of second-pass tiles that were not skipped


def surroundings(device: torch.device) -> dict[str, Any]:
    """What a figure depends on beside the code: device, versions, commit."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "CPU",
        "versions": {name: _version(name) for name in ("torch", "triton")} | {"cuda": torch.version.cuda},
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
