"""From pixels and label maps to `Origin` and `Structure`: encoded, inverted, and cached as far as a budget goes."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import StableDiffusion
from model.free_u import FreeU
from model.unet_blocks import Layer
from sampler.conditioned_unet import CFGDenoiser, TextConditionedUNet
from sampler.errors import NotFiniteError
from sampler.execution import Execution
from sampler.feature_cache import FeatureCache, feature_bytes, in_place
from sampler.features import Features, FeatureSchedule
from sampler.inputs import Noise, OriginImage, TransferInputs
from sampler.inversion import InversionPlan, LayerSchedule, Put, Trajectory, invert
from sampler.masks import latent_labels
from sampler.pairs import Origin, Structure
from sampler.schedule import Step, steps
from sampler.self_segmentation import (
    AttentionMap,
    Foreground,
    Image,
    clusters_of,
    label,
    map_layers,
    noun_positions,
    rows_of,
)
from sampler.settings import Settings


@dataclass(frozen=True)
class Pipeline:
    """What every image of a run shares: the networks under the run's texts, the schedule, how it is computed."""

    model: StableDiffusion
    settings: Settings
    execution: Execution
    schedule: Sequence[Step]
    text: TextConditionedUNet
    inverting: CFGDenoiser
    device: torch.device
    dtype: torch.dtype

    @staticmethod
    def of(model: StableDiffusion, settings: Settings, execution: Execution) -> Pipeline:
        """Text states, their keys and values and the time shifts of all steps are computed here, once."""
        parameter = next(model.unet.parameters())
        schedule = steps(settings.steps)
        if settings.inversion == "ddim":
            schedule = [step.deterministic() for step in schedule]
        free_u = FreeU() if settings.free_u else None
        text = under_text(model, settings.prompt, schedule, execution, free_u)
        plain = settings.inversion_guidance == 1.0
        empty = text if plain else under_text(model, "", schedule, execution, free_u)
        inverting = CFGDenoiser(text, empty, settings.inversion_guidance)
        return Pipeline(model, settings, execution, schedule, text, inverting, parameter.device, parameter.dtype)

    @property
    def exact(self) -> torch.dtype:
        """The type of latents, schedule and statistics."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def encode(self, image: Tensor) -> Tensor:
        """[1, 3, H, W] in [-1, 1] -> clean latents [4, h, w]."""
        latents = self.model.vae.encode(image.to(self.device, self.dtype), impl=self.execution.impl)
        return latents.to(self.exact)[0]

    def look(self, origin_labels: NDArray[np.int64] | None) -> LayerSchedule:
        """Where the maps are taken if self-segmentation is to find the foreground."""
        step = self.settings.segmentation_step
        return {} if step is None or origin_labels is not None else {step: map_layers(self.model.config.unet)}

    def foreground(self, trajectory: Trajectory, image: Image) -> Foreground | None:
        """The foreground of the ``image`` whose ``trajectory`` saw its maps; None where none were asked for.

        Raises NotFiniteError.
        """
        if not trajectory.seen:
            return None
        own, text = map_layers(self.model.config.unet)
        positions = noun_positions(self.model.tokenizer, self.settings)
        nouns = self._attention_map(text, trajectory).columns(positions)
        # Once its rows are there, nothing holds what the map was made of.
        clusters = clusters_of(rows_of(self._attention_map(own, trajectory)), image)
        height, width = trajectory.latents.shape[-2:]
        return label(clusters, nouns, (height, width))

    def _attention_map(self, layer: Layer, trajectory: Trajectory) -> AttentionMap:
        q, k = self.model.unet.queries_keys(layer, trajectory.seen[layer], self.text.conditioning)
        found = AttentionMap(q[0], k[0], self.exact)
        if not found.is_finite:
            raise NotFiniteError("denoising the images again", self.dtype)
        return found

    def labels(self, labels: NDArray[np.int64], num_classes: int) -> dict[int, Tensor]:
        """A label map [H, W] by level of the UNet: [h, w] at latent resolution and half of it."""
        factor, whole = self.model.config.vae.factor, torch.from_numpy(labels)
        return {level: latent_labels(whole, num_classes, factor * 2**level).to(self.device) for level in (0, 1)}

    def invert(self, plan: InversionPlan, clean: Tensor, noise: Tensor, put: Put) -> Generator[None, None, Trajectory]:
        """`sampler.inversion.invert` under the run's texts, with the ``noise`` as it was drawn."""
        drawn = noise.to(self.device, self.exact)
        batch = self.execution.batch
        return invert(plan, self.inverting, self.text, clean, drawn, self.schedule, batch=batch, put=put)


def under_text(
    model: StableDiffusion, prompt: str, schedule: Sequence[Step], execution: Execution, free_u: FreeU | None = None
) -> TextConditionedUNet:
    """The model's UNet under the text condition of ``prompt``, at the timesteps of ``schedule``."""
    parameter = next(model.unet.parameters())
    states = model.text_encoder(model.tokenizer([prompt]).to(parameter.device)).to(parameter.dtype)
    times = [step.t for step in schedule]
    return TextConditionedUNet.of(
        model.unet, states, times, free_u=free_u, impl=execution.impl, graphs=execution.graphs
    )


@dataclass(frozen=True)
class OriginPlan:
    """The network calls that an `Origin` takes: its inversion, and its features at the steps of ``cached``."""

    inversion: InversionPlan
    cached: FeatureSchedule

    @staticmethod
    def of(pipeline: Pipeline, clean: Tensor, origin: OriginImage, cache: FeatureCache, *, reused: bool) -> OriginPlan:
        """For ``clean`` latents [4, h, w]. Features are cached, as far as there is room, if the origin is ``reused``.

        What denoising again comes by costs nothing, so it is kept for a single use too.
        """
        settings, wanted = pipeline.settings, pipeline.settings.origin_features()
        passing = wanted if settings.redenoise else {}
        look = pipeline.look(origin.labels)
        inversion = InversionPlan.of(settings, noise_maps=settings.redenoise, capture=passing, look=look)
        if settings.redenoise or not reused:
            return OriginPlan(inversion, {})
        unet, positions = pipeline.model.config.unet, clean[0].numel()
        room = cache.room_for(feature_bytes(unet, positions, levels, pipeline.dtype) for levels in wanted.values())
        return OriginPlan(inversion, dict(list(wanted.items())[:room]))

    @property
    def calls(self) -> int:
        """How often `build_origin` yields."""
        return self.inversion.calls + len(self.cached)


def structure_plan(settings: Settings, look: LayerSchedule | None = None) -> InversionPlan:
    """The network calls that a `Structure` takes. Its own noise maps are left out where only fresh noise enters."""
    wanted = settings.redenoise or settings.fresh_noise < 1.0
    return InversionPlan.of(settings, noise_maps=wanted, capture=settings.structure_features(), look=look)


def build_origin(
    pipeline: Pipeline,
    plan: OriginPlan,
    clean: Tensor,
    origin: OriginImage,
    num_classes: int,
    noise: Tensor,
    cache: FeatureCache,
) -> Generator[None, None, Origin]:
    """Invert ``origin`` from its ``clean`` latents [4, h, w] with ``noise`` [T, 4, h, w].

    Yields after each network call.
    """
    given = np.zeros(origin.image.shape[:2], dtype=np.int64) if origin.labels is None else origin.labels
    labels = pipeline.labels(given, num_classes)
    trajectory = yield from pipeline.invert(plan.inversion, clean, noise, cache.put)
    cached = dict(trajectory.cached)
    features = Features(pipeline.text, trajectory.latents, pipeline.schedule, plan.cached, {}, pipeline.execution.batch)
    for i in plan.cached:
        entry = cache.put(features.at(i))
        if entry is None:  # another origin took the room, or the disk is full
            break
        cached[i] = entry
        yield
    return Origin(trajectory.latents, labels, cached, pipeline.foreground(trajectory, "origin"))


def build_structure(
    pipeline: Pipeline, clean: Tensor, inputs: TransferInputs, noise: Noise
) -> Generator[None, None, Structure]:
    """Invert the painted mask from its ``clean`` latents [4, h', w']; yields after each network call."""
    settings = pipeline.settings
    labels = pipeline.labels(inputs.target_labels, inputs.num_classes)
    plan = structure_plan(settings, pipeline.look(inputs.origin_labels))
    trajectory = yield from pipeline.invert(plan, clean, noise.structure, in_place)
    maps = trajectory.noise_maps
    if settings.inversion == "ddpm" and noise.fresh is not None:
        maps = mix_noise(maps, noise.fresh.to(pipeline.device, pipeline.exact), settings.fresh_noise)
    found = pipeline.foreground(trajectory, "structure")
    if found is not None:
        found = found.without(labels[0] == inputs.num_classes)
    return Structure(trajectory.latents, maps, labels, trajectory.cached, found)


def mix_noise(structure: Tensor | None, fresh: Tensor, share: float) -> Tensor:
    """``sqrt(1 - f)·w_structure + sqrt(f)·fresh`` (docs/method.md, step 5); ``structure`` None for a share of 1."""
    mixed = share**0.5 * fresh
    return mixed if structure is None else (1.0 - share) ** 0.5 * structure + mixed
