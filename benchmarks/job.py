"""The whole job, patch and label maps to pixels: ours beside the diffusers baseline, in turns in one process.

    python -m benchmarks job                            on a GPU: the preset as it is; on a CPU: a shortened schedule
    python -m benchmarks job --targets 4                several targets of one origin

Times and memory of both sides include all that the job does once the weights are loaded, text and VAE included. The
baseline makes several targets one after another.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from benchmarks.diffusers_baseline import Baseline, forwards
from benchmarks.inputs import SEED, SHORT, WINTER, example_patches, make_images, shape_of, stacked
from benchmarks.options import cuda, parser_of, prepare_model
from benchmarks.timing import Call, Outputs
from sampler.inputs import TransferInputs
from sampler.series import Result
from sampler.settings import Settings

OURS, BASELINE, OPTIMISED = "ours", "diffusers", "diffusers optimised"
WITH_GRAPHS = "ours, with CUDA graphs"


def baseline_images(
    baseline: Baseline, patches: Sequence[TransferInputs], settings: Settings, done: Callable[[], None]
) -> Outputs:
    """The baseline's latents and pixels as `make_images` gives them, one job after another."""
    results = []
    for patch in patches:
        latents, pixels = baseline.run(patch, settings, SEED)
        results.append(Result(pixels, latents))
        done()
    return stacked(results)


def main(arguments: Sequence[str]) -> int:
    """Run the comparison; 0 when every row was written."""
    parser = parser_of("job", rounds=5 if cuda() else 1, size=512)
    parser.add_argument("--targets", type=int, default=1, help="of the one origin (default: %(default)s)")
    parser.add_argument("--warm-ups", type=int, default=1, help="calls of each side beforehand (default: %(default)s)")
    names = [OURS, BASELINE, OPTIMISED]
    says = "what is compared, with the first of them (default here: %(default)s)"
    parser.add_argument("--sides", nargs="+", choices=names, default=names if cuda() else names[:2], help=says)
    options = parser.parse_args(arguments)
    settings = WINTER if cuda() else SHORT
    patches = example_patches(options.size, options.targets)
    setting, model, execution = prepare_model(options)
    print(f"{settings.num_denoising_steps} steps executed; diffusers: {forwards(settings)} UNet forwards an image")

    ends: dict[str, list[float]] = {}  # when each image of a side's last call was done

    def call(name: str, images: Callable[[Callable[[], None]], Outputs]) -> Outputs:
        ends[name] = []
        return images(lambda: ends[name].append(time.perf_counter() if cuda() else time.process_time()))

    sides: dict[str, Call] = {}
    for name in options.sides:
        if name == OURS:
            name = WITH_GRAPHS if options.graphs else OURS
            images = partial(make_images, model, execution, patches, settings)
        else:
            optimised = name == OPTIMISED
            baseline = Baseline(model, optimised=optimised, compile=optimised and cuda())
            images = partial(baseline_images, baseline, patches, settings)
        sides[name] = partial(call, name, images)
    model.prepack()
    first, *others = sides
    shape = shape_of(patches, settings)
    rows, outputs = setting.compare("job", sides, shape, against=first, warm_ups=options.warm_ups)
    for number, row in enumerate(rows):
        times = ends[row.impl]
        # Images of a batch are done at once.
        at_once = row.impl in (OURS, WITH_GRAPHS) and execution.batch > 1
        if len(times) > 1 and not at_once:
            rows[number] = replace(row, marginal=(times[-1] - times[0]) / (len(times) - 1))
    setting.recorder.add(rows)
    expected_latents, expected_pixels = outputs[first]
    for name in others:
        latents, pixels = outputs[name]
        error = float((latents - expected_latents).norm() / expected_latents.norm())
        levels = (pixels.double() - expected_pixels.double()).abs()
        pixel = f"{levels.mean():.2f} of 255 levels, at most {levels.max():.0f}"
        print(f"{name}: latents differ by {error:.2e}, pixels by {pixel}")
    return 0
