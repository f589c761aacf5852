"""How far a dataset is, for a look from outside: read off its folder, without touching it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dataset.folder import Folder
from imaging.errors import InputError, brief
from imaging.rawfile import shown

SILENT = 600.0
"""Seconds after which a worker that has said nothing counts as gone; an image can take minutes."""


@dataclass(frozen=True)
class Status:
    """Counts of images; ``workers`` have a line each; ``seconds_left`` is None where no rate is known."""

    total: int
    done: int
    rejected: int
    failed: int
    workers: tuple[str, ...]
    seconds_left: float | None


def read_status(folder: Folder) -> Status:
    """Of the dataset in ``folder``. Raises InputError if there is none, or no plan yet."""
    folder.settings()
    plan = folder.plan()
    if plan is None:
        raise InputError(f"{shown(folder.root)}: its plan is not made yet; wait, or run the command again")
    done = folder.done()
    rejected = 0
    for item in plan.items:
        if item.id in done:
            row = folder.row(item)
            rejected += bool(row is not None and row.get("rejected"))
    left = sum(item.id not in done for item in plan.items)
    now, workers, rate = time.time(), [], 0.0
    for each in _heartbeats(folder):
        age = now - each["seen"]
        alive = age < SILENT and left > 0
        seconds = max(1.0, each["seen"] - each["started"])
        if alive:
            rate += each["done"] / seconds
        state = f"seen {_span(age)} ago" if alive else "ended"
        counts = f"{each['done']} made, {each['failed']} failed in {_span(seconds)}"
        workers.append(f"{brief(each['name'])} ({brief(each['engine'])}): {counts}, {state}")
    seconds_left = left / rate if rate > 0 else None
    return Status(
        len(plan.items), len(plan.items) - left, rejected, len(folder.failures()), tuple(workers), seconds_left
    )


def describe_status(status: Status) -> Iterator[str]:
    """Lines for a person."""
    yield f"{status.done} of {status.total} images done, {status.rejected} of them set aside, {status.failed} failed"
    yield from status.workers
    if status.done == status.total:
        yield "finished"
    elif status.seconds_left is None:
        yield "nobody has made an image lately: run the same command to go on"
    else:
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + status.seconds_left))
        yield f"finished in about {_span(status.seconds_left)}, at {when}"


def _heartbeats(folder: Folder) -> Iterator[dict[str, Any]]:
    for path in sorted((folder.work / "workers").glob("[!.]*.json")):
        with suppress(OSError, ValueError, TypeError, KeyError):
            found = json.loads(path.read_text(encoding="utf-8"))
            numbers = {name: float(found[name]) for name in ("seen", "started")}
            counts = {name: int(found[name]) for name in ("done", "failed")}
            yield {"name": str(found["name"]), "engine": str(found["engine"]), **numbers, **counts}


def _span(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
