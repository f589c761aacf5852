"""The whole job, patch and label maps to pixels: ours beside the diffusers baseline, in turns in one process.

    python -m benchmarks job --steps 100                on a GPU: the preset as it is
    python -m benchmarks job                            on a CPU: a shortened schedule (benchmarks/inputs.py)
    python -m benchmarks job --targets 4                several targets of one origin

Times and memory of both sides include all that the job does once the weights are loaded, text and VAE included. The
baseline makes several targets one after another.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.diffusers_baseline import Baseline, forwards
from benchmarks.inputs import SEED, example_patches, make_images, shape_of, shortened, stacked
from benchmarks.options import Setting, cuda, job_parser, prepare
from benchmarks.timing import Outputs, Phases, Sides
from sampler.inputs import TransferInputs
from sampler.series import Result
from sampler.settings import Settings

OURS, BASELINE, OPTIMISED = "ours", "diffusers", "diffusers optimised"
WITH_GRAPHS = "ours, with CUDA graphs"


def baseline_images(
    baseline: Baseline, patches: Sequence[TransferInputs], settings: Settings, phases: Phases
) -> Outputs:
    """The baseline's latents and pixels as `make_images` gives them, one job after another."""
    results = []
    for patch in patches:
        for event in baseline.phases(patch, settings, SEED):
            if isinstance(event, str):
                phases.finished(event)
            else:
                results.append(Result(event[1], event[0]))
                phases.image()
    return stacked(results)


def sides_of(
    setting: Setting, names: Sequence[str], patches: Sequence[TransferInputs], settings: Settings
) -> tuple[Sides, dict[str, Phases]]:
    """The calls by name, and a dictionary that holds the phases of each side's last call."""
    last: dict[str, Phases] = {}

    def call(name: str, images: Callable[[Phases], Outputs]) -> Outputs:
        last[name] = Phases(setting.device)
        return images(last[name])

    sides: Sides = {}
    for name in names:
        if name in (OURS, WITH_GRAPHS):
            images = partial(make_images, setting.model, setting.execution, patches, settings)
        else:
            optimised = name == OPTIMISED
            baseline = Baseline.from_ours(setting.model, optimised=optimised, compile=optimised and cuda())
            images = partial(baseline_images, baseline, patches, settings)
        sides[name] = partial(call, name, images)
    return sides, last


def main() -> int:
    """Run the comparison; 0 when every row was written."""
    parser = job_parser("Time whole jobs, ours beside the diffusers baseline.", rounds=5 if cuda() else 1, size=512)
    parser.add_argument("--targets", type=int, default=1, help="of the one origin (default: %(default)s)")
    parser.add_argument("--warm-ups", type=int, default=1, help="calls of each side beforehand (default: %(default)s)")
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=(OURS, BASELINE, OPTIMISED),
        default=[OURS, BASELINE, OPTIMISED] if cuda() else [OURS, BASELINE],
        help="what is compared, with the first of them (default here: %(default)s)",
    )
    arguments = parser.parse_args()
    settings = shortened(arguments.steps)
    patches = example_patches(arguments.size, arguments.targets)
    setting = prepare(arguments, "job")
    print(f"{settings.num_denoising_steps} steps executed; diffusers: {forwards(settings)} UNet forwards an image")
    names = [WITH_GRAPHS if name == OURS and arguments.graphs else name for name in arguments.sides]
    sides, phases = sides_of(setting, names, patches, settings)
    setting.model.prepack()
    shape = shape_of(patches, settings)
    rows, outcomes = setting.compare("job", sides, shape, against=names[0], warm_ups=arguments.warm_ups)
    # Images of a batch are done at once.
    at_once = {OURS, WITH_GRAPHS} if setting.execution.batch > 1 else set()
    setting.recorder.add(
        [
            replace(row, parts=last.seconds, marginal=None if row.impl in at_once else last.marginal)
            for row in rows
            for last in [phases[row.impl]]
        ]
    )
    expected_latents, expected_pixels = outcomes[names[0]].outputs
    for name in names[1:]:
        latents, pixels = outcomes[name].outputs
        error = float((latents - expected_latents).norm() / expected_latents.norm())
        levels = (pixels.double() - expected_pixels.double()).abs()
        pixel = f"{levels.mean():.2f} of 255 levels, at most {levels.max():.0f}"
        print(f"{name}: latents differ by {error:.2e}, pixels by {pixel}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
