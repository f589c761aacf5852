"""What each exact optimisation brings: switched on one after the other, up to the product, in turns in one process.

    python -m benchmarks ablation                   on a GPU: the preset as it is, at 512 px
    python -m benchmarks ablation --dtype bf16      on a CPU: a shortened schedule (benchmarks/inputs.py), at 256 px

The optimisations are those of benchmarks/optimizations.py. Images must not change: the largest difference of the pixels
from those of the reference, with none of them, is a row's error.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch

from benchmarks.inputs import SEED, example_patches, make_images, shape_of, shortened
from benchmarks.optimizations import NOTHING, Optimizations, cumulative, transfer_with
from benchmarks.options import Setting, cuda, job_parser, prepare
from benchmarks.timing import Outputs, Sides
from model import StableDiffusion
from sampler.inputs import TransferInputs
from sampler.settings import Settings

PACKED = "weights in the processor's own layout"
PRODUCT = "timesteps in batches: the product"
WITH_GRAPHS = PRODUCT + ", with CUDA graphs"


def sides_of(setting: Setting, patch: TransferInputs, settings: Settings) -> Sides:
    """The calls by name, each giving pixels [1, H, W, 3] and latents [1, 4, h, w]."""
    execution = setting.execution

    def reference(networks: StableDiffusion, optimizations: Optimizations) -> Outputs:
        result = transfer_with(optimizations, networks, patch, settings, seed=SEED, execution=execution)
        return torch.from_numpy(result.image)[None], result.latents

    def product(networks: StableDiffusion) -> Outputs:
        return make_images(networks, execution, [patch], settings)[::-1]

    # In PyTorch's own implementation norms and gates are what they were.
    fusible = execution.impl != "torch"
    prefixes = {name: each for name, each in cumulative().items() if fusible or not each.fused}
    sides: Sides = {name: partial(reference, setting.model, each) for name, each in prefixes.items()}
    networks = setting.model
    if setting.device.type == "cpu":
        networks = replace(networks, unet=deepcopy(networks.unet), vae=deepcopy(networks.vae))
        networks.prepack()
        sides[PACKED] = partial(reference, networks, list(prefixes.values())[-1])
    sides[WITH_GRAPHS if execution.graphs else PRODUCT] = partial(product, networks)
    return sides


def main() -> int:
    """Run the comparison; 0 when every row was written."""
    says = "Switch on the exact optimisations one after the other."
    parser = job_parser(says, rounds=3 if cuda() else 1, size=512 if cuda() else 256)
    arguments = parser.parse_args()
    settings = shortened(arguments.steps)
    (patch,) = example_patches(arguments.size, 1)
    setting = prepare(arguments, "ablation")
    sides, shape = sides_of(setting, patch, settings), shape_of([patch], settings)
    rows, outcomes = setting.compare("ablation", sides, shape, against=NOTHING)
    setting.recorder.add(rows)
    for name, outcome in outcomes.items():
        print(f"{name}: latents differ by at most {outcome.differences[1]:.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
