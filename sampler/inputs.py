"""What one image is made from: pixels, label maps, random numbers (docs/method.md, "Inputs" and "Randomness")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sampler.masks import latent_labels, structure_image, unmatched_classes
from sampler.settings import Settings


@dataclass(frozen=True)
class OriginImage:
    """A real patch, uint8 RGB [H, W, 3], and its ``labels`` [H, W]."""

    image: NDArray[np.uint8]
    labels: NDArray[np.int64] | None


@dataclass(frozen=True)
class TransferInputs:
    """What one image is made from. Sides are multiples of 64 px; origins and target may differ in size.

    ``origin`` is uint8 RGB [H, W, 3], ``origin_labels`` [H, W] and ``target_labels`` [H', W'] hold 0..num_classes-1, or
    num_classes for pixels that belong to no class. Without the origin's labels the method has none of the origin, and
    the ``alaluf`` preset finds both images' foreground (`sampler.self_segmentation`). ``further`` origins, all with
    labels, are looked at beside the first (docs/method.md, "Several origins").
    """

    origin: NDArray[np.uint8]
    origin_labels: NDArray[np.int64] | None
    target_labels: NDArray[np.int64]
    num_classes: int
    further: tuple[OriginImage, ...] = ()

    def __post_init__(self) -> None:
        if self.further and any(each.labels is None for each in self.origins):
            raise ValueError("several origins want labels each")

    @property
    def origins(self) -> tuple[OriginImage, ...]:
        """All of them."""
        return OriginImage(self.origin, self.origin_labels), *self.further

    def unmatched_classes(self, factor: int) -> list[int]:
        """Classes of the target that AdaIN leaves as they are, for want of 2 latent positions of ``factor`` px.

        None without the origin's labels.
        """

        def at_latents(labels: NDArray[np.int64]) -> Tensor:
            return latent_labels(torch.from_numpy(labels), self.num_classes, factor).flatten()

        known = [at_latents(each.labels) for each in self.origins if each.labels is not None]
        return unmatched_classes(at_latents(self.target_labels), torch.cat(known), self.num_classes) if known else []


@dataclass(frozen=True)
class Noise:
    """All random numbers of one image, in the order in which they are drawn.

    ``structure_image`` [1, 3, H', W'] is the painted mask with its noise; the others are the latents', for each step:
    ``origin`` [T, 4, h, w], ``structure`` and ``fresh`` [T, 4, h', w'], the last None where none is asked for, and one
    for each of the ``further`` origins.
    """

    structure_image: Tensor
    origin: Tensor
    structure: Tensor
    fresh: Tensor | None
    further: tuple[Tensor, ...] = ()

    @property
    def origins(self) -> tuple[Tensor, ...]:
        """Of all origins."""
        return self.origin, *self.further


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
    further: tuple[Tensor, ...] = ()

    @property
    def origins(self) -> tuple[Tensor, ...]:
        """Of all origins."""
        return self.origin, *self.further


def draw_field_noise(seed: int, inputs: TransferInputs, settings: Settings, channels: int, factor: int) -> FieldNoise:
    """As `draw_noise`, but the target's step by step."""
    draw = _Draw(torch.Generator().manual_seed(seed), settings, channels, factor)
    painted = draw.painted(inputs)
    origin = draw.all_steps(inputs.origin)
    shape = (channels, *draw.sides(inputs.target_labels))
    structure = DrawnSteps.of(draw.generator, settings.steps, shape)
    fresh = DrawnSteps.of(draw.generator, settings.steps, shape) if settings.fresh_noise > 0.0 else None
    return FieldNoise(painted, origin, structure, fresh, draw.further(inputs))


def draw_noise(seed: int, inputs: TransferInputs, settings: Settings, channels: int, factor: int) -> Noise:
    """Draw everything from one CPU generator in float32, in the order of docs/method.md, "Randomness".

    So a seed means the same on every device. ``channels`` and ``factor`` are those of the latents.
    """
    draw = _Draw(torch.Generator().manual_seed(seed), settings, channels, factor)
    painted = draw.painted(inputs)
    origin = draw.all_steps(inputs.origin)
    structure = draw.all_steps(inputs.target_labels)
    fresh = draw.all_steps(inputs.target_labels) if settings.fresh_noise > 0.0 else None
    return Noise(painted, origin, structure, fresh, draw.further(inputs))


@dataclass(frozen=True)
class _Draw:
    """What both ways of drawing have in common; every call draws the generator's next numbers."""

    generator: torch.Generator
    settings: Settings
    channels: int
    factor: int

    def sides(self, image: NDArray[Any]) -> tuple[int, int]:
        """Of the latents of ``image`` [H, W, …]."""
        height, width = image.shape[:2]
        return height // self.factor, width // self.factor

    def painted(self, inputs: TransferInputs) -> Tensor:
        """The structure image."""
        intensities = self.settings.class_intensities(inputs.num_classes)
        labels = torch.from_numpy(inputs.target_labels)
        return structure_image(labels, intensities, self.settings.mask_noise, self.generator)

    def all_steps(self, image: NDArray[Any]) -> Tensor:
        """Noise of every step [T, 4, h, w] for the latents of ``image`` [H, W, …]."""
        shape = (self.settings.steps, self.channels, *self.sides(image))
        return torch.randn(shape, generator=self.generator, dtype=torch.float32)

    def further(self, inputs: TransferInputs) -> tuple[Tensor, ...]:
        """Last, so that everything else is as without them."""
        return tuple(self.all_steps(each.image) for each in inputs.further)


def to_unit_range(image: NDArray[np.uint8]) -> Tensor:
    """uint8 RGB [H, W, 3] -> float32 [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1.0


def to_pixels(image: Tensor) -> NDArray[np.uint8]:
    """[1, 3, H, W] in [-1, 1], clipped -> uint8 RGB [H, W, 3], rounded."""
    scaled = ((image[0].float() + 1.0) * 127.5).round().clamp(0, 255)
    pixels: NDArray[np.uint8] = scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return pixels
