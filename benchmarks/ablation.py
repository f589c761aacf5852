"""What each exact saving brings: switched on one after the other, up to the product, in turns in one process.

    python -m benchmarks ablation                   on a GPU: the preset as it is, at 512 px
    python -m benchmarks ablation --dtype bf16      on a CPU: a shortened schedule (benchmarks/schedules.py), at 256 px

The savings are those of benchmarks/unsaved.py. Images must not change: the largest difference of the pixels from those
with nothing saved is a row's error.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial

import torch

from benchmarks.example import example_patches
from benchmarks.options import Setting, common_parser, prepare
from benchmarks.record import append, surroundings
from benchmarks.schedules import shortened
from benchmarks.turns import Outcome, Outputs, as_row, take_turns
from benchmarks.unsaved import NOTHING, Savings, cumulative, unsaved
from benchmarks.whole_jobs import add_size_and_steps, shape_of
from model import StableDiffusion
from sampler.inputs import TransferInputs
from sampler.series import GenerationTask, Result, generate_series
from sampler.settings import Settings

SEED = 0
PACKED = "weights in the processor's own layout"
PRODUCT = "timesteps in batches: the product"
WITH_GRAPHS = PRODUCT + ", with CUDA graphs"


def sides(setting: Setting, patch: TransferInputs, settings: Settings) -> dict[str, Callable[[], Outputs]]:
    """The calls by name, each giving pixels [H, W, 3] and latents [1, 4, h, w]."""
    execution = setting.execution

    def prefix(networks: StableDiffusion, savings: Savings) -> Outputs:
        result = unsaved(networks, patch, settings, seed=SEED, savings=savings, execution=execution)
        return torch.from_numpy(result.image), result.latents

    def product(networks: StableDiffusion) -> Outputs:
        *_, result = generate_series(networks, [GenerationTask(patch, SEED)], settings, execution)
        assert isinstance(result, Result)
        return torch.from_numpy(result.image), result.latents

    prefixes = {
        name: savings
        for name, savings in cumulative().items()
        # In PyTorch's own implementation norms and gates are what they were.
        if not (savings.fused and execution.elementwise == "torch")
    }
    calls: dict[str, Callable[[], Outputs]] = {
        name: partial(prefix, setting.model, savings) for name, savings in prefixes.items()
    }
    networks = setting.model
    if setting.device.type == "cpu":
        networks = replace(networks, unet=deepcopy(networks.unet), vae=deepcopy(networks.vae))
        networks.prepack()
        calls[PACKED] = partial(prefix, networks, list(prefixes.values())[-1])
    calls[WITH_GRAPHS if execution.graphs else PRODUCT] = partial(product, networks)
    return calls


def report(outcomes: Mapping[str, Outcome], seconds: Mapping[str, float]) -> None:
    """Print each side's time against the first, its memory and its differences."""
    width = max(map(len, outcomes))
    print(
        f"{'saved, one after another':<{width}}{'p50 s':>9}{'/ first':>9}{'extra MB':>10}{'levels':>8}{'latents':>10}"
    )
    for name, outcome in outcomes.items():
        extra = "" if outcome.peak is None else f"{outcome.peak.extra / 1e6:.0f}"
        relative = seconds[name] / seconds[NOTHING]
        pixels, latents = outcome.differences
        print(f"{name:<{width}}{seconds[name]:>9.2f}{relative:>9.3f}{extra:>10}{pixels:>8.0f}{latents:>10.1e}")


def main() -> int:
    """Run the comparison; 0 when every row was written."""
    cuda = torch.cuda.is_available()
    parser = common_parser("Switch on the exact savings one after the other.", rounds=3 if cuda else 1)
    add_size_and_steps(parser, cuda=cuda)
    arguments = parser.parse_args()
    settings = shortened(arguments.steps)
    (patch,) = example_patches(arguments.size, 1)
    setting = prepare(arguments, "ablation")
    outcomes = take_turns(sides(setting, patch, settings), setting.device, setting.rounds)
    shape = shape_of([patch], settings)
    around, seconds = surroundings(setting.device), {}
    for name, outcome in outcomes.items():
        row = as_row(
            "ablation", name, shape, setting.dtype, outcome, against=NOTHING, weight_bytes=setting.weight_bytes
        )
        append(setting.output, row, around)
        seconds[name] = row.p50
    report(outcomes, seconds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
