"""The figures of an experiment's report: after the paper's 2c and 3, differences, and what images are worth."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.experiment.arms import REAL, Arm
from evaluation.experiment.curve import monotone
from evaluation.experiment.plan import Plan
from evaluation.experiment.summary import Point, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "real": "#0072b2",
    "winter": "#d55e00",
    "alaluf": "#e6a700",
    "copies": "#555555",
    "collage": "#009e73",
    "vae": "#999999",
    "no-swap": "#cc79a7",
    "no-adain": "#56b4e9",
}
OTHER = "#8b6f47"
TOLD = {"helps": "#009e73", "hurts": "#aa3377"}
MARKERS = "osD^vP*Xhp<>d"


def draw(paint: Callable[[Axes], None], size: tuple[float, float] = (7.0, 4.3)) -> tuple[bytes, bytes]:
    """What ``paint`` paints, of ``size`` in inches, as PNG and as SVG. The same for the same numbers."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "stainloom", "font.size": 9, "svg.fonttype": "path"}):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        paint(axes)
        contents = []
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            file = io.BytesIO()
            figure.savefig(file, format=kind, dpi=150, metadata=metadata)
            contents.append(file.getvalue())
    return contents[0], contents[1]


def spread_of(point: Point) -> float:
    """What a band shows: the deviation between annotators, or, of one alone, between trainings."""
    return float(np.std(point.annotators, ddof=1)) if len(point.annotators) > 1 else point.runs_deviation


def _curve(axes: Axes, points: Sequence[Point], xs: Sequence[float], colour: str, label: str) -> None:
    """The mean with its band, and a dotted line with triangles for each annotator."""
    means = np.array([each.found.mean for each in points])
    spread = np.array([spread_of(each) for each in points])
    axes.fill_between(xs, means - spread, means + spread, color=colour, alpha=0.15, linewidth=0)
    axes.plot(xs, means, color=colour, marker="o", markersize=4, label=label)
    if len(points[0].annotators) > 1:
        for place in range(len(points[0].annotators)):
            values = [each.annotators[place] for each in points]
            axes.plot(xs, values, color=colour, linestyle=":", linewidth=0.8, marker="^", markersize=4, alpha=0.7)


def _whole(axes: Axes, plan: Plan, summary: Summary) -> None:
    """The largest subset's annotated images alone, as a line across."""
    share = max(each.share for each in plan.subsets)
    point = summary.point(share, Arm(REAL, 0))
    if point is None or share in plan.expanded:
        return
    colour, spread = COLOURS[REAL], spread_of(point)
    name = "all annotated images" if share == 1.0 else f"{100 * share:g} % annotated"
    axes.axhline(point.found.mean, color=colour, label=f"{name} ({point.real:g})")
    axes.axhspan(point.found.mean - spread, point.found.mean + spread, color=colour, alpha=0.12, linewidth=0)
    if len(point.annotators) > 1:
        for value in point.annotators:
            axes.plot(
                [1.0],
                [value],
                marker="^",
                color=colour,
                markersize=5,
                transform=axes.get_yaxis_transform(),
                clip_on=False,
                linestyle="none",
            )


def _with_start(summary: Summary, plan: Plan, share: float, kind: str) -> list[Point]:
    arms = [Arm(REAL, 0), *sorted((arm for arm in plan.arms if arm.kind == kind), key=lambda arm: arm.rounds)]
    found = [summary.point(share, arm) for arm in arms]
    return [each for each in found if each is not None] if all(found) and len(found) > 1 else []


def rounds_figure(plan: Plan, summary: Summary, share: float) -> Callable[[Axes], None]:
    """After the paper's figure 2c: Dice over rounds of further images, on the subsets of one share."""

    def paint(axes: Axes) -> None:
        _whole(axes, plan, summary)
        for kind in ("winter", "alaluf"):
            points = _with_start(summary, plan, share, kind)
            if points:
                name = "in-silico" if kind == "winter" else "in-silico, baseline"
                _curve(axes, points, [each.arm.rounds for each in points], COLOURS[kind], f"{name} ({kind})")
        curves = (REAL, "winter", "alaluf")
        others = [each for each in summary.points if each.share == share and each.arm.kind not in curves]
        width = 0.5 / max(1, len(others))
        for number, each in enumerate(others):
            x = each.arm.rounds + 0.12 + number * width
            bars = [[max(0.0, each.found.mean - each.found.low)], [max(0.0, each.found.high - each.found.mean)]]
            axes.errorbar(
                [x],
                [each.found.mean],
                yerr=bars,
                color=COLOURS.get(each.arm.kind, OTHER),
                linewidth=0.7,
                marker=MARKERS[number % len(MARKERS)],
                markersize=5,
                linestyle="none",
                label=each.arm.kind,
            )
        axes.set_xlabel("further images for every annotated one (rounds)")
        axes.set_xticks(sorted({arm.rounds for arm in plan.arms}))
        axes.set_ylabel("Dice on the test set")
        _limits(axes, [each for each in summary.points if each.share == share or each.share == 1.0])
        axes.legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return paint


def images_figure(plan: Plan, summary: Summary) -> Callable[[Axes], None]:
    """After the paper's figure 3: Dice over all images seen in training, a curve for each share."""

    def paint(axes: Axes) -> None:
        _whole(axes, plan, summary)
        shades = ["#d55e00", "#7a3b00", "#f0a860", "#a04000"]
        for number, share in enumerate(plan.expanded):
            points = _with_start(summary, plan, share, "winter")
            if points:
                xs = [each.total for each in points]
                _curve(axes, points, xs, shades[number % len(shades)], f"{100 * share:g} % and in-silico")
        axes.set_xlabel("images in training, annotated and in-silico")
        axes.set_ylabel("Dice on the test set")
        _limits(axes, list(summary.points))
        axes.legend(fontsize=7, frameon=False)

    return paint


def _limits(axes: Axes, points: Sequence[Point]) -> None:
    """Room for means, bands and annotators; intervals may run out of it."""
    values = [value for each in points for value in (*each.annotators, each.found.mean)]
    spread = max([spread_of(each) for each in points], default=0.0)
    low, high = min(values) - spread - 0.02, max(values) + spread + 0.02
    axes.set_ylim(max(0.0, low), min(1.0, high) if high <= 1.05 else high)


def worth_figure(plan: Plan, summary: Summary) -> Callable[[Axes], None]:
    """The curve of annotated images alone, and where further images lie on it."""

    def paint(axes: Axes) -> None:
        real = sorted((each for each in summary.points if each.arm.kind == REAL), key=lambda each: each.real)
        counts, means = [each.real for each in real], [each.found.mean for each in real]
        bars = [
            [max(0.0, each.found.mean - each.found.low) for each in real],
            [max(0.0, each.found.high - each.found.mean) for each in real],
        ]
        axes.errorbar(counts, means, yerr=bars, color=COLOURS[REAL], marker="o", linestyle="none", capsize=2)
        rising = monotone(means, [1.0] * len(means))
        axes.plot(counts, rising, color=COLOURS[REAL], label="annotated images alone, rising")
        wanted = plan.question.first.kind
        for each in summary.points:
            if each.arm.kind == wanted and each.worth is not None:
                known = each.worth.images if 0.0 < each.worth.images < math.inf else None
                axes.plot([each.real], [each.found.mean], marker="D", color=COLOURS.get(wanted, OTHER), markersize=4)
                axes.annotate(
                    f"{each.arm.key}",
                    (each.real, each.found.mean),
                    fontsize=7,
                    xytext=(4, -8),
                    textcoords="offset points",
                )
                if known is not None and known != each.real:
                    axes.annotate(
                        "",
                        (known, each.found.mean),
                        (each.real, each.found.mean),
                        arrowprops={"arrowstyle": "->", "color": COLOURS.get(wanted, OTHER)},
                    )
        axes.set_xscale("log")
        axes.set_xticks(counts, [f"{each:g}" for each in counts])
        axes.minorticks_off()
        axes.set_xlabel("annotated images")
        axes.set_ylabel("Dice on the test set")
        axes.legend(fontsize=7, frameon=False, loc="lower right")

    return paint


def differences_figure(plan: Plan, summary: Summary) -> Callable[[Axes], None]:
    """Every paired difference with its interval."""

    def paint(axes: Axes) -> None:
        rows = list(reversed(summary.differences))
        for place, each in enumerate(rows):
            colour = "#d55e00" if each.main else TOLD.get(each.verdict.word, "#777777")
            axes.plot(
                [each.found.low, each.found.high], [place, place], color=colour, linewidth=2 if each.main else 1.2
            )
            axes.plot([each.found.mean], [place], marker="o", color=colour, markersize=4)
        axes.axvline(0.0, color="black", linewidth=0.6)
        for side in (-plan.question.effect, plan.question.effect):
            axes.axvline(side, color="black", linewidth=0.4, linestyle=":")
        names = [f"{each.first.key} − {each.second.key}, {100 * each.share:g} %" for each in rows]
        axes.set_yticks(range(len(rows)), names, fontsize=7)
        axes.set_ylim(-0.7, len(rows) - 0.3)
        widest = max([abs(each.found.mean) for each in rows], default=0.0)
        axes.set_xlim(*(side * max(3 * plan.question.effect, 2.5 * widest) for side in (-1, 1)))
        axes.set_xlabel("difference of Dice, with interval")

    return paint


def all_figures(plan: Plan, summary: Summary) -> dict[str, tuple[str, Any]]:
    """By name: a caption, and PNG and SVG."""
    several = len(summary.annotators) > 1
    band = "standard deviation between annotators" if several else "standard deviation between trainings"
    shown = f"Bands: {band}{', triangles: each annotator' if several else ''}."
    found: dict[str, tuple[str, Any]] = {}
    for share in plan.expanded:
        if any(each.share == share and each.arm.kind != REAL for each in summary.points):
            found[f"rounds-{100 * share:g}"] = (
                f"After figure 2c of Winter et al.: {100 * share:g} % of the slides, further images added round by "
                f"round. {shown} Single markers: controls, with 95 % intervals.",
                draw(rounds_figure(plan, summary, share)),
            )
    if any(each.arm.kind == "winter" for each in summary.points):
        found["images"] = (
            f"After figure 3 of Winter et al.: over all images in training. {shown}",
            draw(images_figure(plan, summary)),
        )
    if summary.differences:
        height = 1.2 + 0.19 * len(summary.differences)
        found["differences"] = (
            "Paired differences with 95 % intervals; the planned comparison in orange; dotted: the smallest difference "
            "that would matter.",
            draw(differences_figure(plan, summary), (7.0, height)),
        )
    if len([each for each in summary.points if each.arm.kind == REAL]) > 1:
        found["worth"] = (
            "Annotated images alone, with 95 % intervals, and how many of them would do as well as the further images.",
            draw(worth_figure(plan, summary)),
        )
    return found
