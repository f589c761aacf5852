"""The one formula of DDIM/DDPM steps and of inversion (Song et al., *DDIM*, arXiv 2010.02502, equation 12)."""

from __future__ import annotations

import math

from torch import Tensor

from sampler.schedule import Step


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: float) -> Tensor:
    """Latents at noise level ``alpha_bar``: ``sqrt(alpha_bar)·clean + sqrt(1 - alpha_bar)·noise``."""
    return math.sqrt(alpha_bar) * clean + math.sqrt(1.0 - alpha_bar) * noise


def predict_x0(x: Tensor, eps: Tensor, alpha_bar: float) -> Tensor:
    """x0 of docs/method.md: the clean latents that ``x`` and its noise prediction imply. Not clipped."""
    return (x - math.sqrt(1.0 - alpha_bar) * eps) / math.sqrt(alpha_bar)


def ddim_step(x: Tensor, eps: Tensor, alpha_bar: float, alpha_bar_to: float, sigma: float = 0.0) -> Tensor:
    """Carry ``x`` from noise level ``alpha_bar`` to ``alpha_bar_to``, leaving room for noise of deviation ``sigma``.

    With ``alpha_bar_to`` the cleaner level this is mu of docs/method.md, with the noisier one a step of DDIM inversion.
    """
    direction = math.sqrt(max(1.0 - alpha_bar_to - sigma**2, 0.0))
    return math.sqrt(alpha_bar_to) * predict_x0(x, eps, alpha_bar) + direction * eps


def denoise_step(x: Tensor, eps: Tensor, step: Step, noise: Tensor | None) -> Tensor:
    """``mu(x, eps) + sigma·noise``; without noise for None (the last step, or a deterministic one)."""
    mean = ddim_step(x, eps, step.alpha_bar, step.alpha_bar_prev, step.sigma)
    return mean if noise is None else mean + step.sigma * noise
