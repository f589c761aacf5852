"""One in-silico image, from a patch and two label maps to pixels (method.md as a whole)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kernels import Implementation
from model import StableDiffusion
from model.free_u import FreeU
from sampler.inversion import Branch, Inverter, Lending
from sampler.masks import latent_labels, structure_image, unmatched_classes
from sampler.schedule import steps
from sampler.settings import Settings
from sampler.transfer import Conditioned, Guided, Inputs, Labels, mix_noise, transfer

Phase = Literal["encode", "invert", "denoise", "decode"]


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of a phase are finished."""

    phase: Phase
    done: int
    total: int


@dataclass(frozen=True)
class Result:
    """The new image, uint8 RGB [H', W', 3], and the latents it was decoded from, float32 [1, 4, h', w']."""

    image: NDArray[np.uint8]
    latents: Tensor


@dataclass(frozen=True)
class Patch:
    """What one image is made from. Sides are multiples of 64 px; origin and target may differ in size.

    ``origin`` is uint8 RGB [H, W, 3], ``origin_labels`` [H, W] and ``target_labels`` [H', W'] hold 0..num_classes-1.
    """

    origin: NDArray[np.uint8]
    origin_labels: NDArray[np.int64]
    target_labels: NDArray[np.int64]
    num_classes: int

    def latent_labels(self, factor: int) -> tuple[Tensor, Tensor]:
        """Label maps of origin [h, w] and target [h', w'] at latent resolution, ``factor`` px a position."""
        origin, target = torch.from_numpy(self.origin_labels), torch.from_numpy(self.target_labels)
        return latent_labels(origin, self.num_classes, factor), latent_labels(target, self.num_classes, factor)

    def unmatched_classes(self, factor: int) -> list[int]:
        """Classes of the target that AdaIN leaves as they are, for want of 2 latent positions on a side."""
        origin, target = self.latent_labels(factor)
        return unmatched_classes(target, origin, self.num_classes)


@dataclass(frozen=True)
class Noise:
    """All random numbers of one image: structure image [1, 3, H', W'], and per step [T, 4, ·, ·] of the latents."""

    structure: Tensor
    origin: Tensor
    target: Tensor
    fresh: Tensor | None


def draw_noise(seed: int, patch: Patch, settings: Settings, channels: int, factor: int) -> Noise:
    """Draw everything from one CPU generator in float32, in the order of method.md, "Randomness".

    So a seed means the same on every device. ``channels`` and ``factor`` are those of the latents.
    """
    generator = torch.Generator().manual_seed(seed)

    def per_step(labels: NDArray[np.int64]) -> Tensor:
        height, width = labels.shape
        shape = (settings.steps, channels, height // factor, width // factor)
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    greys = settings.greys(patch.num_classes)
    structure = structure_image(torch.from_numpy(patch.target_labels), greys, settings.mask_noise, generator)
    origin = per_step(patch.origin_labels)
    target = per_step(patch.target_labels)
    fresh = per_step(patch.target_labels) if settings.fresh_noise > 0.0 else None
    return Noise(structure, origin, target, fresh)


def to_unit_range(image: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """[1, 3, H, W] in [-1, 1], clipped -> uint8 RGB [H, W, 3], rounded."""
    scaled = ((image[0].float() + 1.0) * 127.5).round().clamp(0, 255)
    pixels: NDArray[np.uint8] = scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels


def condition(model: StableDiffusion, prompt: str, free_u: FreeU | None = None) -> Conditioned:
    """The model's UNet under the text condition of ``prompt``."""
    parameter = next(model.unet.parameters())
    states = model.text_encoder(model.tokenizer([prompt]).to(parameter.device))
    return Conditioned(model.unet, states.to(parameter.dtype), free_u)


@torch.inference_mode()
def generate(
    model: StableDiffusion, patch: Patch, settings: Settings, *, seed: int, impl: Implementation
) -> Iterator[Progress | Result]:
    """Run the method on one pair; yields `Progress` after each unit of work and one `Result` at the end.

    Networks run in their own type on their own device, latents in float32 (float64 for float64 networks).
    """
    parameter = next(model.unet.parameters())
    device, dtype = parameter.device, parameter.dtype
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    factor = model.config.vae.factor
    noise = draw_noise(seed, patch, settings, model.config.vae.latent_channels, factor)
    schedule = steps(settings.steps)
    if settings.inversion == "ddim":
        schedule = [step.deterministic() for step in schedule]

    yield Progress("encode", 0, 2)
    origin_latents = model.vae.encode(to_unit_range(patch.origin).to(device, dtype)).to(exact)[0]
    yield Progress("encode", 1, 2)
    structure_latents = model.vae.encode(noise.structure.to(device, dtype)).to(exact)[0]
    yield Progress("encode", 2, 2)

    free_u = FreeU() if settings.free_u else None
    text = condition(model, settings.prompt, free_u)
    inverting = Guided(text, condition(model, "", free_u), settings.inversion_guidance)
    inverter = Inverter(inverting, text, settings, schedule)
    stochastic = settings.inversion == "ddpm"
    needs_maps = stochastic and (settings.redenoise or settings.fresh_noise < 1.0)
    specification: tuple[tuple[Tensor, Tensor, bool, Lending], ...] = (
        (origin_latents, noise.origin, stochastic and settings.redenoise, {}),
        (structure_latents, noise.target, needs_maps, settings.structure_lending()),
    )
    total = sum(inverter.calls(maps=maps) for _, _, maps, _ in specification)
    branches: list[Branch] = []
    done = 0
    for clean, drawn, maps, lending in specification:
        for item in inverter.branch(clean, drawn.to(device, exact), maps=maps, lending=lending):
            if isinstance(item, Branch):
                branches.append(item)
            else:
                done += 1
                yield Progress("invert", done, total)
    origin, structure = branches
    step_noise = structure.maps
    if stochastic and noise.fresh is not None:
        step_noise = mix_noise(structure.maps, noise.fresh.to(device, exact), settings.fresh_noise)
    labels = {level: Labels(*(m.to(device) for m in patch.latent_labels(factor * 2**level))) for level in (0, 1)}
    inputs = Inputs(
        origin.trajectory,
        structure.trajectory,
        step_noise,
        structure.lends,
        labels,
        patch.num_classes,
    )

    remaining = settings.executed - settings.untouched
    yield Progress("denoise", 0, remaining)
    z = structure_latents[None]
    for done, step in enumerate(transfer(text, inputs, settings, schedule, impl), start=1):
        z = step
        yield Progress("denoise", done, remaining)

    yield Progress("decode", 0, 1)
    image = to_pixels(model.vae.decode(z.to(dtype)))
    yield Progress("decode", 1, 1)
    yield Result(image, z.float().cpu())
