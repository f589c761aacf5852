"""What one image is made from: pixels, label maps, random numbers (docs/method.md, "Inputs" and "Randomness")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampler.masks import latent_labels, structure_image, unmatched_classes
from sampler.settings import Settings


@dataclass(frozen=True)
class TransferInputs:
    """What one image is made from. Sides are multiples of 64 px; origin and target may differ in size.

    ``origin`` is uint8 RGB [H, W, 3], ``origin_labels`` [H, W] and ``target_labels`` [H', W'] hold 0..num_classes-1, or
    num_classes for pixels that belong to no class. Without the origin's labels the method has none of the origin, and
    the ``alaluf`` preset finds both images' foreground (`sampler.self_segmentation`).
    """

    origin: NDArray[np.uint8]
    origin_labels: NDArray[np.int64] | None
    target_labels: NDArray[np.int64]
    num_classes: int

    def unmatched_classes(self, factor: int) -> list[int]:
        """Classes of the target that AdaIN leaves as they are, for want of 2 latent positions of ``factor`` px.

        None without the origin's labels.
        """
        if self.origin_labels is None:
            return []
        origin, target = (
            latent_labels(torch.from_numpy(labels), self.num_classes, factor)
            for labels in (self.origin_labels, self.target_labels)
        )
        return unmatched_classes(target, origin, self.num_classes)


@dataclass(frozen=True)
class Noise:
    """All random numbers of one image, in the order in which they are drawn.

    ``structure_image`` [1, 3, H', W'] is the painted mask with its noise; the others are the latents', for each step:
    ``origin`` [T, 4, h, w], ``structure`` and ``fresh`` [T, 4, h', w'], the last None where none is asked for.
    """

    structure_image: Tensor
    origin: Tensor
    structure: Tensor
    fresh: Tensor | None


@dataclass(frozen=True)
class DrawnSteps:
    """Noise of every step, each [4, h', w'], that is drawn again where it is asked for: a large field's is not held.

    ``states`` are the generator's before each step.
    """

    shape: tuple[int, ...]
    states: Sequence[Tensor]

    @staticmethod
    def of(generator: torch.Generator, count: int, shape: tuple[int, ...]) -> DrawnSteps:
        """The next ``count`` steps of ``generator``, which is past them afterwards: as if all were drawn at once."""
        states = []
        for _ in range(count):
            states.append(generator.get_state())
            torch.randn(shape, generator=generator, dtype=torch.float32)
        return DrawnSteps(shape, states)

    def at(self, i: int) -> Tensor:
        """The noise of step ``i``."""
        generator = torch.Generator().set_state(self.states[i])
        return torch.randn(self.shape, generator=generator, dtype=torch.float32)


@dataclass(frozen=True)
class FieldNoise:
    """As `Noise`, of the same numbers, for a field in windows."""

    structure_image: Tensor
    origin: Tensor
    structure: DrawnSteps
    fresh: DrawnSteps | None


def draw_field_noise(seed: int, inputs: TransferInputs, settings: Settings, channels: int, factor: int) -> FieldNoise:
    """As `draw_noise`, step by step."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (side // factor for side in inputs.target_labels.shape)
    painted = _painted(inputs, settings, generator)
    origin = torch.randn(
        (settings.steps, channels, *(side // factor for side in inputs.origin.shape[:2])),
        generator=generator,
        dtype=torch.float32,
    )
    structure = DrawnSteps.of(generator, settings.steps, (channels, height, width))
    fresh = DrawnSteps.of(generator, settings.steps, structure.shape) if settings.fresh_noise > 0.0 else None
    return FieldNoise(painted, origin, structure, fresh)


def _painted(inputs: TransferInputs, settings: Settings, generator: torch.Generator) -> Tensor:
    intensities = settings.class_intensities(inputs.num_classes)
    return structure_image(torch.from_numpy(inputs.target_labels), intensities, settings.mask_noise, generator)


def draw_noise(seed: int, inputs: TransferInputs, settings: Settings, channels: int, factor: int) -> Noise:
    """Draw everything from one CPU generator in float32, in the order of docs/method.md, "Randomness".

    So a seed means the same on every device. ``channels`` and ``factor`` are those of the latents.
    """
    generator = torch.Generator().manual_seed(seed)

    def per_step(side: tuple[int, ...]) -> Tensor:
        height, width = side
        shape = (settings.steps, channels, height // factor, width // factor)
        return torch.randn(shape, generator=generator, dtype=torch.float32)

    painted = _painted(inputs, settings, generator)
    origin = per_step(inputs.origin.shape[:2])
    structure = per_step(inputs.target_labels.shape)
    fresh = per_step(inputs.target_labels.shape) if settings.fresh_noise > 0.0 else None
    return Noise(painted, origin, structure, fresh)


def to_unit_range(image: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """[1, 3, H, W] in [-1, 1], clipped -> uint8 RGB [H, W, 3], rounded."""
    scaled = ((image[0].float() + 1.0) * 127.5).round().clamp(0, 255)
    pixels: NDArray[np.uint8] = scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels
