"""`segmentation experiment`: do in-silico images help? One command from annotated images to a report, resumable.

First the trainings on annotated images alone, which show whether there is anything to gain; then the further images;
then all other trainings. Several processes share all of it by locks: whoever is free takes what nobody has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from commands.dataset import Incomplete, Line
from commands.experiment_requests import ExperimentRequest
from commands.experiment_sets import Wanted, is_free, is_made, make_set
from commands.experiment_setup import open_bench
from commands.machine import choose_device
from commands.notes import Note
from dataset.making import Failed
from dataset.shares import Share, share_of
from evaluation.experiment.arms import REAL, needed_first
from evaluation.experiment.plan import Run, described
from evaluation.experiment.report import write_results
from evaluation.experiment.runner import Bench, train, waiting
from evaluation.experiment.segmenter import Segmenter, Stepped
from evaluation.experiment.summary import headroom, results_of, summarise
from evaluation.extra import missing_extra
from imaging.errors import InputError
from sampler.errors import NotFiniteError
from sampler.option import check_options
from sampler.progress import Progress

POLL = 2.0


@dataclass(frozen=True)
class Busy:
    """Nothing to show: a step of a training, or others work on all that is left."""


@dataclass(frozen=True)
class Unfinished:
    """The command is over, and so many trainings are not."""

    trainings: int


Event = Any
"""What `dataset` yields, `Busy` and `Unfinished`."""


def run(request: ExperimentRequest, segmenter: Segmenter | None = None) -> Iterator[Event]:
    """Do what was asked. Raises InputError, SettingError or CheckpointError for bad input, before anything is made."""
    check_options(request)
    if request.plan and request.report:
        raise InputError("--plan and --report are things of their own: give one of them")
    share = share_of(request.shard)
    if request.ray is not None and (request.shard is not None or share.count > 1):
        raise InputError("--ray: shares the work out by itself; leave out --shard and torchrun")
    if choose_device(request.device).type == "cpu":
        torch.set_num_threads(request.threads)
    bench = yield from open_bench(request, segmenter if segmenter is not None else standard_segmenter(request))
    yield from (Line(text) for text in described(bench.plan))
    if request.plan:
        from commands.experiment_plan import describe_costs

        yield from describe_costs(request, bench, share)
        return
    if not request.report:
        yield from _everything(request, bench, share)
    yield from _report(request, bench)


def standard_segmenter(request: ExperimentRequest) -> Segmenter:
    """That of `segmentation train`. Raises InputError if the extra is not installed."""
    try:
        from evaluation.experiment.standard import Standard
    except (ImportError, OSError, RuntimeError) as error:
        raise missing_extra(error) from error
    return Standard(request.device, request.workers)


def _everything(request: ExperimentRequest, bench: Bench, share: Share) -> Iterator[Event]:
    runs = bench.plan.runs
    real = [each for each in runs if each.arm.kind == REAL]
    yield from _train_all(request, bench, real, share)
    gap = headroom(bench)
    if gap is not None:
        spread = f"{gap.low:+.3f} to {gap.high:+.3f}"
        yield Line(f"headroom:  {gap.mean:+.3f} Dice from the smallest to the largest subset ({spread})")
        if gap.mean < request.headroom and not request.any_headroom:
            raise InputError(
                f"annotating all would gain {gap.mean:+.3f} Dice, less than `headroom` {request.headroom:g}: there is "
                "nothing to show; give fewer images a slide, a harder task, more `steps`, or go on with `any_headroom`"
            )
    elif real and len({each.share for each in real}) > 1:
        raise InputError("trainings on annotated images alone failed (see above); run the command again to try again")
    sets = [
        Wanted(subset, name)
        for name in needed_first(bench.plan.arms)
        for subset in bench.plan.subsets
        if subset.share in bench.plan.expanded
    ]
    yield from _make_all(request, bench, sets, share)
    yield from _train_all(request, bench, [each for each in runs if each.arm.kind != REAL], share)


def _train_all(request: ExperimentRequest, bench: Bench, runs: Sequence[Run], share: Share) -> Iterator[Event]:
    failed: set[str] = set()
    if request.ray is not None:
        from commands.experiment_ray import train_by_ray

        yield from train_by_ray(request, bench, list(waiting(bench.plan, bench.folder, runs)))
        return

    def one(each: Run) -> Iterator[Event]:
        with bench.folder.claimed(each.id) as mine:
            if not mine or not list(waiting(bench.plan, bench.folder, [each])):
                return
            yield from train_one(bench, each)
            if each.id in bench.folder.failures():
                failed.add(each.id)

    def left() -> list[Run]:
        return [each for each in waiting(bench.plan, bench.folder, runs) if each.id not in failed]

    yield from _shared(left, one, share)


def train_one(bench: Bench, each: Run) -> Iterator[Event]:
    """One training; what goes wrong with it alone is recorded, and the others go on."""
    try:
        work = train(bench, each)
        while True:
            try:
                event = next(work)
            except StopIteration as end:
                score = end.value
                break
            yield Progress("train", event.done, event.total) if isinstance(event, Stepped) else Busy()
    except (InputError, NotFiniteError, MemoryError, RuntimeError) as error:
        if isinstance(error, InputError) and each.arm.kind == REAL:
            raise  # of annotated images alone, so it would be the same everywhere
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        bench.folder.fail(each.id, reason)
        yield Note(f"{each.id} failed: {reason}")
        return
    done = len(results_of(bench))
    yield Line(
        f"{done}/{len(bench.plan.runs)} {each.id}: validation Dice {score['validation']:.3f}, {score['steps']} steps, "
        f"{score['seconds']:.0f} s"
    )


def _make_all(request: ExperimentRequest, bench: Bench, sets: Sequence[Wanted], share: Share) -> Iterator[Event]:
    def one(each: Wanted) -> Iterator[Event]:
        if not is_free(bench, each):
            return
        for event in make_set(request, bench, each, share):
            # What a dataset says of itself stands in its folder.
            if not isinstance(event, Note | Line | Incomplete):
                yield event
            if isinstance(event, Failed):
                yield Note(f"{each.key}: an image could not be made ({event.reason}); the set is smaller by it")

    yield from _shared(lambda: [each for each in sets if not is_made(bench, each)], one, share)


def _shared(left: Callable[[], list[Any]], one: Callable[[Any], Iterator[Event]], share: Share) -> Iterator[Event]:
    """Do ``one`` with each that is ``left``, one's own share first, until nothing is left; others may do the same."""
    while todo := left():
        own = todo[share.index :: share.count]
        count = len(todo)
        for each in (*own, *(each for each in todo if each not in own)):
            yield from one(each)
        if len(left()) == count:
            time.sleep(POLL)
            yield Busy()


def _report(request: ExperimentRequest, bench: Bench) -> Iterator[Event]:
    failures = bench.folder.failures()
    with bench.folder.locked("report"):
        results = results_of(bench)
        summary = summarise(bench, results, request.bootstrap)
        report: Path = write_results(bench, results, summary)
    yield from (Line(text) for text in summary.lines)
    yield Line(f"report:    {report}")
    left = len(bench.plan.runs) - len(results)
    if failures or (left and not request.report):
        if failures:
            yield Note(f"{len(failures)} could not be made: {bench.folder.root}/work/failed says why; run it again")
        yield Unfinished(left)
