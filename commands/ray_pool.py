"""Work shared out to Ray actors, one for each GPU or share of the cores. Nodes may come and go."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from imaging.errors import InputError
from imaging.rawfile import shown

MOST_TRIES = 3
"""How often a piece of work whose actor died is given to another one."""
POLL = 1.0


def share_out(
    ray: Any,
    worker: type,
    arguments: Sequence[Any],
    needs: dict[str, int],
    places: Sequence[int],
    give_up: Callable[[int, str], None],
) -> Iterator[None]:
    """Let actors ``worker(*arguments)`` do ``make(place)`` for all ``places``; yields every now and then.

    An actor that dies, with its node or alone, gives its place back; after `MOST_TRIES` there is ``give_up(place,
    reason)``. New nodes get actors as they come.

    Raises:
        InputError: a worker did.
    """
    waiting = deque(places)
    tries: dict[int, int] = {}
    actor_class = ray.remote(worker)
    running: dict[Any, tuple[Any, int]] = {}
    idle: list[Any] = []
    started = 0

    def give_back(place: int, reason: str) -> None:
        tries[place] = tries.get(place, 0) + 1
        if tries[place] < MOST_TRIES:
            waiting.append(place)
        else:
            give_up(place, " ".join(reason.split())[:300])

    while waiting or running:
        available = _room(ray, needs)
        while waiting and (idle or started < available):
            if not idle:
                idle.append(actor_class.options(**needs).remote(*arguments))
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
                give_back(place, str(error))
            except ray.exceptions.RayTaskError as error:
                idle.append(actor)
                if isinstance(error.cause, InputError):
                    raise InputError(str(error.cause)) from error
                give_back(place, str(error.cause))
        yield
        if not running:
            time.sleep(POLL)


def start(address: str) -> Any:
    """Ray, connected to a cluster or, with ``local``, to this machine alone. Raises InputError if it is not there."""
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


def share_of_cores(ray: Any, threads: int) -> tuple[int, int]:
    """The cores that a worker of so many ``threads`` takes, and how many such workers a node has room for."""
    cores = max((int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]), default=1)
    # Workers have as many threads as they are told, even where a node has fewer cores.
    share = max(1, min(threads, cores))
    return share, max(1, cores // share)


def absolute_weights(weights: str) -> str:
    """Weights that mean the same in an actor's own folder."""
    path = Path(weights).expanduser()
    return str(path.resolve()) if path.exists() else weights


def _room(ray: Any, needs: dict[str, int]) -> int:
    """How many actors the cluster's nodes, as they are now, have room for; one at least."""
    ((name, each),) = needs.items()
    total = ray.cluster_resources().get("GPU" if name == "num_gpus" else "CPU", 0)
    return max(1, int(total // each))
