"""The denoising of z_out with cross-image attention and class-wise AdaIN (method.md, "Denoising").

Sources: Winter et al. (equations 1 to 3, sections 2.3 and 2.4); Alaluf et al., arXiv 2311.03335.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from kernels import Implementation, masked_adain
from model.free_u import FreeU
from model.layers import Classes
from model.unet import KeysValues, Source, UNet
from sampler.ddim import denoise_step
from sampler.schedule import Step
from sampler.settings import Settings


@dataclass(frozen=True)
class Conditioned:
    """A UNet under one text condition, called with latents of a wider type than its own.

    ``context`` is [1, 77, width] in the UNet's type; ``free_u`` is None or applies to every call.
    """

    unet: UNet
    context: Tensor
    free_u: FreeU | None = None

    def __call__(self, z: Tensor, t: int | Tensor) -> Tensor:
        """Noise prediction [B, 4, h, w] in the type of ``z``."""
        return self.unet(z.to(self.context.dtype), t, self.context, free_u=self.free_u).to(z.dtype)

    def record(self, z: Tensor, t: int | Tensor, levels: Sequence[int]) -> tuple[Tensor, KeysValues]:
        """As a call, with the keys and values at ``levels`` beside the prediction."""
        eps, recorded = self.unet.record(z.to(self.context.dtype), t, self.context, levels, free_u=self.free_u)
        return eps.to(z.dtype), recorded

    def lend(self, z: Tensor, t: int, levels: Sequence[int]) -> KeysValues:
        """The keys and values at ``levels`` alone, which costs less than a whole pass."""
        return self.unet.keys_values(z.to(self.context.dtype), t, self.context, levels, free_u=self.free_u)


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): ``uncond + scale·(text - uncond)``."""

    text: Conditioned
    unconditional: Conditioned
    scale: float

    def __call__(self, z: Tensor, t: int | Tensor) -> Tensor:
        """Noise prediction [B, 4, h, w]; a scale of 1 costs one network call, any other two."""
        return self._guide(z, t, self.text(z, t))

    def record(self, z: Tensor, t: int | Tensor, levels: Sequence[int]) -> tuple[Tensor, KeysValues]:
        """As a call, with the keys and values of the text-conditioned pass at ``levels``."""
        text, recorded = self.text.record(z, t, levels)
        return self._guide(z, t, text), recorded

    def _guide(self, z: Tensor, t: int | Tensor, text: Tensor) -> Tensor:
        if self.scale == 1.0:
            return text
        base = self.unconditional(z, t)
        return base + self.scale * (text - base)


class Labels(NamedTuple):
    """Label maps [h, w] of the origin and [h', w'] of the target at one level of the UNet."""

    origin: Tensor
    target: Tensor


@dataclass(frozen=True)
class Inputs:
    """All that the denoising starts from. Trajectories are [T + 1, 4, ·, ·], noise maps [T, 4, h', w'] or None.

    ``origin`` and ``structure`` hold x_0 … x_T (entries before the first executed step are not read), ``noise`` the
    maps w_i already mixed with fresh noise (None: deterministic steps), ``structure_lends`` what the inversion has
    kept of the structure's keys and values, by step i. ``labels`` are by level; level 0 is the latent resolution.
    """

    origin: Tensor
    structure: Tensor
    noise: Tensor | None
    structure_lends: Mapping[int, KeysValues]
    labels: Mapping[int, Labels]
    num_classes: int


def mix_noise(structure: Tensor | None, fresh: Tensor, share: float) -> Tensor:
    """``sqrt(1 - f)·w_structure + sqrt(f)·fresh`` (method.md, step 5); None for maps that a share of 1 needs not."""
    mixed = share**0.5 * fresh
    return mixed if structure is None else (1.0 - share) ** 0.5 * structure + mixed


def transfer(
    denoiser: Conditioned, inputs: Inputs, settings: Settings, schedule: Sequence[Step], impl: Implementation
) -> Iterator[Tensor]:
    """Yield z_out [1, 4, h', w'] after each step that has to be computed; the last is the result's latents.

    The first ``settings.untouched`` executed steps lead along the structure's own trajectory and are not repeated.
    """
    first = settings.first_step
    z = inputs.structure[first + settings.untouched][None]
    for i in range(first + settings.untouched, len(schedule)):
        j = i - first
        source = _borrow(denoiser, inputs, settings, i, schedule[i].t, impl)
        eps = _predict(denoiser, z, schedule[i].t, source, settings.alpha(j))
        noise = None if inputs.noise is None or i == len(schedule) - 1 else inputs.noise[i][None]
        z = denoise_step(z, eps, schedule[i], noise)
        z = _match_statistics(z, inputs, inputs.origin[i + 1][None], settings, j, impl)
        yield z


def _borrow(
    denoiser: Conditioned, inputs: Inputs, settings: Settings, i: int, t: int, impl: Implementation
) -> Source | None:
    """The keys and values swapped in at step i, from the origin or the structure; None at steps without a swap."""
    j = i - settings.first_step
    levels = settings.swapped_levels(j)
    if not levels:
        return None
    from_structure = settings.borrows_from_structure(j)
    if not from_structure:
        lent = denoiser.lend(inputs.origin[i][None], t, levels)
    elif i in inputs.structure_lends:
        lent = inputs.structure_lends[i]
    else:
        lent = denoiser.lend(inputs.structure[i][None], t, levels)
    return Source(lent, settings.contrast, impl, _classes(inputs, settings, levels, from_structure))


def _classes(inputs: Inputs, settings: Settings, levels: Sequence[int], from_structure: bool) -> dict[int, Classes]:
    """The classes that attention is to know, by level; none in the method itself."""
    match = settings.adain_features and not from_structure
    if not (match or settings.restrict_attention):
        return {}
    result = {}
    for level in levels:
        labels = inputs.labels[level]
        keys = labels.target if from_structure else labels.origin
        result[level] = Classes(
            labels.target.flatten(), keys.flatten(), inputs.num_classes, settings.restrict_attention, match
        )
    return result


def _predict(denoiser: Conditioned, z: Tensor, t: int, source: Source | None, alpha: float | None) -> Tensor:
    """The guided noise prediction of steps 1 to 4. The two passes part at the first layer that borrows."""
    if source is None:
        return denoiser(z, t)
    unet, context, free_u = denoiser.unet, denoiser.context, denoiser.free_u
    shared = unet.encode(z.to(context.dtype), t, context)
    shared = unet.advance(shared, context, until=next(iter(source.keys_values)), free_u=free_u)
    eps_cross = unet.decode(shared, context, source=source, free_u=free_u).to(z.dtype)
    if alpha is None:
        return eps_cross
    eps_self = unet.decode(shared, context, free_u=free_u).to(z.dtype)
    return eps_self + alpha * (eps_cross - eps_self)


def _match_statistics(
    z: Tensor, inputs: Inputs, origin: Tensor, settings: Settings, j: int, impl: Implementation
) -> Tensor:
    """AdaIN of steps 6 and 7; ``origin`` is x_{i+1} of the origin."""
    classes = settings.adain_classes(j, inputs.num_classes)
    if not classes:
        return z
    whole = settings.adain == "global"
    there, here = (torch.zeros_like(labels) if whole else labels for labels in inputs.labels[0])
    return masked_adain(
        z,
        origin,
        here,
        there,
        classes=classes,
        num_classes=1 if whole else inputs.num_classes,
        impl=impl,
    )
