"""What an experiment shows, in numbers: curves, paired differences, what images are worth, the verdict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.experiment.arms import KINDS, METHOD_SETS, REAL, Arm
from evaluation.experiment.curve import Saturation, Worth, saturation, worth_with_interval
from evaluation.experiment.plan import Plan
from evaluation.experiment.runner import Bench
from evaluation.experiment.scores import Cell, Scores, annotator_means, by_field, gather
from evaluation.experiment.statistics import LEVEL, Interval, Resampling, Values, Verdict, interval, judge

Results = Mapping[str, Mapping[str, Any]]
CONTROLS = {"trust": "trust-random", "fidelity": "fidelity-random"}
NO_CONTROL = "copies"
QUICK = 1000


@dataclass(frozen=True)
class Point:
    """An arm on the subsets of one share: mean Dice with interval, each annotator's, images, and their worth."""

    share: float
    arm: Arm
    found: Interval
    annotators: tuple[float, ...]
    runs_deviation: float
    real: float
    total: float
    worth: Worth | None


@dataclass(frozen=True)
class Difference:
    """Two arms on the subsets of one share, training by training. ``main`` is the planned comparison."""

    share: float
    first: Arm
    second: Arm
    found: Interval
    verdict: Verdict
    main: bool


@dataclass(frozen=True)
class Summary:
    """All that is concluded. ``missing`` are the trainings that are not over; ``lines`` say the gist."""

    points: tuple[Point, ...]
    differences: tuple[Difference, ...]
    saturations: Mapping[tuple[float, str], Saturation]
    annotators: tuple[str, ...]
    fields: int
    groups: int
    steps: tuple[int, ...]
    missing: tuple[str, ...]
    lines: tuple[str, ...]

    def point(self, share: float, arm: Arm) -> Point | None:
        """The point of an arm on a share, if its trainings are over."""
        return next((each for each in self.points if (each.share, each.arm) == (share, arm)), None)

    @property
    def main(self) -> Difference | None:
        """The planned comparison, if its trainings are over."""
        return next((each for each in self.differences if each.main), None)


def results_of(bench: Bench) -> dict[str, dict[str, Any]]:
    """What every training that is over came to, by its id."""
    digest = bench.plan.digest()
    found = {run.id: bench.folder.score(run, digest) for run in bench.plan.runs}
    return {name: each for name, each in found.items() if each is not None}


def headroom(bench: Bench) -> Interval | None:
    """By how much the largest subset does better than the smallest expanded one, on annotated images alone.

    None if one of them is not trained yet, or there is but one share.
    """
    plan, scores = bench.plan, gather(bench.plan, results_of(bench), bench.plan.settings["score"])
    shares = sorted({each.share for each in plan.subsets})
    cells = [scores.cell(share, Arm(REAL, 0)) for share in (plan.question.share, shares[-1])]
    if plan.question.share == shares[-1] or cells[0] is None or cells[1] is None:
        return None
    resampling = _resampling(plan, scores, QUICK)
    return interval(_between(cells[0], cells[1]), scores.groups, resampling)


def _between(small: Cell, large: Cell) -> Values:
    """Differences [D, S, F] of two shares: each choice of the smaller one against its own larger one, or the whole."""
    return by_field(large) - by_field(small)


def _resampling(plan: Plan, scores: Scores, times: int) -> Resampling:
    draws = 1 + max(each.draw for each in plan.subsets)
    return Resampling.of(draws, plan.seeds, int(scores.groups.max()) + 1, times, plan.settings["seed"])


def summarise(bench: Bench, results: Results, times: int) -> Summary:
    """Of all that is over, with ``times`` resamplings. Raises InputError for a damaged score."""
    plan = bench.plan
    scores = gather(plan, results, plan.settings["score"])
    missing = tuple(run.id for run in plan.runs if run.id not in results)
    if not scores.cells:
        lines = ("no training is over yet",)
        return Summary((), (), {}, scores.annotators, 0, 0, (), missing, lines)
    resampling = _resampling(plan, scores, times)
    samples = {key: resampling.means(by_field(cell), scores.groups) for key, cell in scores.cells.items()}
    points = tuple(_points(plan, scores, resampling, samples))
    differences = tuple(_differences(plan, scores, resampling))
    saturations = dict(_saturations(plan, scores, samples))
    steps = tuple(sorted({step for cell in scores.cells.values() for step in cell.steps}))
    summary = Summary(
        points,
        differences,
        saturations,
        scores.annotators,
        len(scores.fields),
        int(scores.groups.max()) + 1,
        steps,
        missing,
        (),
    )
    return Summary(**{**vars(summary), "lines": tuple(gist(plan, summary))})


def _points(
    plan: Plan, scores: Scores, resampling: Resampling, samples: Mapping[tuple[float, Arm], Values]
) -> Sequence[Point]:
    real = [(share, arm) for share, arm in scores.cells if arm.kind == REAL]
    real.sort()
    counts = [scores.cells[key].real for key in real]
    means = [float(by_field(scores.cells[key]).mean()) for key in real]
    found = []
    for key, cell in scores.cells.items():
        share, arm = key
        worth = None
        if len(real) > 1 and arm.kind != REAL:
            curves = np.stack([samples[each] for each in real], axis=1)
            worth = worth_with_interval(counts, means, float(by_field(cell).mean()), curves, samples[key], LEVEL)
        by_run = by_field(cell).mean(axis=2)
        found.append(
            Point(
                share,
                arm,
                interval(by_field(cell), scores.groups, resampling),
                tuple(float(each) for each in annotator_means(cell)),
                float(by_run.std(ddof=1)) if by_run.size > 1 else 0.0,
                cell.real,
                cell.total,
                worth,
            )
        )
    return found


def _differences(plan: Plan, scores: Scores, resampling: Resampling) -> Sequence[Difference]:
    """The planned comparison first; then each arm against the annotated images, its control, copies and collages."""
    question = plan.question
    pairs = [(question.share, question.first, question.second)]
    for share in plan.expanded:
        for arm in plan.arms:
            others = [Arm(REAL, 0)]
            if arm.kind in CONTROLS:
                others += [Arm(CONTROLS[arm.kind], arm.rounds), Arm("winter", arm.rounds)]
            elif arm.source in METHOD_SETS:
                others += [Arm(kind, arm.rounds) for kind in ("copies", "collage", "alaluf") if kind != arm.kind]
            pairs += [(share, arm, other) for other in others if arm.kind != REAL and other in plan.arms]
    found = []
    for share, first, second in dict.fromkeys(pairs):
        one, other = scores.cell(share, first), scores.cell(share, second)
        if one is not None and other is not None:
            each = interval(by_field(one) - by_field(other), scores.groups, resampling)
            main = (share, first, second) == pairs[0]
            found.append(Difference(share, first, second, each, judge(each, question.effect), main))
    return found


def _saturations(
    plan: Plan, scores: Scores, samples: Mapping[tuple[float, Arm], Values]
) -> Sequence[tuple[tuple[float, str], Saturation]]:
    found = []
    for share in plan.expanded:
        for kind in (name for name, each in KINDS.items() if each.every_round):
            arms = [Arm(REAL, 0), *sorted((arm for arm in plan.arms if arm.kind == kind), key=lambda arm: arm.rounds)]
            cells = [scores.cell(share, arm) for arm in arms]
            if len(arms) < 3 or any(cell is None for cell in cells):
                continue
            means = [float(by_field(cell).mean()) for cell in cells if cell is not None]
            stacked = np.stack([samples[share, arm] for arm in arms], axis=1)
            found.append(((share, kind), saturation([arm.rounds for arm in arms], means, stacked, LEVEL)))
    return found


def gist(plan: Plan, summary: Summary) -> Sequence[str]:
    """The verdict and what belongs to it, in lines for a person."""
    question = plan.question
    lines = []
    main = summary.main
    if main is None:
        lines.append(
            f"verdict:   none yet: {question.first.key} or {question.second.key} is not trained on all subsets"
        )
    else:
        lines.append(f"verdict:   {verdict_text(plan, main)}")
    for (share, kind), each in summary.saturations.items():
        lines.append(f"rounds:    {saturation_text(share, kind, each)}")
    for point in summary.points:
        if point.worth is not None and point.arm == question.first and point.share == question.share:
            lines.append(f"worth:     {worth_text(point)}")
    floor = next(
        (
            each
            for each in summary.differences
            if each.first.kind == NO_CONTROL and each.second.kind == REAL and each.share == question.share
        ),
        None,
    )
    if floor is not None:
        by = _text(floor.found)
        lines.append(f"noise:     {floor.first.key} differ from the annotated images alone by {by} Dice")
    if len(summary.steps) > 1:
        lines.append(
            f"steps:     trainings took {summary.steps[0]} to {summary.steps[-1]} steps; differences may be of that"
        )
    if summary.missing:
        lines.append(f"missing:   {len(summary.missing)} trainings are not over")
    return lines


def verdict_text(plan: Plan, each: Difference) -> str:
    """A difference in plain words."""
    start = f"{each.first.key} {each.verdict.word} against {each.second.key} on {100 * each.share:g} % of the slides"
    if each.verdict.word == "cannot tell":
        start = f"cannot tell {each.first.key} from {each.second.key} on {100 * each.share:g} % of the slides"
    text = f"{start}: {_text(each.found)} Dice"
    if each.verdict.word != "cannot tell":
        return text
    effect = plan.question.effect
    if each.verdict.small:
        return f"{text}; a difference of {effect:g} or more is ruled out"
    return f"{text}. {more_text(each.verdict, effect)}"


def more_text(verdict: Verdict, effect: float) -> str:
    """What would tell."""
    aim = f"a difference of {effect:g} in 4 of 5 such experiments"
    if verdict.more_slides is not None:
        return f"{verdict.more_slides} more slides in the test set would tell {aim}"
    if verdict.more_subsets is not None:
        return (
            f"No number of test slides alone would tell {aim}; {verdict.more_subsets} more choices of the subset would"
        )
    return f"Neither more test slides alone nor more choices of the subset alone would tell {aim}; it takes both"


def saturation_text(share: float, kind: str, each: Saturation) -> str:
    """Where a curve stops rising, in words."""
    where = f"{kind} on {100 * share:g} % of the slides"
    spread = f"{each.low} to {each.high}"
    if each.round == 0:
        return f"{where}: no round is better than none, within one standard error of the best (interval {spread})"
    if not each.seen:
        return f"{where}: still rising at round {each.round}, the last one tried (interval {spread})"
    return f"{where}: saturates after round {each.round} (interval {spread})"


def worth_text(point: Point) -> str:
    """What further images are worth in annotated ones, in words."""
    assert point.worth is not None
    more = point.total - point.real
    made = f"{point.real:g} annotated images with {more:g} further ones ({point.arm.key})"
    each = point.worth
    interval_ = f"interval {_count(each.low)} to {_count(each.high)}"
    if math.isinf(each.images):
        return f"{made} do better than all that were annotated: beyond the curve ({interval_})"
    if each.images == 0.0:
        return f"{made} do worse than the fewest annotated ones alone ({interval_})"
    gained = each.images - point.real
    return f"{made} do as well as {each.images:.0f} annotated ones: worth {gained:+.0f} ({interval_})"


def _count(images: float) -> str:
    if math.isinf(images):
        return "beyond the curve"
    return "below it" if images == 0.0 else f"{images:.0f}"


def _text(found: Interval) -> str:
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"
