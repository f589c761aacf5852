"""The whole job, patch and label maps to pixels: ours beside the diffusers baseline, in turns in one process.

    python -m benchmarks job --steps 100                on a GPU: the preset as it is
    python -m benchmarks job                            on a CPU: a shortened schedule (benchmarks/schedules.py)
    python -m benchmarks job --targets 4                several targets of one origin

Times and memory of both sides include all that the job does once the weights are loaded, text and VAE included. The
baseline makes several targets one after another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks.diffusers_baseline import Baseline, forwards
from benchmarks.example import example_patches
from benchmarks.options import Setting, common_parser, prepare
from benchmarks.record import Row, append, surroundings
from benchmarks.schedules import shortened
from benchmarks.turns import Outcome, Outputs, Phases, as_row, take_turns
from model import StableDiffusion
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.series import GenerationTask, Result, generate_series
from sampler.settings import Settings

OURS, BASELINE, OPTIMISED = "ours", "diffusers", "diffusers optimised"
WITH_GRAPHS = "ours, with CUDA graphs"
SEED = 0


def ours_many(
    model: StableDiffusion, patches: Sequence[TransferInputs], settings: Settings, execution: Execution, phases: Phases
) -> list[Result]:
    """Our images, in the order of ``patches``, which share their origin."""
    results = []
    for event in generate_series(model, [GenerationTask(patch, SEED) for patch in patches], settings, execution):
        if isinstance(event, Result):
            results.append(event)
            phases.image()
        elif event.done == event.total:
            phases.finished(event.phase)
    return sorted(results, key=lambda result: result.index)


def baseline_many(
    baseline: Baseline, patches: Sequence[TransferInputs], settings: Settings, phases: Phases
) -> list[Result]:
    """The baseline's images, one job after another."""
    results = []
    for patch in patches:
        for event in baseline.phases(patch, settings, SEED):
            if isinstance(event, str):
                phases.finished(event)
            else:
                latents, image = event
                results.append(Result(image, latents))
                phases.image()
    return results


def compare(
    setting: Setting, names: Sequence[str], patches: Sequence[TransferInputs], settings: Settings, *, warm_ups: int
) -> tuple[dict[str, Outcome], dict[str, Phases]]:
    """Each side's outcome, with outputs latents [n, 4, h, w] and pixels [n, H, W, 3], and its last call's phases."""
    last: dict[str, Phases] = {}

    def side(name: str, many: Callable[[Phases], list[Result]]) -> Callable[[], Outputs]:
        def call() -> Outputs:
            last[name] = phases = Phases(setting.device)
            results = many(phases)
            pixels = torch.stack([torch.from_numpy(result.image) for result in results])
            return torch.cat([result.latents for result in results]), pixels

        return call

    cuda = setting.device.type == "cuda"
    sides = {}
    for name in names:
        if name in (OURS, WITH_GRAPHS):
            sides[name] = side(name, partial(ours_many, setting.model, patches, settings, setting.execution))
            continue
        optimised = name == OPTIMISED
        baseline = Baseline.from_ours(setting.model, optimised=optimised, compile=optimised and cuda)
        sides[name] = side(name, partial(baseline_many, baseline, patches, settings))
    setting.model.prepack()
    return take_turns(sides, setting.device, setting.rounds, warm_ups=warm_ups), last


def report(rows: Sequence[Row], outcomes: dict[str, Outcome], weights: int) -> None:
    """Print the rows, each against the first. ``weights`` are the networks' bytes, which every side needs."""
    first, *others = rows
    relative = f"/ {first.impl}"
    print(f"{'impl':<20}{'p50 s':>9}{relative:>9}{'of CPU':>9}{'extra MB':>10}{'with weights':>14}{relative:>9}")
    for row in rows:
        line = f"{row.impl:<20}{row.p50:>9.2f}{row.p50 / first.p50:>9.2f}{row.processor_p50:>9.2f}"
        if row.peak_bytes is not None and first.peak_bytes is not None:
            total, of_first = row.peak_bytes + weights, first.peak_bytes + weights
            line += f"{row.peak_bytes / 1e6:>10.0f}{total / 1e6:>14.0f}{total / of_first:>9.2f}"
        print(line)
        if row.parts is not None:
            print("   " + ", ".join(f"{phase} {taken:.2f} s" for phase, taken in row.parts.items()))
        if row.further is not None and first.further is not None:
            print(f"   each further target {row.further:.2f} s, {row.further / first.further:.2f} of the first side's")
    expected_latents, expected_pixels = outcomes[first.impl].outputs
    for row in others:
        latents, pixels = outcomes[row.impl].outputs
        error = float((latents - expected_latents).norm() / expected_latents.norm())
        levels = (pixels.double() - expected_pixels.double()).abs()
        pixel = f"{levels.mean():.2f} of 255 levels, at most {levels.max():.0f}"
        print(f"{row.impl}: latents differ by {error:.2e}, pixels by {pixel}")


def main() -> int:
    """Run the comparison; 0 when every row was written."""
    cuda = torch.cuda.is_available()
    parser = common_parser("Time whole jobs, ours beside the diffusers baseline.", rounds=5 if cuda else 1)
    parser.add_argument("--size", type=int, default=512, help="of the square images, px (default: %(default)s)")
    parser.add_argument(
        "--steps",
        type=int,
        default=100 if cuda else 10,
        help="of the preset's 100, everything else in it scaled alike (default here: %(default)s)",
    )
    parser.add_argument("--targets", type=int, default=1, help="of the one origin (default: %(default)s)")
    parser.add_argument("--warm-ups", type=int, default=1, help="calls of each side beforehand (default: %(default)s)")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=(OURS, BASELINE, OPTIMISED),
        default=[OURS, BASELINE, OPTIMISED] if cuda else [OURS, BASELINE],
        help="what is compared, with the first of them (default here: %(default)s)",
    )
    arguments = parser.parse_args()
    settings = shortened(arguments.steps)
    patches = example_patches(arguments.size, arguments.targets)
    setting = prepare(arguments, "job")
    print(
        f"{settings.steps} steps, {settings.num_denoising_steps} executed; "
        f"diffusers: {forwards(settings)} UNet forwards an image"
    )
    names = [WITH_GRAPHS if name == OURS and arguments.graphs else name for name in arguments.sides]
    outcomes, phases = compare(setting, names, patches, settings, warm_ups=arguments.warm_ups)
    shape = {
        "height": arguments.size,
        "width": arguments.size,
        "classes": patches[0].num_classes,
        "targets": len(patches),
        "steps": settings.steps,
        "executed": settings.num_denoising_steps,
    }
    rows = [
        as_row(
            "job",
            name,
            shape,
            setting.dtype,
            outcome,
            against=names[0],
            weight_bytes=setting.weight_bytes,
            parts=phases[name].seconds,
            # Images of a batch are done at once.
            further=None if name in (OURS, WITH_GRAPHS) and setting.execution.batch > 1 else phases[name].further,
        )
        for name, outcome in outcomes.items()
    ]
    around = surroundings(setting.device)
    for row in rows:
        append(setting.output, row, around)
    report(rows, outcomes, setting.weight_bytes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
