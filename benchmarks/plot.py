"""The plot of ablation and growth that docs/benchmarks.md shows: every time relative to the first of its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from benchmarks.record import Place, Row
from benchmarks.runs import AXES, Axis, relative

Runs = Mapping[Place, Sequence[Sequence[Row]]]

WIDTH, HEIGHT, DPI = 15.0, 4.8, 100


def draw(ablations: Runs, growths: Mapping[str, Runs], path: Path) -> None:
    """Write a PNG to ``path``: the ablations as bars, and for each axis in ``growths`` its runs as curves."""
    places = sorted({*ablations, *(place for runs in growths.values() for place in runs)})
    colours = {place: f"C{number % 10}" for number, place in enumerate(places)}
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    panels = figure.subplots(1, 1 + len(growths), width_ratios=[1.3] + [1.0] * len(growths), squeeze=False)[0]
    _bars(panels[0], ablations, colours)
    for panel, (name, runs) in zip(panels[1:], growths.items(), strict=True):
        if panel is not panels[1]:
            panel.sharey(panels[1])
        _curves(panel, AXES[name], runs, colours)
    handles = [Patch(color=colour) for colour in colours.values()]
    figure.legend(handles, [place.title for place in places], loc="outside lower center", ncols=2, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})


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
