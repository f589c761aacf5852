"""From pixels and label maps to `Origin` and `Structure`: encoded, inverted, and kept as far as a budget goes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model import StableDiffusion
from model.free_u import FreeU
from sampler.conditioned_unet import CFGDenoiser, TextConditionedUNet
from sampler.cuda_graphs import call_eagerly, cuda_graphs
from sampler.denoise import Origin, Structure, lend, mix_noise
from sampler.execution import Execution
from sampler.feature_cache import CacheEntry, FeatureCache, lent_bytes
from sampler.inputs import Noise, TransferInputs
from sampler.inversion import FeatureSchedule, Inverter, Trajectory, keep_all
from sampler.masks import latent_labels
from sampler.schedule import Step, steps
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
        text = condition(model, settings.prompt, schedule, execution, free_u)
        plain = settings.inversion_guidance == 1.0
        empty = text if plain else condition(model, "", schedule, execution, free_u)
        inverting = CFGDenoiser(text, empty, settings.inversion_guidance)
        return Pipeline(model, settings, execution, schedule, text, inverting, parameter.device, parameter.dtype)

    @property
    def exact(self) -> torch.dtype:
        """The type of latents, schedule and statistics."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    @property
    def inverter(self) -> Inverter:
        """Inverts as the run's settings say."""
        return Inverter(self.inverting, self.text, self.settings, self.schedule, self.execution.batch)

    @property
    def stochastic(self) -> bool:
        """Whether steps take noise."""
        return self.settings.inversion == "ddpm"

    def encode(self, image: Tensor) -> Tensor:
        """[1, 3, H, W] in [-1, 1] -> clean latents [4, h, w]."""
        latents = self.model.vae.encode(image.to(self.device, self.dtype), impl=self.execution.elementwise)
        return latents.to(self.exact)[0]

    def labels(self, labels: NDArray[np.int64], num_classes: int) -> dict[int, Tensor]:
        """A label map [H, W] by level of the UNet: [h, w] at latent resolution and half of it."""
        factor, whole = self.model.config.vae.factor, torch.from_numpy(labels)
        return {level: latent_labels(whole, num_classes, factor * 2**level).to(self.device) for level in (0, 1)}

    def affordable(self, keeper: FeatureCache, clean: Tensor, lending: FeatureSchedule) -> int:
        """For how many steps of ``lending``, from the first on, ``keeper`` has room; ``clean`` are latents."""
        config, positions = self.model.config.unet, clean[0].numel()
        return keeper.places(lent_bytes(config, positions, levels, self.dtype) for levels in lending.values())

    def origin_calls(self, keeper: FeatureCache, clean: Tensor, *, keep: bool) -> int:
        """Network steps that `build_origin` takes."""
        lending = {} if self.settings.redenoise or not keep else self.settings.origin_lending()
        inversion = self.inverter.calls(maps=self.stochastic and self.settings.redenoise)
        return inversion + self.affordable(keeper, clean, lending)

    @property
    def needs_noise_maps(self) -> bool:
        """Whether the structure's own noise maps enter the result."""
        return self.stochastic and (self.settings.redenoise or self.settings.fresh_noise < 1.0)

    @property
    def structure_calls(self) -> int:
        """Network steps that `build_structure` takes."""
        return self.inverter.calls(maps=self.needs_noise_maps)


def condition(
    model: StableDiffusion, prompt: str, schedule: Sequence[Step], execution: Execution, free_u: FreeU | None = None
) -> TextConditionedUNet:
    """The model's UNet under the text condition of ``prompt``, at the timesteps of ``schedule``."""
    parameter = next(model.unet.parameters())
    states = model.text_encoder(model.tokenizer([prompt]).to(parameter.device)).to(parameter.dtype)
    times = [step.t for step in schedule]
    run = cuda_graphs() if execution.graphs else call_eagerly
    return TextConditionedUNet.of(model.unet, states, times, free_u=free_u, impl=execution.elementwise, run=run)


def build_origin(
    run: Pipeline, clean: Tensor, patch: TransferInputs, noise: Noise, keeper: FeatureCache, *, keep: bool
) -> Iterator[Origin | None]:
    """Invert ``patch``'s origin from its ``clean`` latents [4, h, w]; yields None per network step, at last the origin.

    With ``keep`` what it will lend is computed now and kept as far as ``keeper`` has room, for more than one use.
    """
    settings = run.settings
    lending = settings.origin_lending()
    drawn = noise.origin.to(run.device, run.exact)
    maps = run.stochastic and settings.redenoise
    # What denoising again comes by costs nothing, so it is kept for a single use too.
    passing = lending if settings.redenoise else {}
    branch = None
    for item in run.inverter.branch(clean, drawn, maps=maps, lending=passing, keep=keeper.keep):
        branch = item
        if item is None:
            yield None
    assert branch is not None
    origin = Origin(branch.trajectory, run.labels(patch.origin_labels, patch.num_classes), branch.kept)
    if keep and not settings.redenoise:
        kept: dict[int, CacheEntry] = {}
        affordable = dict(list(lending.items())[: run.affordable(keeper, clean, lending)])
        for i, lent in lend(run.text, origin, affordable, run.schedule, run.execution.batch):
            place = keeper.keep(lent)
            kept |= {} if place is None else {i: place}
            yield None
        origin = Origin(origin.trajectory, origin.labels, kept)
    yield origin


def build_structure(run: Pipeline, clean: Tensor, patch: TransferInputs, noise: Noise) -> Iterator[Structure | None]:
    """Invert the painted mask from its ``clean`` latents [4, h', w']; yields as `build_origin` does."""
    settings = run.settings
    drawn = noise.target.to(run.device, run.exact)
    branch: Trajectory | None = None
    for item in run.inverter.branch(
        clean, drawn, maps=run.needs_noise_maps, lending=settings.structure_lending(), keep=keep_all
    ):
        branch = item
        if item is None:
            yield None
    assert branch is not None
    maps = branch.maps
    if run.stochastic and noise.fresh is not None:
        maps = mix_noise(maps, noise.fresh.to(run.device, run.exact), settings.fresh_noise)
    yield Structure(branch.trajectory, maps, run.labels(patch.target_labels, patch.num_classes), branch.kept)
