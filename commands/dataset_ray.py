"""`dataset --ray`: units shared out to Ray actors, one for each GPU or share of the cores. Nodes may come and go."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from commands.dataset_job import Job, open_job
from commands.requests import DatasetRequest
from dataset.plan import Unit
from dataset.shares import Share
from imaging.errors import InputError
from imaging.rawfile import shown
from sampler.ticks import result_of

MOST_TRIES = 3
"""How often a unit whose worker died is given to another one."""
POLL = 1.0


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

    An actor that dies, with its node or alone, gives its unit back; after `MOST_TRIES` the images that are still
    missing are recorded as failed. New nodes get actors as they come.

    Raises:
        InputError: Ray is not installed, or cannot be reached.
    """
    ray = _start(str(job.request.ray))
    everything = job.plan.units
    places = {unit.key: place for place, unit in enumerate(everything)}
    waiting = deque(places[unit.key] for unit in units)
    tries: dict[int, int] = {}
    cores = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
    # Workers have as many threads as the plan says, even where a node has fewer cores.
    share = max(1, min(job.request.threads, cores))
    needs = {"num_gpus": 1} if job.machine.device.type == "cuda" else {"num_cpus": share}
    device = "cuda" if job.machine.device.type == "cuda" else "cpu"
    request = _absolute(dataclasses.replace(job.request, device=device))
    actor_class = ray.remote(Worker)
    running: dict[Any, tuple[Any, int]] = {}
    idle: list[Any] = []
    started = 0
    while waiting or running:
        room = _room(ray, needs)
        while waiting and (idle or started < room):
            if not idle:
                idle.append(actor_class.options(**needs).remote(request, max(1, cores // share)))
                started += 1
            actor, place = idle.pop(), waiting.popleft()
            running[actor.make.remote(place)] = (actor, place)
        finished, _ = ray.wait(list(running), num_returns=1, timeout=POLL) if running else ([], [])
        for reference in finished:
            actor, place = running.pop(reference)
            try:
                ray.get(reference)
                idle.append(actor)
            except ray.exceptions.RayActorError as error:
                started -= 1
                _give_back(job, everything[place], place, tries, waiting, str(error))
            except ray.exceptions.RayTaskError as error:
                idle.append(actor)
                if isinstance(error.cause, InputError):
                    raise InputError(str(error.cause)) from error
                _give_back(job, everything[place], place, tries, waiting, str(error.cause))
        yield len(job.folder.done())
        if not running:
            time.sleep(POLL)
    ray.shutdown()


def _start(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise InputError("--ray: needs the package ray; pip install 'stainloom[ray]'") from error
    # Installed, actors find the program as this process does; in a clone they need its folder.
    clone = "" if __name__.startswith("stainloom.") else str(Path(__file__).resolve().parents[1])
    paths = os.pathsep.join(filter(None, (clone, os.environ.get("PYTHONPATH"))))
    try:
        ray.init(
            address=None if address == "local" else address,
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
            log_to_driver=False,
            include_dashboard=False if address == "local" else None,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = shown(" ".join(str(error).split()))
        raise InputError(f"--ray {shown(address)}: no cluster can be reached there ({reason})") from error
    return ray


def _room(ray: Any, needs: dict[str, int]) -> int:
    """How many actors the cluster's nodes, as they are now, have room for; one at least."""
    ((name, each),) = needs.items()
    total = ray.cluster_resources().get("GPU" if name == "num_gpus" else "CPU", 0)
    return max(1, int(total // each))


def _give_back(job: Job, unit: Unit, place: int, tries: dict[int, int], waiting: deque[int], reason: str) -> None:
    tries[place] = tries.get(place, 0) + 1
    if tries[place] < MOST_TRIES:
        waiting.append(place)
        return
    for item in unit.items:
        if not job.folder.is_done(item):
            job.folder.fail(item, f"its worker died {MOST_TRIES} times: {' '.join(reason.split())[:300]}")


def _absolute(request: DatasetRequest) -> DatasetRequest:
    """Paths that mean the same in an actor's own folder."""
    weights = (
        request.weights
        if not Path(request.weights).expanduser().exists()
        else str(Path(request.weights).expanduser().resolve())
    )
    return dataclasses.replace(
        request,
        input=None if request.input is None else request.input.resolve(),
        masks=None if request.masks is None else request.masks.resolve(),
        only=None if request.only is None else request.only.resolve(),
        output=request.output.resolve(),
        weights=weights,
    )
