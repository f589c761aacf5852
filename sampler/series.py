"""In-silico images, one or a series, from pixels and label maps to pixels (docs/method.md as a whole)."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Iterator, Sequence
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
from sampler.field_denoising import Field, FieldSteps, Reached, denoise_field
from sampler.inputs import FieldNoise, TransferInputs, draw_field_noise, draw_noise, to_pixels, to_unit_range
from sampler.pairs import Origin, Structure, TransferPair
from sampler.prepare import OriginPlan, Pipeline, build_origin, build_structure, structure_plan
from sampler.progress import Progress, Ticks
from sampler.self_segmentation import FoundMasks
from sampler.settings import Settings


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


@dataclass(frozen=True)
class GenerationTask:
    """One image of a series; ``reached`` is where an earlier run of the same ended, for a field in windows."""

    inputs: TransferInputs
    seed: int
    reached: Reached | None = None

    def origin_key(self, settings: Settings) -> Hashable:
        """Equal for tasks whose `Origin` is the same.

        A stochastic trajectory's noise is drawn after the structure image's, so it depends on the target's size.
        """
        inputs = self.inputs
        drawn = None if settings.inversion == "ddim" else (self.seed, inputs.target_labels.shape)
        return id(inputs.origin), id(inputs.origin_labels), drawn

    @property
    def structure_key(self) -> Hashable:
        """Equal for tasks whose `Structure` is the same: its noise is drawn after the origin's."""
        inputs = self.inputs
        return id(inputs.target_labels), self.seed, inputs.origin.shape, inputs.origin_labels is None

    @property
    def shapes(self) -> Hashable:
        """Equal for tasks that can share a batch."""
        inputs = self.inputs
        return inputs.origin.shape, inputs.target_labels.shape, inputs.num_classes, inputs.origin_labels is None


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
        shared = _Shared(pipeline, cache)
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


def plan_batches(tasks: Sequence[GenerationTask], settings: Settings, size: int) -> list[list[int]]:
    """Indices of ``tasks`` in batches of up to ``size``: of the same shapes, those of one origin next to each other."""
    order: dict[Hashable, dict[Hashable, list[int]]] = {}
    for index, task in enumerate(tasks):
        order.setdefault(task.shapes, {}).setdefault(task.origin_key(settings), []).append(index)
    batches = []
    for by_origin in order.values():
        indices = [index for members in by_origin.values() for index in members]
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    return batches


class _Shared:
    """The origins and structures that are there, by key, for all images that need them."""

    def __init__(self, pipeline: Pipeline, cache: FeatureCache) -> None:
        self._pipeline, self._cache, self._settings = pipeline, cache, pipeline.settings
        self._origins: dict[Hashable, Origin] = {}
        self._structures: dict[Hashable, Structure] = {}
        self._fields: dict[Hashable, Field] = {}

    def in_windows(self, task: GenerationTask) -> bool:
        """Whether the target of ``task`` is larger than a window."""
        return self._settings.window_for(task.inputs.target_labels.shape) is not None

    def field(self, task: GenerationTask) -> tuple[Origin, Field]:
        """Of a task in windows that `prepare` has seen."""
        return self._origins[task.origin_key(self._settings)], self._fields[task.structure_key]

    def pairs(self, tasks: Sequence[GenerationTask]) -> list[TransferPair]:
        """Of tasks that `prepare` has seen."""
        return [
            TransferPair(self._origins[task.origin_key(self._settings)], self._structures[task.structure_key])
            for task in tasks
        ]

    def prepare(self, members: Sequence[GenerationTask], later: Sequence[GenerationTask]) -> Iterator[Progress]:
        """Make what ``members`` need and what is not there yet, with a view to those that come ``later``."""
        pipeline, settings = self._pipeline, self._settings
        reused = {task.origin_key(settings) for task in later}
        origins = {key: task for task in members if (key := task.origin_key(settings)) not in self._origins}
        windows = self.in_windows(members[0])
        there = {**self._structures, **self._fields}
        structures = {key: task for task in members if (key := task.structure_key) not in there}
        config = pipeline.model.config.vae
        draw = draw_field_noise if windows else draw_noise
        noises = {
            id(task): draw(task.seed, task.inputs, settings, config.latent_channels, config.factor)
            for task in (*origins.values(), *structures.values())
        }
        images = {key: to_unit_range(task.inputs.origin) for key, task in origins.items()}
        known = {key: task.reached.tensors["clean"] for key, task in structures.items() if task.reached is not None}
        images |= {key: noises[id(task)].structure_image for key, task in structures.items() if key not in known}
        latents = {key: clean.to(pipeline.device, pipeline.exact) for key, clean in known.items()}
        for done, (key, image) in enumerate(images.items()):
            yield Progress("encode", done, len(images), len(members))
            latents[key] = pipeline.encode(image)
        yield Progress("encode", len(images), len(images), len(members))

        plans = {
            key: OriginPlan.of(pipeline, latents[key], task.inputs, self._cache, reused=key in reused)
            for key, task in origins.items()
        }
        inverted = {} if windows else structures
        total = sum(plan.calls for plan in plans.values()) + structure_plan(settings).calls * len(inverted)
        ticks = Ticks("invert", total, len(members))
        for key, task in origins.items():
            work = build_origin(pipeline, plans[key], latents[key], task.inputs, noises[id(task)].origin, self._cache)
            self._origins[key] = yield from ticks.during(work)
        for key, task in structures.items():
            noise = noises[id(task)]
            if isinstance(noise, FieldNoise):
                self._fields[key] = Field.of(pipeline, latents[key], task.inputs, noise)
                continue
            build = build_structure(pipeline, latents[key], task.inputs, noise)
            self._structures[key] = yield from ticks.during(build)

    def forget_all_but(self, later: Sequence[GenerationTask]) -> None:
        """Give up what none of the tasks ``later`` needs."""
        origins = {task.origin_key(self._settings) for task in later}
        for key in [key for key in self._origins if key not in origins]:
            self._cache.release(self._origins.pop(key).cached.values())
        structures = {task.structure_key for task in later}
        for there in (self._structures, self._fields):
            for key in [key for key in there if key not in structures]:
                del there[key]


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
    images = [image for pair in pairs for image in (pair.origin, pair.structure)]
    finite = [torch.stack([image.latents[-1].isfinite().all() for image in images]).all()]
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
    pipeline: Pipeline, members: Sequence[GenerationTask], indices: Sequence[int], shared: _Shared
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
        finite = [torch.stack([origin.latents[-1].isfinite().all(), field.clean.isfinite().all()]).all()]
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
    for row, index in enumerate(indices):
        latents = z[row : row + 1]
        image = decode(pipeline.model, latents, pipeline.execution.impl)
        yield Progress("decode", row + 1, len(indices), len(indices))
        yield Result(image, latents.float().cpu(), index, found[row])
