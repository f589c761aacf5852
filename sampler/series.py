"""In-silico images, one or a series, from patches and label maps to pixels (method.md as a whole)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from imaging.errors import InputError
from kernels import Implementation
from model import StableDiffusion
from model.host_memory import trim_heap
from sampler.denoise import Origin, Structure, TransferPair, transfer
from sampler.execution import Execution
from sampler.feature_cache import FeatureCache
from sampler.inputs import TransferInputs, draw_noise, to_pixels, to_unit_range
from sampler.prepare import Pipeline, build_origin, build_structure
from sampler.settings import Settings

Phase = Literal["encode", "invert", "denoise", "decode"]


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of a phase are finished, for ``images`` images at once."""

    phase: Phase
    done: int
    total: int
    images: int = 1


@dataclass(frozen=True)
class Result:
    """The new image, uint8 RGB [H', W', 3], and the latents it was decoded from, float32 [1, 4, h', w'].

    ``index`` is its place among the tasks of a series.
    """

    image: NDArray[np.uint8]
    latents: Tensor
    index: int = 0


@dataclass(frozen=True)
class GenerationTask:
    """One image of a series."""

    patch: TransferInputs
    seed: int

    def origin_key(self, settings: Settings) -> Hashable:
        """Equal for tasks whose `Origin` is the same.

        A stochastic trajectory's noise is drawn after the structure image's, so it depends on the target's size.
        """
        patch = self.patch
        drawn = None if settings.inversion == "ddim" else (self.seed, patch.target_labels.shape)
        return id(patch.origin), id(patch.origin_labels), drawn

    @property
    def structure_key(self) -> Hashable:
        """Equal for tasks whose `Structure` is the same: its noise is drawn after the origin's."""
        return id(self.patch.target_labels), self.seed, self.patch.origin_labels.shape

    @property
    def shapes(self) -> Hashable:
        """Equal for tasks that can share a batch."""
        return self.patch.origin_labels.shape, self.patch.target_labels.shape, self.patch.num_classes


def generate(
    model: StableDiffusion, patch: TransferInputs, settings: Settings, *, seed: int, impl: Implementation
) -> Iterator[Progress | Result]:
    """Run the method on one pair; yields `Progress` after each unit of work and one `Result` at the end.

    Networks run in their own type on their own device, latents in float32 (float64 for float64 networks).
    """
    return generate_series(model, [GenerationTask(patch, seed)], settings, Execution(impl=impl))


@torch.inference_mode()
def generate_series(
    model: StableDiffusion, tasks: Sequence[GenerationTask], settings: Settings, execution: Execution
) -> Iterator[Progress | Result]:
    """Run the method on all ``tasks``: one `Result` each, in the order in which they are done.

    Images that share the patch's arrays and the noise share the work: an origin is inverted once for all its targets,
    a mask once for all its origins. ``execution.batch`` images are denoised together; a result depends on its own task
    alone, to rounding.

    Raises:
        InputError: values are not finite from some step on.
    """
    run = Pipeline.of(model, settings, execution)
    with FeatureCache(execution.budget) as keeper:
        origins: dict[Hashable, Origin] = {}
        structures: dict[Hashable, Structure] = {}
        batches = plan_batches(tasks, settings, execution.batch)
        for number, batch in enumerate(batches):
            members = [tasks[index] for index in batch]
            later = [tasks[index] for other in batches[number + 1 :] for index in other]
            origins_later = Counter(task.origin_key(settings) for task in later)
            yield from _build(run, members, origins_later, origins, structures, keeper)
            pairs = [
                TransferPair(origins[task.origin_key(settings)], structures[task.structure_key]) for task in members
            ]
            z = yield from _denoise(run, members, pairs)
            # Decoding takes the most memory, so what no later image needs is given up before.
            del pairs
            for key in [key for key in origins if not origins_later[key]]:
                keeper.release(origins.pop(key).kept)
            wanted = {task.structure_key for task in later}
            for key in [key for key in structures if key not in wanted]:
                del structures[key]
            if run.device.type == "cpu":
                trim_heap()
            yield from _decode(run, z, batch)


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


def _build(
    run: Pipeline,
    members: Sequence[GenerationTask],
    later: Counter[Hashable],
    origins: dict[Hashable, Origin],
    structures: dict[Hashable, Structure],
    keeper: FeatureCache,
) -> Iterator[Progress]:
    """Fill in the origins and structures that ``members`` need and that are not there yet."""
    new_origins = {key: task for task in members if (key := task.origin_key(run.settings)) not in origins}
    new_structures = {key: task for task in members if (key := task.structure_key) not in structures}
    config = run.model.config.vae
    noises = {
        id(task): draw_noise(task.seed, task.patch, run.settings, config.latent_channels, config.factor)
        for task in (*new_origins.values(), *new_structures.values())
    }
    images = [to_unit_range(task.patch.origin) for task in new_origins.values()]
    images += [noises[id(task)].structure for task in new_structures.values()]
    clean: list[Tensor] = []
    for image in images:
        yield Progress("encode", len(clean), len(images), len(members))
        clean.append(run.encode(image))
    yield Progress("encode", len(clean), len(images), len(members))

    clean_origins, clean_structures = clean[: len(new_origins)], clean[len(new_origins) :]
    total = sum(
        run.origin_calls(keeper, latents, keep=later[key] > 0)
        for latents, key in zip(clean_origins, new_origins, strict=True)
    )
    total += run.structure_calls * len(new_structures)
    done = 0
    for latents, (key, task) in zip(clean_origins, new_origins.items(), strict=True):
        for origin in build_origin(run, latents, task.patch, noises[id(task)], keeper, keep=later[key] > 0):
            if origin is not None:
                origins[key] = origin
            done += origin is None
            yield Progress("invert", done, total, len(members))
    for latents, (key, task) in zip(clean_structures, new_structures.items(), strict=True):
        for structure in build_structure(run, latents, task.patch, noises[id(task)]):
            if structure is not None:
                structures[key] = structure
            done += structure is None
            yield Progress("invert", done, total, len(members))


def _denoise(
    run: Pipeline, members: Sequence[GenerationTask], pairs: Sequence[TransferPair]
) -> Generator[Progress, None, Tensor]:
    """The last latents of all ``members``, [B, 4, h', w']."""
    settings, execution = run.settings, run.execution
    total = settings.num_denoising_steps - settings.num_known_steps
    yield Progress("denoise", 0, total, len(members))
    num_classes = members[0].patch.num_classes
    z = pairs[0].structure.trajectory[-1:]
    # Read back together at the end: on a GPU each reading would wait for the step.
    branches = [branch for pair in pairs for branch in (pair.origin, pair.structure)]
    finite = [torch.stack([branch.trajectory[-1].isfinite().all() for branch in branches]).all()]
    steps = transfer(run.text, pairs, num_classes, settings, run.schedule, impl=execution.impl, batch=execution.batch)
    for done, step in enumerate(steps, start=1):
        z = step
        finite.append(z.isfinite().all())
        yield Progress("denoise", done, total, len(members))
    check_finite(finite, run.dtype)
    return z


def check_finite(finite: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Raise InputError for the first of ``finite`` that is false: after encoding, then after each denoising step."""
    fine: list[bool] = torch.stack(list(finite)).tolist()
    if not all(fine):
        step = fine.index(False)
        raise not_finite("encoding" if step == 0 else f"denoising step {step} of {len(fine) - 1}", dtype)


def not_finite(where: str, dtype: torch.dtype) -> InputError:
    """The error for numbers that left the range of ``dtype``, with what to try."""
    types = {torch.float16: "--dtype bf16 or fp32, ", torch.bfloat16: "--dtype fp32, "}
    return InputError(
        f"values are not finite from {where} on, and nothing was written: try {types.get(dtype, '')}"
        "other weights, or settings nearer to the preset's"
    )


def _decode(run: Pipeline, z: Tensor, indices: Sequence[int]) -> Iterator[Progress | Result]:
    """Images of latents [B, 4, h', w'], one after the other."""
    for row, index in enumerate(indices):
        latents = z[row : row + 1]
        decoded = run.model.vae.decode(latents.to(run.dtype), impl=run.execution.elementwise)
        if not bool(decoded.isfinite().all()):
            raise not_finite("decoding", run.dtype)
        image = to_pixels(decoded)
        yield Progress("decode", row + 1, len(indices), len(indices))
        yield Result(image, latents.float().cpu(), index)
