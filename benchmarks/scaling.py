"""How the product's cost grows with the image's size, the number of classes and the number of targets of one origin.

    python -m benchmarks scaling                            on a GPU: the preset as it is
    python -m benchmarks scaling --weights demo/weights     on a CPU: a shortened schedule, fewer values at fewer pixels

Each list of values is an axis of its own: its jobs are made in turns in one process, all else being equal (``--size``
is that of the other two axes). An axis with an empty list is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.example import MOST, example_patches
from benchmarks.options import Setting, common_parser, prepare
from benchmarks.record import Row, append, surroundings
from benchmarks.schedules import shortened
from benchmarks.turns import Outputs, as_row, take_turns
from benchmarks.whole_jobs import AXES, Axis, add_size_and_steps, shape_of
from sampler.inputs import TransferInputs
from sampler.series import GenerationTask, Result, generate_series
from sampler.settings import Settings

SEED = 0
FINITE = "no difference: every latent is finite"


def with_classes(patch: TransferInputs, count: int) -> TransferInputs:
    """``patch`` with every class cut into as many vertical stripes of equal width as make ``count`` classes.

    Raises ValueError unless ``count`` is a multiple of the patch's own number of classes.
    """
    stripes, rest = divmod(count, patch.num_classes)
    if rest or not stripes:
        raise ValueError(f"{count} classes: must be a multiple of the example's {patch.num_classes}")

    def cut(labels: NDArray[np.int64]) -> NDArray[np.int64]:
        width = labels.shape[1]
        return labels * stripes + np.arange(width) * stripes // width

    return replace(
        patch, origin_labels=cut(patch.origin_labels), target_labels=cut(patch.target_labels), num_classes=count
    )


def targets_of_one(size: int, count: int) -> list[TransferInputs]:
    """As `benchmarks.example.example_patches`, beyond its targets the same mirrored: up to twice as many.

    Raises ValueError as that does.
    """
    patches = example_patches(size, min(count, MOST))
    mirrored = example_patches(size, count - MOST) if count > MOST else []
    return patches + [
        replace(patches[0], target_labels=np.ascontiguousarray(patch.target_labels[:, ::-1])) for patch in mirrored
    ]


def make(setting: Setting, patches: Sequence[TransferInputs], settings: Settings) -> Outputs:
    """Make all images. Raises ArithmeticError if a latent of any is not finite."""
    tasks = [GenerationTask(patch, SEED) for patch in patches]
    for event in generate_series(setting.model, tasks, settings, setting.execution):
        if isinstance(event, Result) and not bool(event.latents.isfinite().all()):
            raise ArithmeticError(f"the latents of image {event.index} are not finite")
    return (torch.zeros(1),)


def measure(setting: Setting, axis: Axis, jobs: Sequence[Sequence[TransferInputs]], settings: Settings) -> list[Row]:
    """One row for each of ``jobs``, whose sizes, classes or numbers are the values of ``axis``."""
    sides: dict[str, Callable[[], Outputs]] = {
        str(number): partial(make, setting, patches, settings) for number, patches in enumerate(jobs)
    }
    outcomes = take_turns(sides, setting.device, setting.rounds)
    rows = []
    for patches, outcome in zip(jobs, outcomes.values(), strict=True):
        impl = "ours, with CUDA graphs" if setting.execution.graphs else "ours"
        rows.append(
            as_row(
                axis.what,
                impl,
                shape_of(patches, settings),
                setting.dtype,
                outcome,
                against=FINITE,
                weight_bytes=setting.weight_bytes,
            )
        )
    return rows


def main() -> int:
    """Run all axes; 0 when every row was written."""
    cuda = torch.cuda.is_available()
    parser = common_parser("How our times grow with size, classes and targets.", rounds=3 if cuda else 1)
    lists = {
        "sizes": ([256, 512, 768, 1024] if cuda else [256, 512], "of the square images, px"),
        "classes": ([2, 4, 8], "multiples of the example's 2"),
        "targets": ([1, 2, 4, 8, 16] if cuda else [1, 2, 4], "of one origin"),
    }
    for name, (default, says) in lists.items():
        shown = " ".join(map(str, default))
        parser.add_argument(f"--{name}", type=int, nargs="*", default=default, help=f"{says} (default here: {shown})")
    add_size_and_steps(parser, cuda=cuda)
    arguments = parser.parse_args()
    settings = shortened(arguments.steps)
    (one,) = example_patches(arguments.size, 1)
    jobs_by_axis: dict[str, list[list[TransferInputs]]] = {
        "size": [example_patches(size, 1) for size in arguments.sizes],
        "classes": [[with_classes(one, count)] for count in arguments.classes],
        "targets": [targets_of_one(arguments.size, count) for count in arguments.targets],
    }
    setting = prepare(arguments, "scaling")
    setting.model.prepack()
    around = surroundings(setting.device)
    print(f"{'axis':<10}{'value':>7}{'p50 s':>10}{'/ first':>9}{'extra MB':>10}")
    for name, jobs in jobs_by_axis.items():
        axis = AXES[name]
        rows = measure(setting, axis, jobs, settings) if jobs else []
        for row in rows:
            append(setting.output, row, around)
            extra = "" if row.peak_bytes is None else f"{row.peak_bytes / 1e6:.0f}"
            value, relative = row.shape[axis.entries[0]], row.p50 / rows[0].p50
            print(f"{name:<10}{value:>7}{row.p50:>10.2f}{relative:>9.2f}{extra:>10}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
