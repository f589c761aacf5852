"""The one formula of DDIM/DDPM steps and of inversion (Song et al., *DDIM*, arXiv 2010.02502, equation 12)."""

from __future__ import annotations

import math

from torch import Tensor

from sampler.schedule import Step


def add_noise(clean: Tensor, noise: Tensor, abar: float) -> Tensor:
    """Latents at noise level ``abar``: ``sqrt(abar)·clean + sqrt(1 - abar)·noise``."""
    return math.sqrt(abar) * clean + math.sqrt(1.0 - abar) * noise


def predict_clean(x: Tensor, eps: Tensor, abar: float) -> Tensor:
    """x0 of method.md: the clean latents that ``x`` and its noise prediction imply. Not clipped."""
    return (x - math.sqrt(1.0 - abar) * eps) / math.sqrt(abar)


def move(x: Tensor, eps: Tensor, abar: float, abar_to: float, sigma: float = 0.0) -> Tensor:
    """Carry ``x`` from noise level ``abar`` to ``abar_to``, leaving room for noise of deviation ``sigma``.

    With ``abar_to`` the cleaner level this is mu of method.md, with the noisier one a step of DDIM inversion.
    """
    direction = math.sqrt(max(1.0 - abar_to - sigma**2, 0.0))
    return math.sqrt(abar_to) * predict_clean(x, eps, abar) + direction * eps


def denoise_step(x: Tensor, eps: Tensor, step: Step, noise: Tensor | None) -> Tensor:
    """``mu(x, eps) + sigma·noise``; without noise for None (the last step, or a deterministic one)."""
    mean = move(x, eps, step.abar, step.abar_prev, step.sigma)
    return mean if noise is None else mean + step.sigma * noise
