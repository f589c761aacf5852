"""The picture of an embedding: every image a point, coloured by what is known of it, and the distances beside them."""

from __future__ import annotations

import importlib
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.embedding.images import REAL, EmbeddedImage, share_table
from evaluation.embedding.yardstick import Comparison, Interval
from evaluation.extra import missing_extra
from imaging.errors import brief
from imaging.panel import PALETTE

COLUMNS = 3
MOST_SHARES, MOST_NAMES, MOST_BARS = 6, 8, 16
MANY_POINTS = 2000
"""From which on points are drawn as pixels in SVG too: as shapes they would make it too large to open."""
GREY = "#8c8c8c"
MARKERS = {True: "o", False: "^"}
SETTINGS: Any = {
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "stainloom",
    "axes.unicode_minus": False,
}
_Axes = Any


@dataclass(frozen=True)
class Pictures:
    """The same picture as PNG and as SVG."""

    png: bytes
    svg: bytes


def check_installed() -> None:
    """Raise InputError if what pictures and intervals need is not installed."""
    try:
        for part in ("matplotlib.figure", "scipy.special"):
            importlib.import_module(part)
    except (ImportError, OSError, RuntimeError) as error:
        raise missing_extra(error) from error


def draw(
    images: Sequence[EmbeddedImage],
    points: NDArray[np.float64],
    class_names: Sequence[str],
    comparisons: Sequence[Comparison],
    title: str,
) -> Pictures:
    """``points`` [n, 2] of ``images`` by class share, origin, round and arm, and the distances with their intervals.

    Colours are Okabe and Ito's or the map cividis, fit for all kinds of colour vision; real images are circles and
    in-silico ones triangles in every panel. Text is drawn as it is, never as formulas.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _panels(images, points, class_names, comparisons)
    rows = -(-len(panels) // COLUMNS)
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that no font here has
        figure = Figure(figsize=(5.0 * COLUMNS, 4.6 * rows), layout="constrained")
        FigureCanvasAgg(figure)
        figure.suptitle(title)
        for number, panel in enumerate(panels):
            panel(figure.add_subplot(rows, COLUMNS, number + 1))
        written = {}
        for kind, metadata in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
            content = io.BytesIO()
            figure.savefig(content, format=kind, dpi=150, metadata=metadata)
            written[kind] = content.getvalue()
    return Pictures(written["png"], written["svg"])


def _panels(
    images: Sequence[EmbeddedImage],
    points: NDArray[np.float64],
    class_names: Sequence[str],
    comparisons: Sequence[Comparison],
) -> list[Callable[[_Axes], None]]:
    scatter = _Scatter(images, points)
    shares = share_table(images, len(class_names))
    # Of two classes one says all.
    wanted = range(1) if len(class_names) <= 2 else range(min(MOST_SHARES, len(class_names)))
    panels: list[Callable[[_Axes], None]] = [
        partial(scatter.by_number, title=f"share of {label(class_names[c])}", values=shares[:, c], limits=(0.0, 1.0))
        for c in wanted
    ]
    panels += [scatter.by_origin, scatter.by_round, scatter.by_arm]
    if comparisons:
        shown = comparisons[:MOST_BARS]
        panels += [
            partial(_bars, title="kernel distance × 1000", comparisons=shown, of=_kernel_bars),
            partial(_bars, title="Fréchet distance", comparisons=shown, of=_frechet_bars),
        ]
    return panels


@dataclass(frozen=True)
class _Scatter:
    images: Sequence[EmbeddedImage]
    points: NDArray[np.float64]

    def by_number(self, axes: _Axes, title: str, values: NDArray[np.float64], limits: tuple[float, float]) -> None:
        """By a number of each image; grey where it is NaN."""
        drawn = None
        for real in (True, False):
            for known in (False, True):
                places = [p for p, each in enumerate(self.images) if each.real == real and known != np.isnan(values[p])]
                if places:
                    colours = {"c": values[places], "cmap": "cividis", "vmin": limits[0], "vmax": limits[1]}
                    points = self._draw(axes, places, real, colours if known else {"color": GREY})
                    drawn = points if known else drawn
        if drawn is not None:
            axes.figure.colorbar(drawn, ax=axes, shrink=0.8)
        self._finish(axes, title, {})

    def by_origin(self, axes: _Axes) -> None:
        """By slide, or image where no slide is known; lines lead from in-silico images to their origins."""
        from matplotlib.collections import LineCollection

        real = {each.sample.name: place for place, each in enumerate(self.images) if each.real}
        lines = [
            self.points[[place, real[each.sample.origin]]]
            for place, each in enumerate(self.images)
            if not each.real and each.sample.origin in real
        ]
        many = len(lines) > MANY_POINTS
        axes.add_collection(LineCollection(lines, colors=GREY, linewidths=0.4, alpha=0.5, zorder=0, rasterized=many))
        units = list(dict.fromkeys(each.unit for each in self.images))
        found = {unit: _palette(number) for number, unit in enumerate(units)}
        for kind in (True, False):
            for unit in units:
                places = [p for p, each in enumerate(self.images) if each.real == kind and each.unit == unit]
                self._draw(axes, places, kind, {"color": found[unit]})
        repeated = f"origin ({len(units)} slides or images, colours repeat)"
        few = len(units) <= MOST_NAMES
        self._finish(axes, "origin" if few else repeated, {label(unit): found[unit] for unit in units if few})

    def by_round(self, axes: _Axes) -> None:
        """By round; grey for real images and where it is not known."""
        values = np.array([np.nan if not each.round else float(each.round) for each in self.images])
        known = values[np.isfinite(values)]
        if not len(known):
            self.by_number(axes, "round (not known)", values, (0.0, 1.0))
            return
        rounds = sorted({int(value) for value in known})
        if len(rounds) > MOST_NAMES:
            self.by_number(axes, "round (real images grey)", values, (rounds[0], rounds[-1]))
            return
        colours = {number: _steps(place, len(rounds)) for place, number in enumerate(rounds)}
        for real in (True, False):
            for number in (None, *rounds):
                same = [(each.round or None) == number and each.real == real for each in self.images]
                self._draw(axes, np.flatnonzero(same).tolist(), real, {"color": colours.get(number or 0, GREY)})
        self._finish(axes, "round", {"real": GREY} | {f"round {number}": colours[number] for number in rounds})

    def by_arm(self, axes: _Axes) -> None:
        """By set."""
        arms = list(dict.fromkeys(each.arm for each in self.images))
        colours = {arm: GREY if arm == REAL else _palette(number - 1) for number, arm in enumerate(arms)}
        for arm in arms:
            places = [p for p, each in enumerate(self.images) if each.arm == arm]
            self._draw(axes, places, arm == REAL, {"color": colours[arm]})
        self._finish(axes, "arm", {label(arm): colours[arm] for arm in arms})

    def _draw(self, axes: _Axes, places: Sequence[int], real: bool, colours: Mapping[str, Any]) -> Any:
        count = len(self.images)
        size = float(np.clip(6000.0 / count, 6.0, 40.0))
        x, y = self.points[list(places)].T
        return axes.scatter(
            x, y, s=size, marker=MARKERS[real], alpha=0.8, linewidths=0.3, edgecolors="black" if real else "white",
            rasterized=count > MANY_POINTS, **colours,
        )  # fmt: skip

    def _finish(self, axes: _Axes, title: str, names: Mapping[str, Any]) -> None:
        from matplotlib.lines import Line2D

        axes.set_title(title)
        axes.set_xticks([])
        axes.set_yticks([])
        kinds = [(MARKERS[True], "real"), (MARKERS[False], "in silico")]
        handles = [Line2D([], [], linestyle="", marker=marker, color="none", markeredgecolor="black", label=name)
                   for marker, name in kinds]  # fmt: skip
        handles += [
            Line2D([], [], linestyle="", marker="s", color=colour, label=name) for name, colour in names.items()
        ]
        axes.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=3, fontsize="small", frameon=False
        )


_Row = tuple[Interval | None, Interval | None]


def _kernel_bars(comparison: Comparison) -> _Row:
    return _scaled(comparison.kernel_halves), _scaled(comparison.kernel_real)


def _frechet_bars(comparison: Comparison) -> _Row:
    return comparison.frechet, comparison.frechet_real


def _scaled(interval: Interval | None) -> Interval | None:
    return None if interval is None else interval.times(1000.0)


def _bars(axes: _Axes, title: str, comparisons: Sequence[Comparison], of: Callable[[Comparison], _Row]) -> None:
    """A line for each set's distance from real images, and below it, grey, for that of real images in its place."""
    for row, comparison in enumerate(comparisons):
        for interval, offset, colour, marker in zip(
            of(comparison), (-0.15, 0.15), (_palette(1), GREY), ("^", "o"), strict=True
        ):
            if interval is None:
                continue
            if interval.low is not None and interval.high is not None:
                axes.plot([interval.low, interval.high], [row + offset] * 2, color=colour, linewidth=2.5)
            axes.plot([interval.value], [row + offset], marker=marker, color=colour, markeredgecolor="black")
    axes.set_yticks(range(len(comparisons)), [label(each.name, 28) for each in comparisons])
    axes.set_ylim(len(comparisons) - 0.5, -0.5)
    axes.axvline(0.0, color=GREY, linewidth=0.5)
    axes.set_title(f"{title}\nblue: in silico to real; grey: real to real", fontsize="medium")


def label(text: str, most: int = 40) -> str:
    """Text from outside for a legend: on one line, not endless, and never one that matplotlib would leave out."""
    shown = brief(text, most)
    return f" {shown}" if shown.startswith("_") or not shown else shown


def _palette(number: int) -> tuple[float, float, float]:
    red, green, blue = PALETTE[number % len(PALETTE)]
    return red / 255, green / 255, blue / 255


def _steps(place: int, count: int) -> Any:
    import matplotlib

    return matplotlib.colormaps["cividis"](place / max(1, count - 1))
