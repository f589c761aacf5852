"""In-silico images, one or a series, from pixels and label maps to pixels (docs/method.md as a whole)."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import Implementation
from model import StableDiffusion
from model.host_memory import trim_heap
from sampler.denoise import denoise
from sampler.errors import NotFiniteError
from sampler.execution import Execution
from sampler.feature_cache import FeatureCache
from sampler.field_denoising import FieldSteps, denoise_field
from sampler.inputs import TransferInputs, to_pixels
from sampler.pairs import TransferPair
from sampler.prepare import Pipeline
from sampler.progress import Progress
from sampler.self_segmentation import FoundMasks
from sampler.settings import Settings
from sampler.sharing import Shared
from sampler.tasks import GenerationTask, plan_batches


@dataclass(frozen=True)
class Result:
    """The new image, uint8 RGB [H', W', 3], and the latents it was decoded from, float32 [1, 4, h', w'].

    ``index`` is its place among the tasks of a series; ``found`` are the foregrounds that AdaIN went by, where the
    method found them itself.
    """

    image: NDArray[np.uint8]
    latents: Tensor
    index: int = 0
    found: FoundMasks | None = None


def generate(
    model: StableDiffusion, inputs: TransferInputs, settings: Settings, *, seed: int, impl: Implementation
) -> Iterator[Progress | Result]:
    """Run the method on one pair; yields `Progress` after each unit of work and one `Result` at the end.

    Networks run in their own type on their own device, latents in float32 (float64 for float64 networks).
    """
    return generate_series(model, [GenerationTask(inputs, seed)], settings, Execution(impl=impl))


def generate_series(
    model: StableDiffusion, tasks: Sequence[GenerationTask], settings: Settings, execution: Execution
) -> Iterator[Progress | Result]:
    """Run the method on all ``tasks``: one `Result` each, in the order in which they are done.

    Images that share the inputs' arrays and the noise share the work: an origin is inverted once for all its targets,
    a mask once for all its origins. ``execution.batch`` images are denoised together; a result depends on its own task
    alone, to rounding.

    Raises:
        NotFiniteError: values are not finite from some step on.
    """
    with torch.inference_mode():
        pipeline = Pipeline.of(model, settings, execution)
    yield from run_series(pipeline, tasks, plan_batches(tasks, settings, execution.batch))


@torch.inference_mode()
def run_series(
    pipeline: Pipeline, tasks: Sequence[GenerationTask], batches: Sequence[Sequence[int]]
) -> Iterator[Progress | Result]:
    """`generate_series` with a pipeline that several series share, and with given ``batches``: places among ``tasks``.

    Those of a batch must be of the same shapes.
    """
    with FeatureCache(pipeline.execution.budget) as cache:
        shared = Shared(pipeline, cache)
        for number, batch in enumerate(batches):
            members = [tasks[index] for index in batch]
            later = [tasks[index] for other in batches[number + 1 :] for index in other]
            yield from shared.prepare(members, later)
            found: list[FoundMasks | None] = [None] * len(members)
            if shared.in_windows(members[0]):
                z = yield from _denoise_fields(pipeline, members, batch, shared)
            else:
                pairs = shared.pairs(members)
                found = [pair.found for pair in pairs]
                z = yield from _denoise(pipeline, members, pairs)
            # Decoding takes the most memory, so what no later image needs is given up before.
            shared.forget_all_but(later)
            if pipeline.device.type == "cpu":
                trim_heap()
            yield from _decode(pipeline, z, batch, found)


def _denoise(
    pipeline: Pipeline, members: Sequence[GenerationTask], pairs: Sequence[TransferPair]
) -> Generator[Progress, None, Tensor]:
    """The last latents of all ``members``, [B, 4, h', w']."""
    settings, execution = pipeline.settings, pipeline.execution
    total = len(settings.computed_steps)
    yield Progress("denoise", 0, total, len(members))
    num_classes = members[0].inputs.num_classes
    z = pairs[0].structure.latents[-1:]
    # Read back together at the end: on a GPU each reading would wait for the step.
    clean = [latents for pair in pairs for latents in (pair.origin.latents_at(-1), pair.structure.latents[-1])]
    finite = [torch.stack([latents.isfinite().all() for latents in clean]).all()]
    steps = denoise(
        pipeline.text, pairs, num_classes, settings, pipeline.schedule, impl=execution.impl, batch=execution.batch
    )
    for done, step in enumerate(steps, start=1):
        z = step
        finite.append(z.isfinite().all())
        yield Progress("denoise", done, total, len(members))
    check_finite(finite, pipeline.dtype)
    return z


def _denoise_fields(
    pipeline: Pipeline, members: Sequence[GenerationTask], indices: Sequence[int], shared: Shared
) -> Generator[Progress, None, Tensor]:
    """As `_denoise`, for targets in windows, one after the other."""
    results: list[Tensor] = []
    for task, index in zip(members, indices, strict=True):
        origin, field = shared.field(task)
        groups = sum(1 for _ in field.layout.groups(pipeline.execution.batch))
        total, begun = groups * len(FieldSteps.of(pipeline.settings)), task.reached
        if begun is not None:
            begun = begun.on(pipeline.device, pipeline.exact)
        done = 0 if begun is None else groups * begun.done
        finite = [torch.stack([origin.latents_at(-1).isfinite().all(), field.clean.isfinite().all()]).all()]
        yield Progress("denoise", done, total, index=index)
        work = denoise_field(pipeline, origin, field, task.inputs.num_classes, begun)
        while True:
            try:
                reached = next(work)
            except StopIteration as end:
                results.append(end.value)
                break
            if reached is None:
                done += 1
            else:
                finite.append(torch.stack([each.isfinite().all() for each in reached.tensors.values()]).all())
                if pipeline.device.type == "cpu":  # where looking costs nothing, and steps take long
                    check_finite(finite, pipeline.dtype)
            yield Progress("denoise", done, total, index=index, reached=reached)
        check_finite(finite, pipeline.dtype)
    return torch.cat(results)


def check_finite(finite: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Raise NotFiniteError for the first of ``finite`` that is false: after encoding, then after each step."""
    fine: list[bool] = torch.stack(list(finite)).tolist()
    if not all(fine):
        step = fine.index(False)
        raise NotFiniteError("encoding" if step == 0 else f"denoising step {step} of {len(fine) - 1}", dtype)


def decode(model: StableDiffusion, latents: Tensor, impl: Implementation) -> NDArray[np.uint8]:
    """uint8 RGB [H, W, 3] of latents [1, 4, h, w]. Raises NotFiniteError."""
    dtype = next(model.vae.parameters()).dtype
    decoded = model.vae.decode(latents.to(dtype), impl=impl)
    if not bool(decoded.isfinite().all()):
        raise NotFiniteError("decoding", dtype)
    return to_pixels(decoded)


def _decode(
    pipeline: Pipeline, z: Tensor, indices: Sequence[int], found: Sequence[FoundMasks | None]
) -> Iterator[Progress | Result]:
    """Images of latents [B, 4, h', w'], one after the other."""
    yield Progress("decode", 0, len(indices), len(indices))
    for row, index in enumerate(indices):
        latents = z[row : row + 1]
        image = decode(pipeline.model, latents, pipeline.execution.impl)
        yield Progress("decode", row + 1, len(indices), len(indices))
        yield Result(image, latents.float().cpu(), index, found[row])
