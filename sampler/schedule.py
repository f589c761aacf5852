"""The noise schedule of SD-1.x and the timesteps of a run (docs/method.md, "Noise schedule")."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TRAINING_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


@dataclass(frozen=True)
class Step:
    """One denoising step from noise level ``alpha_bar`` (timestep ``t``) to ``alpha_bar_prev``.

    ``sigma`` is the standard deviation of the fresh noise of a DDPM step; deterministic (DDIM) steps have 0.
    """

    t: int
    alpha_bar: float
    alpha_bar_prev: float
    sigma: float

    def deterministic(self) -> Step:
        """The same step without noise."""
        return Step(self.t, self.alpha_bar, self.alpha_bar_prev, 0.0)


def cumulative_alphas() -> Tensor:
    """abar [1000], float32: ``cumprod(1 - beta)`` of the scaled-linear betas, computed in float64."""
    betas = torch.linspace(math.sqrt(BETA_START), math.sqrt(BETA_END), TRAINING_STEPS, dtype=torch.float64) ** 2
    return torch.cumprod(1.0 - betas, dim=0).float()


def steps(count: int) -> list[Step]:
    """The ``count`` steps of a run from the noisiest on, spaced as SD-1.x's scheduler file says ("leading").

    Raises ValueError unless 1 <= count <= 999 (with 1000 the first timestep would be 1000, past the last trained).
    Source: Song et al., *DDIM*, arXiv 2010.02502, equations 12 and 16 with eta = 1.
    """
    if not 1 <= count < TRAINING_STEPS:
        raise ValueError(f"{count} steps: the number of steps must be from 1 to {TRAINING_STEPS - 1}")
    alpha_bar = cumulative_alphas().tolist()
    delta = TRAINING_STEPS // count
    result = []
    for i in range(count):
        t = (count - 1 - i) * delta + 1
        here, before = alpha_bar[t], alpha_bar[t - delta] if t - delta >= 0 else alpha_bar[0]
        variance = (1.0 - before) / (1.0 - here) * (1.0 - here / before)
        result.append(Step(t, here, before, math.sqrt(variance)))
    return result
