"""`dataset --ray`: units shared out to Ray actors, one for each GPU or share of the cores. Nodes may come and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from commands import ray_pool
from commands.dataset_job import Job, open_job
from commands.loras import absolute
from commands.requests import DatasetRequest
from dataset.plan import Unit
from dataset.shares import Share
from sampler.ticks import result_of


class Worker:
    """What runs as an actor: it loads everything once, and makes one unit after the other."""

    def __init__(self, request: DatasetRequest, neighbours: int) -> None:
        self._job = result_of(open_job(request, Share(neighbours=neighbours)))
        self._maker, self._units = self._job.maker("Ray"), self._job.plan.units

    def make(self, place: int) -> None:
        """Make the unit at ``place`` of the plan, unless others do."""
        with self._job.folder.claimed(self._units[place]) as mine:
            if mine:
                for _ in self._maker.make(self._units[place]):
                    pass


def make_by_ray(job: Job, units: Sequence[Unit]) -> Iterator[int]:
    """Make ``units``; yields how many images of the plan are done, every now and then.

    Images whose workers died again and again are recorded as failed.

    Raises:
        InputError: Ray is not installed, or cannot be reached.
    """
    ray = ray_pool.start(str(job.request.ray))
    everything = job.plan.units
    places = {unit.key: place for place, unit in enumerate(everything)}
    share, neighbours = ray_pool.share_of_cores(ray, job.request.threads)
    device = "cuda" if job.machine.device.type == "cuda" else "cpu"
    needs = {"num_gpus": 1} if device == "cuda" else {"num_cpus": share}
    request = _absolute(dataclasses.replace(job.request, device=device))

    def give_up(place: int, reason: str) -> None:
        for item in everything[place].items:
            if not job.folder.is_done(item):
                job.folder.fail(item, f"its worker died {ray_pool.MOST_TRIES} times: {reason}")

    for _ in ray_pool.share_out(
        ray, Worker, (request, neighbours), needs, [places[unit.key] for unit in units], give_up
    ):
        yield len(job.folder.done())
    ray.shutdown()


def _absolute(request: DatasetRequest) -> DatasetRequest:
    """Paths that mean the same in an actor's own folder."""
    return dataclasses.replace(
        request,
        input=None if request.input is None else request.input.resolve(),
        masks=None if request.masks is None else request.masks.resolve(),
        only=None if request.only is None else request.only.resolve(),
        output=request.output.resolve(),
        weights=ray_pool.absolute_weights(request.weights),
        lora=tuple(map(absolute, request.lora)),
    )
