"""How the product's cost grows with the image's size, the number of classes and the number of targets of one origin.

    python -m benchmarks scaling                            on a GPU: the preset as it is
    python -m benchmarks scaling --weights demo/weights     on a CPU: a shortened schedule, fewer values at fewer pixels

Each list of values is an axis of its own: its jobs are made in turns in one process, all else being equal (``--size``
is that of the other two axes). An axis with an empty list is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from benchmarks.inputs import example_patches, make_images, shape_of, shortened, with_classes
from benchmarks.options import Setting, cuda, job_parser, prepare
from benchmarks.runs import AXES
from benchmarks.timing import Outputs, Sides
from sampler.inputs import TransferInputs
from sampler.settings import Settings

FINITE = "no difference: every latent is finite"


def finite(setting: Setting, patches: Sequence[TransferInputs], settings: Settings) -> Outputs:
    """Make all images. Raises ArithmeticError if a latent of any is not finite."""
    latents, _ = make_images(setting.model, setting.execution, patches, settings)
    if not bool(latents.isfinite().all()):
        raise ArithmeticError("latents are not finite")
    return (torch.zeros(1),)


def main() -> int:
    """Run all axes; 0 when every row was written."""
    says = "How our times grow with size, classes and targets."
    parser = job_parser(says, rounds=3 if cuda() else 1, size=512 if cuda() else 256)
    lists = {
        "sizes": ([256, 512, 768, 1024] if cuda() else [256, 512], "of the square images, px"),
        "classes": ([2, 4, 8], "multiples of the example's 2"),
        "targets": ([1, 2, 4, 8, 16] if cuda() else [1, 2, 4], "of one origin"),
    }
    for name, (default, says) in lists.items():
        shown = " ".join(map(str, default))
        parser.add_argument(f"--{name}", type=int, nargs="*", default=default, help=f"{says} (default here: {shown})")
    arguments = parser.parse_args()
    settings = shortened(arguments.steps)
    (one,) = example_patches(arguments.size, 1)
    jobs_by_axis = {
        "size": [example_patches(size, 1) for size in arguments.sizes],
        "classes": [[with_classes(one, count)] for count in arguments.classes],
        "targets": [example_patches(arguments.size, count) for count in arguments.targets],
    }
    setting = prepare(arguments, "scaling")
    setting.model.prepack()
    impl = "ours, with CUDA graphs" if setting.execution.graphs else "ours"
    for axis, jobs in jobs_by_axis.items():
        if not jobs:
            continue
        sides: Sides = {str(number): partial(finite, setting, patches, settings) for number, patches in enumerate(jobs)}
        rows, _ = setting.compare(AXES[axis].what, sides, {}, against=FINITE)
        shapes = [shape_of(patches, settings) for patches in jobs]
        setting.recorder.add([replace(row, impl=impl, shape=shape) for row, shape in zip(rows, shapes, strict=True)])
    return 0


if __name__ == "__main__":
    sys.exit(main())
