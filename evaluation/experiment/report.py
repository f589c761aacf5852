"""An experiment's results as files: tables, figures, and a report that opens offline."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.experiment.arms import KINDS
from evaluation.experiment.folder import PLAN
from evaluation.experiment.plan import Plan, described
from evaluation.experiment.runner import Bench
from evaluation.experiment.scores import rows_of
from evaluation.experiment.summary import (
    Difference,
    Results,
    Summary,
    more_text,
    saturation_text,
    verdict_text,
    worth_text,
)
from imaging.errors import InputError
from imaging.output import replacing, write_text

REPORT, VERDICT, RESULTS, DIFFERENCES, FIGURES = (
    *("report.html", "verdict.json", "results.csv", "differences.csv"),
    "figures",
)
EXTRA = "figures want matplotlib: pip install 'stainloom[evaluate]'"

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62em;margin:2em auto;padding:0 1em;color:#222}
h1,h2{line-height:1.2}table{border-collapse:collapse;font-size:13px;margin:1em 0}
th,td{border-bottom:1px solid #ddd;padding:.25em .6em;text-align:right}th:first-child,td:first-child{text-align:left}
.verdict{border-left:5px solid #d55e00;padding:.6em 1em;background:#faf6f2}figure{margin:1.5em 0}
figure img{max-width:100%}figcaption{font-size:13px;color:#555}tr.main{background:#faf6f2}code{font-size:13px}"""


def write_results(bench: Bench, results: Results, summary: Summary) -> Path:
    """Write everything; returns the report. Raises InputError if something cannot be written."""
    root, plan = bench.folder.root, bench.plan
    write_text(root / RESULTS, _csv(rows_of(results)))
    write_text(root / DIFFERENCES, _csv(_difference_rows(summary)))
    write_text(root / VERDICT, json.dumps(as_json(plan, summary), indent=1) + "\n")
    figures = _figures(plan, summary)
    for name, (_, (png, svg)) in figures.items():
        (root / FIGURES).mkdir(exist_ok=True)
        with replacing(root / FIGURES / f"{name}.png", root / FIGURES / f"{name}.svg") as partials:
            for partial, content in zip(partials, (png, svg), strict=True):
                partial.write_bytes(content)
    shown = {name: (caption, png) for name, (caption, (png, _)) in figures.items()}
    write_text(root / REPORT, page(plan, results, summary, shown))
    return root / REPORT


def _figures(plan: Plan, summary: Summary) -> dict[str, tuple[str, Any]]:
    if not summary.points:
        return {}
    try:
        from evaluation.experiment.figures import all_figures

        return all_figures(plan, summary)
    except ImportError as error:
        raise InputError(EXTRA) from error


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _difference_rows(summary: Summary) -> list[tuple[Any, ...]]:
    head = (
        "share",
        "first",
        "second",
        "difference",
        "low",
        "high",
        "verdict",
        "planned",
        "more_slides",
        "more_subsets",
    )
    return [
        head,
        *(
            (
                each.share,
                each.first.key,
                each.second.key,
                *(f"{value:.6f}" for value in (each.found.mean, each.found.low, each.found.high)),
                each.verdict.word,
                each.main,
                _blank(each.verdict.more_slides),
                _blank(each.verdict.more_subsets),
            )
            for each in summary.differences
        ),
    ]


def _blank(value: int | None) -> int | str:
    return "" if value is None else value


def as_json(plan: Plan, summary: Summary) -> dict[str, Any]:
    """The conclusions for other programs; what is beyond the curve is null."""
    main = summary.main
    return {
        "question": asdict(plan.question),
        "verdict": None if main is None else main.verdict.word,
        "difference": None if main is None else [main.found.mean, main.found.low, main.found.high],
        "later": plan.later,
        "missing": summary.missing,
        "points": [
            {
                "share": each.share,
                "arm": each.arm.key,
                "dice": [each.found.mean, each.found.low, each.found.high],
                "annotators": dict(zip(summary.annotators, each.annotators, strict=True)),
                "real": each.real,
                "total": each.total,
                "worth": None
                if each.worth is None
                else [_finite(value) for value in (each.worth.images, each.worth.low, each.worth.high)],
            }
            for each in summary.points
        ],
        "saturation": [
            {"share": share, "arm": kind, **asdict(each)} for (share, kind), each in summary.saturations.items()
        ],
        "lines": summary.lines,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def page(plan: Plan, results: Results, summary: Summary, figures: Mapping[str, tuple[str, bytes]]) -> str:
    """The report: one file that asks nothing of any other, or of the network. ``figures``: captions and PNG files."""
    main = summary.main
    verdict = "no verdict yet: trainings are missing." if main is None else verdict_text(plan, main)
    parts = [
        f"<h1>Do in-silico images help?</h1><p class='verdict'><b>{_text(verdict[0].upper() + verdict[1:])}</b></p>",
        _notes(plan, summary),
        *(_figure(*each) for each in figures.values()),
        "<h2>Differences</h2>",
        f"<p>Each is of trainings on the same subset with the same seed, judged on the same {summary.fields} images of "
        f"{summary.groups} slides or patients. Intervals of 95 %, from a bootstrap over choices of the subset, seeds "
        "and slides, stretched for few choices. Only the planned comparison (marked) is a test; the others are "
        "exploration, and of twenty such intervals one misses.</p>",
        _differences(plan, summary.differences),
        "<h2>Dice</h2>",
        _points(summary),
        "<h2>What was done</h2><ul>",
        *(f"<li>{_text(line)}</li>" for line in described(plan)),
        *(f"<li>{_text(arm.key)}: {_text(KINDS[arm.kind].words)}</li>" for arm in plan.arms),
        "</ul>",
        _settings(plan),
        f"<details><summary>All {len(results)} trainings</summary>{_runs(results)}</details>",
        f"<p>Files beside this one: <code>{PLAN}</code> (written before anything ran), <code>{RESULTS}</code> (every "
        f"training, image, annotator and class), <code>{DIFFERENCES}</code>, <code>{VERDICT}</code>, "
        f"<code>{FIGURES}/</code>. In-silico images are for training models, never for diagnosis.</p>",
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>Do in-silico images help?</title>"
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{_STYLE}</style></head><body>'
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _text(text: object) -> str:
    return html.escape(str(text))


def _notes(plan: Plan, summary: Summary) -> str:
    lines = [saturation_text(share, kind, each) for (share, kind), each in summary.saturations.items()]
    kind = plan.question.first.kind
    lines += [worth_text(each) for each in summary.points if each.worth is not None and each.arm.kind == kind]
    lines += [line for line in summary.lines if line.startswith(("noise:", "steps:", "missing:"))]
    if plan.later:
        lines.append(f"added after the plan was first written, so exploration: {', '.join(plan.later)}")
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _figure(caption: str, png: bytes) -> str:
    source = base64.b64encode(png).decode()
    return (
        f"<figure><img alt='{_text(caption)}' src='data:image/png;base64,{source}'>"
        f"<figcaption>{_text(caption)}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[object]]]) -> str:
    """Rows with a class each."""
    first = "".join(f"<th>{_text(each)}</th>" for each in head)
    body = "".join(
        f"<tr class='{name}'>" + "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>" for name, cells in rows
    )
    return f"<table><tr>{first}</tr>{body}</table>"


def _differences(plan: Plan, differences: Sequence[Difference]) -> str:
    rows = []
    for each in differences:
        small = f"below {plan.question.effect:g}" if each.verdict.small else each.verdict.word
        word = small if each.verdict.word == "cannot tell" else each.verdict.word
        more = "" if word != "cannot tell" else more_text(each.verdict, plan.question.effect)
        cells = (
            f"{each.first.key} − {each.second.key}{' (planned)' if each.main else ''}",
            f"{100 * each.share:g} %",
            *(f"{value:+.3f}" for value in (each.found.mean, each.found.low, each.found.high)),
            word,
            more,
        )
        rows.append(("main" if each.main else "", cells))
    return _table(("arms", "slides", "difference", "from", "to", "verdict", "what would tell"), rows)


def _points(summary: Summary) -> str:
    rows = []
    for each in sorted(summary.points, key=lambda each: (each.share, each.arm.kind != "real")):
        worth = "" if each.worth is None else _worth(each.worth.images, each.worth.low, each.worth.high)
        cells = (
            each.arm.key,
            f"{100 * each.share:g} %",
            f"{each.real:g}",
            f"{each.total - each.real:g}",
            f"{each.found.mean:.3f}",
            f"{max(0.0, each.found.low):.3f} to {min(1.0, each.found.high):.3f}",
            *(f"{value:.3f}" for value in each.annotators),
            worth,
        )
        rows.append(("", cells))
    names = [name or "annotator" for name in summary.annotators]
    return _table(("arm", "slides", "annotated", "further", "Dice", "interval", *names, "worth annotated"), rows)


def _worth(images: float, low: float, high: float) -> str:
    return f"{_number(images)} ({_number(low)} to {_number(high)})"


def _number(images: float) -> str:
    if math.isinf(images):
        return "beyond the curve"
    return "below it" if images == 0.0 else f"{images:.0f}"


def _settings(plan: Plan) -> str:
    rows: list[tuple[str, Sequence[object]]] = []
    for part in ("training", "method"):
        rows += [("", (f"{part}: {name}", value)) for name, value in (plan.settings.get(part) or {}).items()]
    rows += [("", (name, plan.settings[name])) for name in ("classes", "score", "seed", "keep", "version")]
    return f"<details><summary>Settings</summary>{_table(('setting', 'value'), rows)}</details>"


def _runs(results: Results) -> str:
    names = ("id", "arm", "share", "draw", "seed", "real", "synthetic", "steps", "validation", "seconds")
    return _table(names, [("", [results[run][name] for name in names]) for run in sorted(results)])
