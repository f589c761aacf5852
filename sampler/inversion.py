"""From clean latents to the noisy trajectory x_0 … x_T that leads to them (method.md, "Inversion").

``x_i`` is the latent that step i starts from, ``x_T`` the clean latents. Trajectories are [T + 1, 4, h, w].
Functions that call the network yield after each call, so that a caller can show how far they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sampler.ddim import Denoiser, add_noise, denoise_step, move
from sampler.schedule import Step
from sampler.settings import Settings

BATCH = 4


@dataclass(frozen=True)
class Branch:
    """A trajectory [T + 1, 4, h, w] and, where wanted, the noise maps w_i [T, 4, h, w] along it.

    Maps before the first executed step are zero and stand for "not computed".
    """

    trajectory: Tensor
    maps: Tensor | None


def ddpm_trajectory(clean: Tensor, noise: Tensor, schedule: Sequence[Step]) -> Tensor:
    """Edit-friendly trajectory: every x_i noised independently (Huberman-Spiegelglas et al., 2304.06140, eq. 6).

    ``clean`` [4, h, w], ``noise`` [T, 4, h, w]. Needs no network.
    """
    noisy = [add_noise(clean, n, step.abar) for n, step in zip(noise, schedule, strict=True)]
    return torch.stack([*noisy, clean])


def ddim_trajectory(denoiser: Denoiser, clean: Tensor, schedule: Sequence[Step]) -> Iterator[tuple[int, Tensor]]:
    """DDIM inversion from ``clean`` [4, h, w] upwards: yields (i, x_i) for i = T - 1 … 0, one call each."""
    z = clean[None]
    for i in reversed(range(len(schedule))):
        step = schedule[i]
        z = move(z, denoiser(z, step.t), step.abar_prev, step.abar)
        yield i, z[0]


def noise_maps(
    denoiser: Denoiser, trajectory: Tensor, schedule: Sequence[Step], first: int
) -> Iterator[tuple[int, Tensor]]:
    """The noise w_i that carries x_i to x_{i+1}: ``(x_{i+1} - mu(x_i, eps)) / sigma_i`` (2304.06140, eq. 5).

    Yields (i, w_i [4, h, w]) for i from ``first`` to the last step but one: the last takes no noise. Calls at
    different i do not depend on each other, so `BATCH` of them run at once.
    """
    indices = list(range(first, len(schedule) - 1))
    for start in range(0, len(indices), BATCH):
        chunk = indices[start : start + BATCH]
        x = trajectory[chunk]
        times = torch.tensor([schedule[i].t for i in chunk], device=x.device)
        for x_i, i, eps in zip(x, chunk, denoiser(x, times), strict=True):
            step = schedule[i]
            yield i, (trajectory[i + 1] - move(x_i, eps, step.abar, step.abar_prev, step.sigma)) / step.sigma


def redenoise(denoiser: Denoiser, branch: Branch, schedule: Sequence[Step], first: int) -> Iterator[tuple[int, Tensor]]:
    """Denoise x_first again with the branch's own noise maps: yields (i + 1, x_{i+1}), one call each."""
    z = branch.trajectory[first][None]
    for i in range(first, len(schedule)):
        noise = None if branch.maps is None or i == len(schedule) - 1 else branch.maps[i][None]
        z = denoise_step(z, denoiser(z, schedule[i].t), schedule[i], noise)
        yield i + 1, z[0]


@dataclass(frozen=True)
class Inverter:
    """Inverts latents as ``settings`` say: with ``inverting``, and denoised again with ``text`` if they ask for it."""

    inverting: Denoiser
    text: Denoiser
    settings: Settings
    schedule: Sequence[Step]

    def calls(self, *, maps: bool) -> int:
        """How many network steps `branch` takes."""
        executed = len(self.schedule) - self.settings.first_step
        inversion = len(self.schedule) if self.settings.inversion == "ddim" else (executed - 1 if maps else 0)
        return inversion + (executed if self.settings.redenoise else 0)

    def branch(self, clean: Tensor, noise: Tensor, *, maps: bool) -> Iterator[Branch | None]:
        """Invert ``clean`` [4, h, w] with the drawn ``noise`` [T, 4, h, w]: yields None per call, at last the branch.

        Noise maps exist for ``ddpm`` only and are computed where ``maps`` asks for them.
        """
        first = self.settings.first_step
        trajectory = ddpm_trajectory(clean, noise, self.schedule)
        found = None
        if self.settings.inversion == "ddim":
            for i, x in ddim_trajectory(self.inverting, clean, self.schedule):
                trajectory[i] = x
                yield None
        elif maps:
            found = torch.zeros_like(noise)
            for i, w in noise_maps(self.inverting, trajectory, self.schedule, first):
                found[i] = w
                yield None
        branch = Branch(trajectory, found)
        if self.settings.redenoise:
            again = trajectory.clone()
            for i, x in redenoise(self.text, branch, self.schedule, first):
                again[i] = x
                yield None
            branch = Branch(again, found)
        yield branch
