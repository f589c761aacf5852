"""Variants of our own job, in turns in one process: optimisations switched on one by one, and growing inputs.

    python -m benchmarks ablation --dtype bf16
    python -m benchmarks scaling --weights demo/weights --sizes 256 512 --classes --targets 1 2 4

On a GPU the preset is as it is, at 512 px; on a CPU its schedule is shortened (benchmarks/inputs.py), at 256 px.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.inputs import SEED, SHORT, WINTER, example_patches, make_images, shape_of, with_classes
from benchmarks.optimizations import NOTHING, Optimizations, cumulative, transfer_with
from benchmarks.options import cuda, parser_of, prepare_model
from benchmarks.record import AXES
from benchmarks.timing import Call
from model import StableDiffusion
from sampler.inputs import TransferInputs

PACKED = "weights in the processor's own layout"
PRODUCT = "timesteps in batches: the product"
WITH_GRAPHS = PRODUCT + ", with CUDA graphs"
FINITE = "no difference: every latent is finite"


def ablation(arguments: Sequence[str]) -> int:
    """Add one row for each optimisation; a row's error is the pixels' largest difference from those without any."""
    options = _parser("ablation").parse_args(arguments)
    settings = WINTER if cuda() else SHORT
    (patch,) = example_patches(options.size, 1)
    setting, networks, execution = prepare_model(options)

    def pixels_of(networks: StableDiffusion, optimizations: Optimizations) -> Tensor:
        result = transfer_with(optimizations, networks, patch, settings, seed=SEED, execution=execution)
        return torch.from_numpy(result.image)[None]

    def product() -> Tensor:
        return make_images(networks, execution, [patch], settings)[1]

    # In PyTorch's own implementation norms and gates are what they were.
    prefixes = {name: each for name, each in cumulative().items() if execution.impl != "torch" or not each.fused}
    sides: dict[str, Call] = {name: partial(pixels_of, networks, each) for name, each in prefixes.items()}
    if setting.device.type == "cpu":
        networks = replace(networks, unet=deepcopy(networks.unet), vae=deepcopy(networks.vae))
        networks.prepack()
        sides[PACKED] = partial(pixels_of, networks, list(prefixes.values())[-1])
    sides[WITH_GRAPHS if execution.graphs else PRODUCT] = product
    rows, _ = setting.compare("ablation", sides, shape_of([patch], settings), against=NOTHING)
    setting.recorder.add(rows)
    return 0


def scaling(arguments: Sequence[str]) -> int:
    """Add the rows of each axis: its jobs are made in turns, all else being equal. One without values is left out."""
    parser = _parser("scaling")
    sizes, targets = ([256, 512, 768, 1024], [1, 2, 4, 8, 16]) if cuda() else ([256, 512], [1, 2, 4])
    for name, default in {"--sizes": sizes, "--classes": [2, 4, 8], "--targets": targets}.items():
        parser.add_argument(name, type=int, nargs="*", default=default, help="default here: %(default)s")
    options = parser.parse_args(arguments)
    settings = WINTER if cuda() else SHORT
    (one,) = example_patches(options.size, 1)
    jobs_by_axis = {
        "size": [example_patches(size, 1) for size in options.sizes],
        "classes": [[with_classes(one, count)] for count in options.classes],
        "targets": [example_patches(options.size, count) for count in options.targets],
    }
    setting, networks, execution = prepare_model(options)
    networks.prepack()
    impl = "ours, with CUDA graphs" if execution.graphs else "ours"

    def finite(patches: Sequence[TransferInputs]) -> Tensor:
        latents, _ = make_images(networks, execution, patches, settings)
        if not bool(latents.isfinite().all()):
            raise ArithmeticError("latents are not finite")
        return torch.zeros(1)

    for axis, jobs in jobs_by_axis.items():
        if not jobs:
            continue
        sides = {str(n): partial(finite, job) for n, job in enumerate(jobs)}
        rows, _ = setting.compare(AXES[axis].what, sides, {}, against=FINITE)
        shapes = [shape_of(job, settings) for job in jobs]
        setting.recorder.add([replace(row, impl=impl, shape=shape) for row, shape in zip(rows, shapes, strict=True)])
    return 0


def _parser(name: str) -> ArgumentParser:
    return parser_of(name, rounds=3 if cuda() else 1, size=512 if cuda() else 256)
