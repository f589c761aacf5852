"""What images of a series share: origins and structures, each made once and given up when nothing needs it."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

from sampler.feature_cache import FeatureCache
from sampler.field_denoising import Field
from sampler.inputs import FieldNoise, draw_field_noise, draw_noise, to_unit_range
from sampler.pairs import JoinedOrigins, Origin, Structure, TransferPair
from sampler.prepare import OriginPlan, Pipeline, build_origin, build_structure, structure_plan
from sampler.progress import Progress, Ticks
from sampler.settings import Settings
from sampler.tasks import GenerationTask


class Shared:
    """The origins and structures that are there, by key, for all images that need them."""

    def __init__(self, pipeline: Pipeline, cache: FeatureCache) -> None:
        self._pipeline, self._cache, self._settings = pipeline, cache, pipeline.settings
        self._origins: dict[Hashable, Origin] = {}
        self._structures: dict[Hashable, Structure] = {}
        self._fields: dict[Hashable, Field] = {}

    def in_windows(self, task: GenerationTask) -> bool:
        """Whether the target of ``task`` is larger than a window."""
        return self._settings.window_for(task.inputs.target_labels.shape) is not None

    def field(self, task: GenerationTask) -> tuple[Origin | JoinedOrigins, Field]:
        """Of a task in windows that `prepare` has seen."""
        return self._origin(task.origin_keys(self._settings)), self._fields[task.structure_key]

    def pairs(self, tasks: Sequence[GenerationTask]) -> list[TransferPair]:
        """Of tasks that `prepare` has seen."""
        keys = [task.origin_keys(self._settings) for task in tasks]
        origins = {each: self._origin(each) for each in keys}
        return [
            TransferPair(origins[each], self._structures[task.structure_key])
            for each, task in zip(keys, tasks, strict=True)
        ]

    def _origin(self, keys: Sequence[Hashable]) -> Origin | JoinedOrigins:
        parts = tuple(self._origins[key] for key in keys)
        return parts[0] if len(parts) == 1 else JoinedOrigins(parts)

    def prepare(self, members: Sequence[GenerationTask], later: Sequence[GenerationTask]) -> Iterator[Progress]:
        """Make what ``members`` need and what is not there yet, with a view to those that come ``later``."""
        pipeline, settings = self._pipeline, self._settings
        reused = _origin_keys(later, settings)
        origins = {
            key: (task, number)
            for task in members
            for number, key in enumerate(task.origin_keys(settings))
            if key not in self._origins
        }
        windows = self.in_windows(members[0])
        there = {**self._structures, **self._fields}
        structures = {key: task for task in members if (key := task.structure_key) not in there}
        config = pipeline.model.config.vae
        draw = draw_field_noise if windows else draw_noise
        noises = {
            id(task): draw(task.seed, task.inputs, settings, config.latent_channels, config.factor)
            for task in (*(task for task, _ in origins.values()), *structures.values())
        }
        patches = {key: task.inputs.origins[number] for key, (task, number) in origins.items()}
        images = {key: to_unit_range(patch.image) for key, patch in patches.items()}
        known = {key: task.reached.tensors["clean"] for key, task in structures.items() if task.reached is not None}
        images |= {key: noises[id(task)].structure_image for key, task in structures.items() if key not in known}
        latents = {key: clean.to(pipeline.device, pipeline.exact) for key, clean in known.items()}
        for done, (key, image) in enumerate(images.items()):
            yield Progress("encode", done, len(images), len(members))
            latents[key] = pipeline.encode(image)
        yield Progress("encode", len(images), len(images), len(members))

        plans = {
            key: OriginPlan.of(pipeline, latents[key], patch, self._cache, reused=key in reused)
            for key, patch in patches.items()
        }
        inverted = {} if windows else structures
        total = sum(plan.calls for plan in plans.values()) + structure_plan(settings).calls * len(inverted)
        ticks = Ticks("invert", total, len(members))
        for key, (task, number) in origins.items():
            drawn, count = noises[id(task)].origins[number], task.inputs.num_classes
            work = build_origin(pipeline, plans[key], latents[key], patches[key], count, drawn, self._cache)
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
        origins = _origin_keys(later, self._settings)
        for key in [key for key in self._origins if key not in origins]:
            self._cache.release(self._origins.pop(key).cached.values())
        structures = {task.structure_key for task in later}
        for there in (self._structures, self._fields):
            for key in [key for key in there if key not in structures]:
                del there[key]


def _origin_keys(tasks: Sequence[GenerationTask], settings: Settings) -> set[Hashable]:
    return {key for task in tasks for key in task.origin_keys(settings)}
