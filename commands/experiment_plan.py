"""`segmentation experiment --plan`: how long all takes, from a training and images made and thrown away."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

from commands.dataset import Line
from commands.experiment_requests import ExperimentRequest
from commands.experiment_sets import Wanted, is_made, trial
from dataset.shares import Share
from evaluation.experiment.arms import METHOD_SETS, needed_first
from evaluation.experiment.runner import Bench, waiting

T = TypeVar("T")
FEW, MORE = 2, 12
"""Optimiser steps of the two timed trainings, whose difference tells what a step takes."""


def describe_costs(request: ExperimentRequest, bench: Bench, share: Share) -> Iterator[Any]:
    """Lines for a person: hours and gigabytes, of what is not there yet. Raises InputError."""
    left = list(waiting(bench.plan, bench.folder, bench.plan.runs))
    seconds = yield from _training_seconds(bench)
    hours = seconds * len(left) / 3600
    yield Line(f"trainings: {len(left)} are left, {seconds:.0f} s each, so {hours:.2f} h in one process")
    for name in needed_first(bench.plan.arms):
        sets = [Wanted(each, name) for each in bench.plan.subsets if each.share in bench.plan.expanded]
        todo = [each for each in sets if not is_made(bench, each)]
        images = sum(len(bench.training_images(each.subset)) for each in todo) * bench.plan.rounds
        if not todo or name not in METHOD_SETS:
            continue
        each_image, size = yield from _image_costs(request, bench, todo[0], share)
        hours += each_image * images / 3600
        yield Line(
            f"images:    {images} of {name}, {each_image:.1f} s each, so {each_image * images / 3600:.2f} h and "
            f"{size * images / 1e9:.3f} GB"
        )
    yield Line(f"together:  {hours:.2f} h in one process; start it more than once, or with --ray, to share it out")


def _training_seconds(bench: Bench) -> Generator[Any, None, float]:
    """Of one training with its validations and its judgement."""
    subset = min(bench.plan.subsets, key=lambda each: each.share)
    place = bench.folder.root / "work" / "trial"
    real, validation = bench.training_images(subset), bench.validation_images(subset)
    options = {**bench.plan.settings["training"], "seed": 0, "real_share": None}
    taken = []
    model = None
    for steps in (FEW, MORE):
        shutil.rmtree(place, ignore_errors=True)
        start = time.perf_counter()
        few = {**options, "steps": steps, "validate_every": steps}
        trained = yield from _quietly(bench.segmenter.train(real, [], validation, bench.classes, few, place))
        taken.append(time.perf_counter() - start)
        model = trained.model
    assert model is not None
    start = time.perf_counter()
    list(bench.segmenter.judge(model, bench.splits.test, bench.classes, options))
    judging = time.perf_counter() - start
    start = time.perf_counter()
    list(bench.segmenter.judge(model, validation, bench.classes, options))
    validating = time.perf_counter() - start
    shutil.rmtree(place, ignore_errors=True)
    step = max(0.0, (taken[1] - taken[0]) / (MORE - FEW))
    validations = math.ceil(options["steps"] / options["validate_every"])
    return taken[0] + step * (options["steps"] - FEW) + validating * (validations - 1) + judging


def _quietly(work: Generator[Any, None, T]) -> Generator[Any, None, T]:
    """The result of a training, of which nothing is shown."""
    from commands.experiment import Busy

    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value
        yield Busy()


def _image_costs(
    request: ExperimentRequest, bench: Bench, wanted: Wanted, share: Share
) -> Generator[Any, None, tuple[float, int]]:
    """Seconds and bytes of one image of a set. Its plan is made, and stays."""
    job = yield from _quietly(trial(request, bench, wanted, share))
    unit = job.plan.units[0]
    batch = unit.batches[0]
    start = time.perf_counter()
    size = job.maker("plan").trial(unit, batch)
    return (time.perf_counter() - start) / len(batch), size
