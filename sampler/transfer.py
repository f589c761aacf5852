"""The denoising of z_out with cross-image attention and class-wise AdaIN (method.md, "Denoising").

Sources: Winter et al. (equations 1 to 3, sections 2.3 and 2.4); Alaluf et al., arXiv 2311.03335.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import Implementation, masked_adain
from model.free_u import FreeU
from model.unet import Source, UNet
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


@dataclass(frozen=True)
class Guided:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598): ``uncond + scale·(text - uncond)``."""

    text: Conditioned
    unconditional: Conditioned
    scale: float

    def __call__(self, z: Tensor, t: int | Tensor) -> Tensor:
        """Noise prediction [B, 4, h, w]; a scale of 1 costs one network call, any other two."""
        if self.scale == 1.0:
            return self.text(z, t)
        base = self.unconditional(z, t)
        return base + self.scale * (self.text(z, t) - base)


@dataclass(frozen=True)
class Inputs:
    """All that the denoising starts from. Trajectories are [T + 1, 4, ·, ·], noise maps [T, 4, h', w'] or None.

    ``origin`` and ``structure`` hold x_0 … x_T (entries before the first executed step are not read), ``noise`` the
    maps w_i already mixed with fresh noise (None: deterministic steps). Label maps are at latent resolution.
    """

    origin: Tensor
    structure: Tensor
    noise: Tensor | None
    origin_labels: Tensor
    target_labels: Tensor
    num_classes: int


def mix_noise(structure: Tensor | None, fresh: Tensor, share: float) -> Tensor:
    """``sqrt(1 - f)·w_structure + sqrt(f)·fresh`` (method.md, step 5); None for maps that a share of 1 needs not."""
    mixed = share**0.5 * fresh
    return mixed if structure is None else (1.0 - share) ** 0.5 * structure + mixed


def transfer(
    denoiser: Conditioned, inputs: Inputs, settings: Settings, schedule: Sequence[Step], impl: Implementation
) -> Iterator[Tensor]:
    """Yield z_out [1, 4, h', w'] after each executed step; the last one is the result's latents."""
    first = settings.first_step
    z = inputs.structure[first][None]
    for j, i in enumerate(range(first, len(schedule))):
        branch = inputs.structure if settings.borrows_from_structure(j) else inputs.origin
        levels = settings.swapped_levels(j)
        eps = _predict(denoiser, z, branch[i][None], schedule[i].t, levels, settings, settings.alpha(j), impl)
        noise = None if inputs.noise is None or i == len(schedule) - 1 else inputs.noise[i][None]
        z = denoise_step(z, eps, schedule[i], noise)
        z = _match_statistics(z, inputs, inputs.origin[i + 1][None], settings, j, impl)
        yield z


def _predict(
    denoiser: Conditioned,
    z: Tensor,
    lender: Tensor,
    t: int,
    levels: Sequence[int],
    settings: Settings,
    alpha: float | None,
    impl: Implementation,
) -> Tensor:
    """The guided noise prediction of steps 1 to 4; ``lender`` is the latents whose keys and values are swapped in."""
    if not levels:
        return denoiser(z, t)
    unet, context, free_u = denoiser.unet, denoiser.context, denoiser.free_u
    keys_values = unet.keys_values(lender.to(context.dtype), t, context, levels, free_u=free_u)
    source = Source(keys_values, settings.contrast, impl)
    shared = unet.encode(z.to(context.dtype), t, context)
    shared = unet.advance(shared, context, to_level=max(levels), free_u=free_u)
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
    return masked_adain(
        z,
        origin,
        torch.zeros_like(inputs.target_labels) if whole else inputs.target_labels,
        torch.zeros_like(inputs.origin_labels) if whole else inputs.origin_labels,
        classes=classes,
        num_classes=1 if whole else inputs.num_classes,
        impl=impl,
    )
