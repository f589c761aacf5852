"""`segmentation experiment --ray`: trainings shared out to Ray actors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from commands import ray_pool
from commands.dataset import Line
from commands.experiment_requests import ExperimentRequest
from commands.loras import absolute as absolute_lora
from commands.machine import choose_device
from evaluation.experiment.plan import Run
from evaluation.experiment.runner import Bench, waiting
from evaluation.experiment.segmenter import Segmenter
from sampler.ticks import result_of


class Worker:
    """What runs as an actor: it looks at the experiment's images once, and does one training after the other."""

    def __init__(self, request: ExperimentRequest, segmenter: Segmenter) -> None:
        from commands.experiment_setup import open_bench

        self._bench = result_of(open_bench(request, segmenter))

    def make(self, place: int) -> None:
        """Do the training at ``place`` of the plan, unless others do."""
        from commands.experiment import train_one

        run = self._bench.plan.runs[place]
        with self._bench.folder.claimed(run.id) as mine:
            if mine and list(waiting(self._bench.plan, self._bench.folder, [run])):
                for _ in train_one(self._bench, run):
                    pass


def train_by_ray(request: ExperimentRequest, bench: Bench, runs: Sequence[Run]) -> Iterator[Any]:
    """Do the trainings ``runs``; yields a line when one is over. Raises InputError if Ray cannot be had."""
    if not runs:
        return
    ray = ray_pool.start(str(request.ray))
    everything = bench.plan.runs
    places = {run.id: place for place, run in enumerate(everything)}
    share, _ = ray_pool.share_of_cores(ray, request.threads)
    device = "cuda" if choose_device(request.device).type == "cuda" else "cpu"
    needs = {"num_gpus": 1} if device == "cuda" else {"num_cpus": share}
    arguments = (absolute(dataclasses.replace(request, device=device, ray=None)), bench.segmenter)

    def give_up(place: int, reason: str) -> None:
        bench.folder.fail(everything[place].id, f"its worker died {ray_pool.MOST_TRIES} times: {reason}")

    left = len(runs)
    for _ in ray_pool.share_out(ray, Worker, arguments, needs, [places[run.id] for run in runs], give_up):
        now = len(list(waiting(bench.plan, bench.folder, runs)))
        if now < left:
            left = now
            yield Line(f"{len(runs) - left}/{len(runs)} trainings of these are over")
    ray.shutdown()


def absolute(request: ExperimentRequest) -> ExperimentRequest:
    """Paths that mean the same in an actor's own folder."""
    return dataclasses.replace(
        request,
        input=None if request.input is None else request.input.resolve(),
        test=None if request.test is None else request.test.resolve(),
        output=request.output.resolve(),
        weights=ray_pool.absolute_weights(request.weights),
        lora=tuple(map(absolute_lora, request.lora)),
    )
