"""What an embedding leaves behind: a table, features, distances, pictures, and a page that shows all of it offline."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from evaluation.embedding.figure import draw
from evaluation.embedding.images import EmbeddedImage, share_table
from evaluation.embedding.yardstick import DRAWS, LEVEL, Comparison, Interval
from imaging.classes import ClassMap
from imaging.errors import brief
from imaging.output import replacing

METHODS = {"umap": "UMAP", "pca": "principal components"}


class _Files(NamedTuple):
    table: str = "embedding.csv"
    features: str = "features.safetensors"
    distances: str = "distances.json"
    report: str = "report.html"

    @property
    def all(self) -> tuple[str, ...]:
        """Those of every projection."""
        return (*self, *(f"{method}.{kind}" for method in METHODS for kind in ("png", "svg")))


FILES = _Files()


@dataclass(frozen=True)
class Embedding:
    """All that was found. ``features`` [n, D] and ``points`` [n, 2] are in the order of ``images``.

    ``unit`` is what was drawn as a whole: slide or image.
    """

    version: str
    images: Sequence[EmbeddedImage]
    classes: ClassMap
    features: NDArray[np.float32]
    points: NDArray[np.float64]
    comparisons: Sequence[Comparison]
    encoder: Mapping[str, Any]
    unit: str
    projection: str
    seed: int

    @property
    def real(self) -> list[EmbeddedImage]:
        """The real images."""
        return [each for each in self.images if each.real]


def write_embedding(folder: Path, embedding: Embedding) -> None:
    """Write all files, or none; pictures of another projection, which would be of an earlier run, are removed.

    Raises:
        InputError: something cannot be written.
    """
    method = embedding.projection
    title = f"{METHODS[method]} of {len(embedding.images)} images by {brief(str(embedding.encoder['name']), 80)}"
    pictures = draw(embedding.images, embedding.points, embedding.classes.names, embedding.comparisons, title)
    contents = {
        FILES.table: table(embedding).encode("utf-8", "backslashreplace"),
        FILES.features: save({"features": embedding.features}, {"encoder": json.dumps(embedding.encoder)}),
        FILES.distances: (json.dumps(distances(embedding), indent=1, allow_nan=False) + "\n").encode(),
        f"{method}.png": pictures.png,
        f"{method}.svg": pictures.svg,
        FILES.report: page(embedding, title, pictures.png).encode("utf-8", "backslashreplace"),
    }
    with replacing(*(folder / name for name in contents)) as partials:
        for partial, content in zip(partials, contents.values(), strict=True):
            partial.write_bytes(content)
    for name in set(FILES.all) - set(contents):
        (folder / name).unlink(missing_ok=True)


def table(embedding: Embedding) -> str:
    """A row for each image, as CSV. What is not known is empty."""
    names = embedding.classes.names
    shares = share_table(embedding.images, len(names))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["name", "arm", "round", "origin", "slide", "patient", *(f"share of {name}" for name in names), "x", "y"]
    )
    for each, share, (x, y) in zip(embedding.images, shares, embedding.points, strict=True):
        sample = each.sample
        fractions = ["" if np.isnan(value) else f"{value:.6f}" for value in share]
        number = "" if each.round is None else each.round
        known = [sample.name, each.arm, number, sample.origin, sample.slide, sample.patient]
        writer.writerow([*known, *fractions, f"{x:.6g}", f"{y:.6g}"])
    return text.getvalue()


def distances(embedding: Embedding) -> dict[str, Any]:
    """The content of the file of distances."""
    real = embedding.real
    return {
        "program": "stainloom",
        "version": embedding.version,
        "encoder": dict(embedding.encoder),
        "width": int(embedding.features.shape[1]),
        "classes": str(embedding.classes),
        "seed": embedding.seed,
        "projection": embedding.projection,
        "unit": embedding.unit,
        "real": {"images": len(real), "slides_or_images": len({each.unit for each in real})},
        "confidence": LEVEL,
        "bootstrap_draws": DRAWS,
        "sets": [_json(each) for each in embedding.comparisons],
    }


def _json(comparison: Comparison) -> dict[str, Any]:
    found = {
        name: round(value, 12) if isinstance(value, float) else value for name, value in asdict(comparison).items()
    }
    return {**found, "differs": comparison.differs, "farther_than_real_slides": comparison.farther}


def summary_lines(embedding: Embedding) -> Iterator[str]:
    """A line for each set, to be printed."""
    for each in embedding.comparisons:
        kernel, size = _thousandfold(each.kernel), f"{each.size} images a side"
        yield (
            f"{brief(each.name)}: kernel distance × 1000 {number(kernel)}; Fréchet {number(each.frechet)}, "
            f"real ones among each other {number(each.frechet_real)} ({size})"
        )


def number(interval: Interval | None) -> str:
    """An interval for people."""
    if interval is None:
        return "not known"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3g}"
    return f"{interval.value:.3g} [{interval.low:.3g}, {interval.high:.3g}]"


def _thousandfold(interval: Interval | None) -> Interval | None:
    return None if interval is None else interval.times(1000.0)


_VERDICTS = {True: "yes", False: "no", None: "not known"}
_HEADS = (
    "set",
    "images",
    "drawn (shared)",
    "kernel × 1000",
    "differs?",
    "same, over halves",
    "real to real",
    "Fréchet, over halves",
    "real to real",
    "difference",
    "farther?",
)


def page(embedding: Embedding, title: str, png: bytes) -> str:
    """The page, whole in one file: it loads nothing."""
    rows = "\n".join(_row(each) for each in embedding.comparisons)
    heads = "".join(f"<th>{each}</th>" for each in _HEADS)
    encoder = "".join(
        f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(brief(str(value), 300))}</td></tr>"
        for key, value in embedding.encoder.items()
    )
    real = embedding.real
    picture = base64.b64encode(png).decode("ascii")
    units = f"{len({each.unit for each in real})} slides" if embedding.unit == "slide" else "few or unknown slides"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>
<style>
body {{ font-family: sans-serif; margin: 2em auto; max-width: 90em; padding: 0 1em; color: #222; }}
img {{ width: 100%; }} table {{ border-collapse: collapse; margin: 1em 0; }}
th, td {{ border: 1px solid #bbb; padding: 0.3em 0.6em; text-align: left; vertical-align: top; }}
</style></head><body>
<h1>{html.escape(title)}</h1>
<img alt="Every image a point, by class share, origin, round and arm; distances beside them"
 src="data:image/png;base64,{picture}">
<h2>How far from {len(real)} real images of {units}</h2>
<table><tr>{heads}</tr>
{rows}
</table>
{_EXPLANATION}
<p>Drawn as a whole: <b>{embedding.unit}s</b>, with all images made of them.</p>
<h2>Encoder</h2>
<table>{encoder}</table>
<p>Seed {embedding.seed}; {html.escape(METHODS[embedding.projection])}; Stainloom {html.escape(embedding.version)}.
Distances between points of the picture mean little; the table is computed from all numbers of the encoder.
In-silico images are for training models, never for diagnosis.</p>
</body></html>
"""


_EXPLANATION = f"""<p>In brackets: where {LEVEL:.0%} lie. The kernel distance (KID) is unbiased, of pairs of different
slides alone, with an interval from {DRAWS} samples of slides drawn with replacement; of equal sets it is 0 on average,
and a set <em>differs</em> where the interval lies above 0. The others are over random halves of the real slides: images
made from one half against the real images of the other half, and, as the yardstick, the real images of both halves. The
Fréchet distance is biased upwards for few images, so compare it with its yardstick, of as many images, and with nothing
else. A set is <em>farther</em> where the difference lies above 0 in all but a few of the halves.</p>"""


def _row(each: Comparison) -> str:
    cells = [
        html.escape(brief(each.name)),
        str(each.images),
        f"{each.units} ({each.shared})",
        number(_thousandfold(each.kernel)),
        _VERDICTS[each.differs],
        number(_thousandfold(each.kernel_halves)),
        number(_thousandfold(each.kernel_real)),
        f"{number(each.frechet)}, {each.size} a side",
        number(each.frechet_real),
        number(each.frechet_excess),
        _VERDICTS[each.farther],
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
