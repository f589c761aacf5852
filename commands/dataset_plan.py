"""`dataset --plan`: what would be made, how far targets are from origins, and how long and large it would be."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence

from commands.dataset_job import Job
from dataset.folder import PLAN


def describe_plan(job: Job) -> Iterator[str]:
    """Lines for a person. One batch is made and timed, and thrown away."""
    plan = job.plan
    origins = len({item.origin for item in plan.items})
    yield f"plan:      {len(plan.items)} images of {origins} origins, {plan.batch} at once, in {job.folder.root / PLAN}"
    yield f"classes:   {', '.join(plan.classes.names)}"
    for what in ("fraction_distance", "shape_distance"):
        yield f"{what.replace('_', ' ')}: {_spread([getattr(item, what) for item in plan.items])}"
    if all(job.folder.is_done(item) for item in plan.items):
        yield "nothing is left to make"
        return
    unit = plan.units[0]
    batch = unit.batches[0]
    start = time.perf_counter()
    size = job.maker("plan").trial(unit, batch)
    each = (time.perf_counter() - start) / len(batch)
    left = sum(not job.folder.is_done(item) for item in plan.items)
    hours, gigabytes = each * left / 3600, size * left / 1e9
    yield f"time:      {each:.1f} s an image on {job.machine.device}, so {hours:.2f} h for {left} at most"
    yield f"room:      {gigabytes:.3f} GB"


def _spread(values: Sequence[float]) -> str:
    return f"{min(values):.3f} lowest, {statistics.median(values):.3f} middle, {max(values):.3f} highest (0 to 1)"
