"""What a GPU is to show, beside what the latest rows of one show: the end of ``make gpu``.

python -m benchmarks goals
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import BENCHMARKS
from benchmarks.estimate import ESTIMATES, beside_measured
from benchmarks.record import RESULTS, Row, read


class Goal(NamedTuple):
    """A figure that is to reach ``bound``, from below if ``at_least``; ``measure`` gives it, or None without rows."""

    name: str
    bound: float
    at_least: bool
    unit: str
    measure: Callable[[Sequence[Row]], float | None]

    def line(self, rows: Sequence[Row]) -> tuple[str, str, str, str]:
        """Name, goal, what was measured, and whether the goal is met."""
        found = self.measure(rows)
        goal = f"{'≥' if self.at_least else '≤'} {self.bound:g} {self.unit}"
        if found is None:
            return self.name, goal, "–", "not measured"
        met = found >= self.bound if self.at_least else found <= self.bound
        return self.name, goal, f"{found:.3g} {self.unit}", "yes" if met else "NO"


def _fastest(rows: Iterable[Row], what: str, impl: str, /, **wanted: object) -> Row | None:
    """Of the rows that fit, each side's latest of each type; of these the quickest. ``ours`` has several ways."""
    latest: dict[tuple[str, str], Row] = {}
    for row in rows:
        shape = {"dtype": row.dtype, **row.shape}
        side = row.impl.startswith("ours") if impl == "ours" else row.impl == impl
        if row.what == what and side and all(shape.get(name) == value for name, value in wanted.items()):
            latest[row.impl, row.dtype] = row
    return min(latest.values(), key=lambda row: row.p50, default=None)


def _ratio(theirs: Row | None, ours: Row | None) -> float | None:
    return None if theirs is None or ours is None else theirs.p50 / ours.p50


_PAIR = {"height": 512, "targets": 1}


def _pair(rows: Sequence[Row]) -> Row | None:
    return _fastest(rows, "job", "ours", **_PAIR)


def _further(rows: Sequence[Row]) -> float | None:
    row = _fastest(rows, "job", "ours", height=512, targets=4)
    return None if row is None else row.marginal or row.p50 / row.shape["targets"]


def _memory(rows: Sequence[Row]) -> float | None:
    row = _fastest(rows, "job", "ours", dtype="float16", **_PAIR)
    return None if row is None or row.total_bytes is None else row.total_bytes / 2**30


def _unet(rows: Sequence[Row]) -> float | None:
    return _ratio(_fastest(rows, "unet", "diffusers compiled", batch=1), _fastest(rows, "unet", "ours", batch=1))


GOALS = (
    Goal(
        "one pair beside the baseline in fp32",
        20.0,
        True,
        "times as fast",
        lambda rows: _ratio(_fastest(rows, "job", "diffusers", dtype="float32", **_PAIR), _pair(rows)),
    ),
    Goal(
        "one pair beside the optimised baseline",
        5.0,
        True,
        "times as fast",
        lambda rows: _ratio(_fastest(rows, "job", "diffusers optimised", **_PAIR), _pair(rows)),
    ),
    Goal("an image, four targets of one origin", 0.6, False, "s", _further),
    Goal("UNet forward beside compiled diffusers", 1.3, True, "times as fast", _unet),
    Goal("peak memory of one pair, weights included", 6.0, False, "GiB", _memory),
)


def table(rows: Iterable[Row]) -> Iterator[str]:
    """For each GPU that has rows, its name and the goals as a table of text."""
    devices: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row.date):
        if row.place.absolute:
            devices.setdefault(row.device, []).append(row)
    for device, of_device in devices.items():
        lines = [(device, "goal", "measured", "met"), *(goal.line(of_device) for goal in GOALS)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            yield "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 if a goal is missed or not measured, 2 without rows of a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks goals", description=BENCHMARKS["goals"][1])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON lines")
    options = parser.parse_args(arguments)
    lines = list(table(read(options.results)))
    if not lines:
        print(f"{options.results}: no rows of a GPU; `make gpu` on one makes them", file=sys.stderr)
        return 2
    print("\n".join([*lines, *beside_measured(ESTIMATES, options.results / "kernels.jsonl")]))
    return int(any(line.endswith(("NO", "not measured")) for line in lines))
