"""The README's figures, made from benchmarks/results: a table between its markers, and a plot.

    python -m benchmarks table

Of runs of the same thing the latest counts. Times are shown where they mean something by themselves, on a GPU; runs on
a shared CPU give ratios within a run alone, of processor time.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.plot import Runs, draw, relative
from benchmarks.record import RESULTS, ROOT
from benchmarks.runs import Comparison, Measured, Place, compared, last_runs, read
from benchmarks.whole_jobs import AXES

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"

COMPARED = ("job", "unet", "vae encode", "vae decode", "text to image")


def markdown(measured: Sequence[Measured], plot: str) -> str:
    """All tables, those of each place under its title; ``plot`` is the picture's address."""
    comparisons, ablations = compared(measured, COMPARED), last_runs(measured, "ablation")
    growths = growth(measured)
    places = {*comparisons, *ablations, *(place for runs in growths.values() for place in runs)}
    blocks = [f"![time by savings, size, classes and targets]({plot})"]
    for place in sorted(places, key=lambda place: (not place.absolute, place)):
        blocks.append(f"**{place.title}**")
        if place in comparisons:
            blocks.append(_table(_comparison_rows(place, comparisons[place])))
        blocks.extend(_table(_ablation_rows(place, run)) for run in ablations.get(place, ()))
        of_place = {name: runs[place] for name, runs in growths.items() if place in runs}
        if of_place:
            blocks.append(_table(_growth_rows(place, of_place)))
    return "\n\n".join(blocks)


def growth(measured: Sequence[Measured]) -> dict[str, Runs]:
    """The latest runs along each axis, by its name."""
    return {name: last_runs(measured, axis.what, axis.entries) for name, axis in AXES.items()}


def insert(text: str, table: str) -> str | None:
    """``text`` with ``table`` between its markers; None unless it has each of them once, in order."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        return None
    before, after = text[: text.index(START) + len(START)], text[text.index(END) :]
    return f"{before}\n\n{table}\n\n{after}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, the first being the head."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    columns = lines[0].count("|") - 1
    return "\n".join([lines[0], "| --- |" + " ---: |" * (columns - 1), *lines[1:]])


def _comparison_rows(place: Place, comparisons: Sequence[Comparison]) -> Iterator[list[str]]:
    ratios = ["time, theirs / ours", "memory, theirs / ours"]
    yield ["", "theirs", *(["theirs, s", "ours, s"] if place.absolute else []), *ratios]
    for each in comparisons:
        ours, theirs = each.ours, each.theirs
        times = [_seconds(theirs), _seconds(ours)] if place.absolute else []
        memory = "" if each.memory is None else f"{each.memory:.2f}"
        variant = ours.row.impl.removeprefix("ours")
        yield [_described(ours) + variant, theirs.row.impl, *times, f"{each.time:.2f}", memory]
        if each.further is not None:
            times = [f"{side.row.further:.3g}" for side in (theirs, ours)] if place.absolute else []
            what = f"{_described(ours)}{variant}: each further target"
            yield [what, theirs.row.impl, *times, f"{each.further:.2f}", ""]


def _ablation_rows(place: Place, run: Sequence[Measured]) -> Iterator[list[str]]:
    times = ["time, s"] if place.absolute else []
    yield [f"savings, one after another ({_described(run[0])})", *times, "time / first", "extra MB", "levels of 255"]
    for each, ratio in zip(run, relative(run), strict=True):
        extra = "" if each.row.peak_bytes is None else f"{each.row.peak_bytes / 1e6:.0f}"
        times = [_seconds(each)] if place.absolute else []
        yield [each.row.impl, *times, f"{ratio:.2f}", extra, f"{each.row.max_error:.0f}"]


def _growth_rows(place: Place, runs: Mapping[str, Sequence[Sequence[Measured]]]) -> Iterator[list[str]]:
    yield ["grows by", "time" if place.absolute else "time / first"]
    for name, of_axis in runs.items():
        axis = AXES[name]
        for run in of_axis:
            values = [each.row.shape[axis.entries[0]] for each in run]
            times = map(_seconds, run) if place.absolute else (f"{ratio:.2f}" for ratio in relative(run))
            unit = " s" if place.absolute else ""
            cells = (f"{value}: {time}{unit}" for value, time in zip(values, times, strict=True))
            variant = run[0].row.impl.removeprefix("ours")
            yield [f"{axis.unit} ({_described(run[0], without=axis.entries)}{variant})", ", ".join(cells)]


def _described(measured: Measured, without: Sequence[str] = ()) -> str:
    """A row's job in words, ``without`` some entries of its shape."""
    shape = dict(measured.shape((*without, "width", "executed")))
    words = {
        "height": "{} px",
        "batch": "batch {}",
        "classes": "{} classes",
        "targets": "{} targets",
        "steps": "{} steps",
    }
    what = [measured.row.what] if measured.row.what in COMPARED else []
    parts = [words[name].format(value) for name, value in shape.items()]
    return ", ".join(what + [part.removesuffix("s") if part.startswith("1 ") else part for part in parts])


def _seconds(measured: Measured) -> str:
    return f"{measured.seconds:.3g}"


def main() -> int:
    """Write table and plot; 2, with nothing written, without rows or without the README's markers."""
    parser = argparse.ArgumentParser(description="Make the README's table and plot from benchmarks/results.")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON lines")
    parser.add_argument("--readme", type=Path, default=ROOT / "README.md", help="file with the markers")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "benchmarks.png", help="PNG to write")
    arguments = parser.parse_args()
    measured = read(arguments.results)
    if not measured:
        print(f"{arguments.results}: no rows of networks or jobs; run the benchmarks first", file=sys.stderr)
        return 2
    table = markdown(measured, os.path.relpath(arguments.plot, arguments.readme.parent))
    print(table)
    text = insert(arguments.readme.read_text(encoding="utf-8"), table)
    if text is None:
        print(f"{arguments.readme}: needs the lines {START} and {END}, once each, for the table", file=sys.stderr)
        return 2
    draw(last_runs(measured, "ablation"), growth(measured), arguments.plot)
    arguments.readme.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
