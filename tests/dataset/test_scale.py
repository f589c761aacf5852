"""A thousand images: the cost of planning, making and finishing grows as their number does, and memory does not."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.calibration import Calibration
from dataset.folder import Folder, Heartbeat
from dataset.inspection import inspect
from dataset.layouts import read_source
from dataset.making import Made, Maker, _Image
from dataset.plan import make_plan
from dataset.summary import finish
from tests.dataset.annotated import rows

EMPTY = Calibration(dict.fromkeys(("fidelity", "separation", "stain_distance", "copying"), ()), False)


@dataclass(frozen=True)
class StubMaker(Maker):
    """Its images are noise, at once."""

    def _series(self, unit, batches, inputs) -> Iterator[_Image]:
        for place in (place for batch in batches for place in batch):
            rng = np.random.default_rng(unit.items[place].seed)
            target = inputs.targets[place]
            yield _Image(unit.items[place], rng.integers(0, 256, (*target.shape, 3), dtype=np.uint8), target)


def patches(folder: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for index in range(count):
        labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((8, 8))).astype(np.uint8)
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / "images" / f"{index}.png")
        Image.fromarray(labels).save(folder / "masks" / f"{index}.png")


def run_all(folder: Path, count: int) -> tuple[float, int]:
    """Processor seconds for each image, and the peak of memory in bytes, of a whole dataset of ``count`` images."""
    patches(folder / "in", count)
    tracemalloc.start()
    start = time.process_time()
    work = inspect("in", read_source(folder / "in").pairs, (), None, None)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found = end.value
            break
    plan = make_plan(found, {}, rounds=1, variants=1, seed=0, batch=1)
    target = Folder(folder / "out")
    target.create()
    target.write_plan(plan)
    maker = StubMaker(None, plan, target, "0", 8, 0.0, 0.95, {}, Heartbeat(target, "test"))
    made = sum(isinstance(event, Made) for unit in plan.units for event in maker.make(unit))
    totals = finish(target, plan, EMPTY, 0.0)
    seconds = time.process_time() - start
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made == totals.kept == len(rows(target.root)) == count
    return seconds / count, peak


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_cost_is_linear_and_memory_flat(tmp_path, count) -> None:
    run_all(tmp_path / "warm", 5)
    few_seconds, few_bytes = run_all(tmp_path / "few", 30)  # a whole contact sheet
    many_seconds, many_bytes = run_all(tmp_path / "many", count)
    grown = (many_bytes - few_bytes) / (count - 30)
    print(f"an image of {count} costs {many_seconds / few_seconds:.2f} times one of 30, and {grown:.0f} B at the peak")
    assert many_seconds < 1.5 * few_seconds
    # What is kept of each image: its place in the plan, digests and measures, in text and as objects.
    assert grown < 24_000
