"""The figures of docs/benchmarks.md, made from benchmarks/results: a table between its markers, and a plot.

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

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks import BENCHMARKS
from benchmarks.record import AXES, RESULTS, ROOT, Axis, Place, Row, compared, last_runs, read, relative, shape_key

Runs = Mapping[Place, Sequence[Sequence[Row]]]

START, END = "<!-- benchmarks -->", "<!-- /benchmarks -->"

COMPARED = ("job", "unet", "vae encode", "vae decode", "text to image")


def markdown(rows: Sequence[Row], plot: str) -> str:
    """All tables, those of each place under its title; ``plot`` is the picture's address."""
    comparisons, ablations, growths = compared(rows, COMPARED), last_runs(rows, "ablation"), growth(rows)
    places = {*comparisons, *ablations, *(place for runs in growths.values() for place in runs)}
    blocks = [f"![time by optimisations, size, classes and targets]({plot})"]
    for place in sorted(places, key=lambda place: (not place.absolute, place)):
        blocks.append(f"**{place.title}**")
        if place in comparisons:
            blocks.append(_table(_comparison_rows(comparisons[place])))
        blocks.extend(_table(_ablation_rows(run)) for run in ablations.get(place, ()))
        of_place = {name: runs[place] for name, runs in growths.items() if place in runs}
        if of_place:
            blocks.append(_table(_growth_rows(of_place)))
    return "\n\n".join(blocks)


def growth(rows: Sequence[Row]) -> dict[str, Runs]:
    """The latest runs along each axis, by its name."""
    return {name: last_runs(rows, axis.what, axis.entries) for name, axis in AXES.items()}


def insert(text: str, table: str) -> str | None:
    """``text`` with ``table`` between its markers; None unless it has each of them once, in order."""
    if text.count(START) != 1 or text.count(END) != 1 or text.index(START) > text.index(END):
        return None
    before, after = text[: text.index(START) + len(START)], text[text.index(END) :]
    return f"{before}\n\n{table}\n\n{after}"


def _table(rows: Iterable[Sequence[str]]) -> str:
    """Rows of cells, the first being the head."""
    head, *others = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "| --- |" + " ---: |" * (head.count("|") - 2), *others])


def _comparison_rows(comparisons: Sequence[tuple[Row, Row]]) -> Iterator[list[str]]:
    absolute = comparisons[0][0].place.absolute
    times = ["theirs, s", "ours, s"] if absolute else []
    yield ["", "theirs", *times, "time, theirs / ours", "memory, theirs / ours"]
    for ours, theirs in comparisons:
        what = _described(ours) + ours.impl.removeprefix("ours")
        memory = _ratio(theirs.total_bytes, ours.total_bytes)
        lines = [(what, theirs.seconds, ours.seconds, memory)]
        if theirs.marginal is not None and ours.marginal is not None:
            lines.append((f"{what}: each further target", theirs.marginal, ours.marginal, ""))
        for name, their_time, our_time, memory in lines:
            times = [f"{their_time:.3g}", f"{our_time:.3g}"] if absolute else []
            yield [name, theirs.impl, *times, _ratio(their_time, our_time), memory]


def _ablation_rows(run: Sequence[Row]) -> Iterator[list[str]]:
    absolute = run[0].place.absolute
    times = ["time, s"] if absolute else []
    title = f"optimisations, one after another ({_described(run[0])})"
    yield [title, *times, "time / first", "extra MB", "levels of 255"]
    for row, ratio in zip(run, relative(run), strict=True):
        extra = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
        times = [f"{row.seconds:.3g}"] if absolute else []
        yield [row.impl, *times, f"{ratio:.2f}", extra, f"{row.max_error:.0f}"]


def _growth_rows(runs: Mapping[str, Sequence[Sequence[Row]]]) -> Iterator[list[str]]:
    absolute = any(run[0].place.absolute for of_axis in runs.values() for run in of_axis)
    yield ["grows by", "time" if absolute else "time / first"]
    for name, of_axis in runs.items():
        axis = AXES[name]
        for run in of_axis:
            values = [row.shape[axis.entries[0]] for row in run]
            times = [f"{row.seconds:.3g} s" for row in run] if absolute else [f"{x:.2f}" for x in relative(run)]
            cells = ", ".join(f"{value}: {time}" for value, time in zip(values, times, strict=True))
            variant = run[0].impl.removeprefix("ours")
            yield [f"{axis.unit} ({_described(run[0], without=axis.entries)}{variant})", cells]


def _described(row: Row, without: Sequence[str] = ()) -> str:
    """A row's job in words, ``without`` some entries of its shape."""
    parts = [row.what] if row.what in COMPARED else []
    for name, value in shape_key(row, (*without, "width", "executed")):
        word = "px" if name == "height" else name.removesuffix("s" if value == 1 else "")
        parts.append(f"batch {value}" if name == "batch" else f"{value} {word}")
    return ", ".join(parts)


def _ratio(theirs: float | None, ours: float | None) -> str:
    return "" if theirs is None or ours is None else f"{theirs / ours:.2f}"


def draw(ablations: Runs, growths: Mapping[str, Runs], path: Path) -> None:
    """Write a PNG to ``path``: the ablations as bars, and for each axis in ``growths`` its runs as curves."""
    places = sorted({*ablations, *(place for runs in growths.values() for place in runs)})
    colours = {place: f"C{number % 10}" for number, place in enumerate(places)}
    figure = Figure(figsize=(15.0, 4.8), layout="constrained")
    panels = figure.subplots(1, 1 + len(growths), width_ratios=[1.3] + [1.0] * len(growths), squeeze=False)[0]
    _bars(panels[0], ablations, colours)
    for panel, (name, runs) in zip(panels[1:], growths.items(), strict=True):
        if panel is not panels[1]:
            panel.sharey(panels[1])
        _curves(panel, AXES[name], runs, colours)
    handles = [Patch(color=colour) for colour in colours.values()]
    figure.legend(handles, [place.title for place in places], loc="outside lower center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def _bars(panel: Axes, ablations: Runs, colours: Mapping[Place, str]) -> None:
    series = [(colours[place], run) for place, runs in ablations.items() for run in runs]
    # The longest run has every optimisation; what others lack leaves a gap.
    longest_first = sorted((run for _, run in series), key=len, reverse=True)
    names = list(dict.fromkeys(row.impl for run in longest_first for row in run))
    thickness = 0.8 / max(len(series), 1)
    for number, (colour, run) in enumerate(series):
        heights = [names.index(row.impl) + (number + 0.5) * thickness - 0.4 for row in run]
        bars = panel.barh(heights, relative(run), thickness, color=colour)
        panel.bar_label(bars, fmt="%.2f", padding=2, fontsize="x-small")
    panel.set_yticks(range(len(names)), names, fontsize="small")
    panel.invert_yaxis()
    panel.margins(x=0.12)
    panel.set_xlabel("time, relative to the first")
    panel.set_title("optimisations, one after another")


def _curves(panel: Axes, axis: Axis, runs: Runs, colours: Mapping[Place, str]) -> None:
    ticks: set[int] = set()
    for place, of_place in runs.items():
        for run in of_place:
            values = [row.shape[axis.entries[0]] for row in run]
            panel.plot(values, relative(run), "o-", color=colours[place])
            ticks.update(values)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log", base=2)
    panel.minorticks_off()
    panel.set_xticks(sorted(ticks), [str(tick) for tick in sorted(ticks)])
    panel.yaxis.set_major_formatter("{x:g}")
    panel.set_xlabel(axis.unit)
    panel.set_title("time, relative to the first")
    panel.grid(alpha=0.3)


def main(arguments: Sequence[str]) -> int:
    """Write table and plot; 2, with nothing written, without rows or without the page's markers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks table", description=BENCHMARKS["table"][1])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of JSON lines")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmarks.md", help="file with the markers")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "benchmarks.png", help="PNG to write")
    options = parser.parse_args(arguments)
    rows = read(options.results)
    if not rows:
        print(f"{options.results}: no rows of networks or jobs; run the benchmarks first", file=sys.stderr)
        return 2
    table = markdown(rows, os.path.relpath(options.plot, options.page.parent))
    print(table)
    text = insert(options.page.read_text(encoding="utf-8"), table)
    if text is None:
        print(f"{options.page}: needs the lines {START} and {END}, once each, for the table", file=sys.stderr)
        return 2
    draw(last_runs(rows, "ablation"), growth(rows), options.plot)
    options.page.write_text(text, encoding="utf-8")
    return 0
