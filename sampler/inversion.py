"""From clean latents to the noisy trajectory x_0 … x_T that leads to them (method.md, "Inversion").

``x_i`` is the latent that step i starts from, ``x_T`` the clean latents. Trajectories are [T + 1, 4, h, w].
Functions that call the network yield after each call, so that a caller can show how far they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.layers import KeyValue
from model.unet import KeysValues
from sampler.ddim import Denoiser, add_noise, denoise_step, move
from sampler.schedule import Step
from sampler.settings import Settings

BATCH = 4

Lending = Mapping[int, Sequence[int]]
"""Decoder levels whose keys and values are wanted of a trajectory, by step i."""


@dataclass(frozen=True)
class Branch:
    """A trajectory [T + 1, 4, h, w] and, where wanted, the noise maps w_i [T, 4, h, w] along it.

    Maps before the first wanted step are zero and stand for "not computed". ``lends`` holds keys and values by step i,
    those that came by on the way.
    """

    trajectory: Tensor
    maps: Tensor | None
    lends: Mapping[int, KeysValues] = field(default_factory=dict)


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
    denoiser: Denoiser, trajectory: Tensor, schedule: Sequence[Step], first: int, lending: Lending
) -> Iterator[tuple[int, Tensor, KeysValues]]:
    """The noise w_i that carries x_i to x_{i+1}: ``(x_{i+1} - mu(x_i, eps)) / sigma_i`` (2304.06140, eq. 5).

    Yields (i, w_i [4, h, w], keys and values asked for by ``lending``) for i from ``first`` to the last step but one:
    the last takes no noise. Calls at different i do not depend on each other, so `BATCH` of them run at once.
    """
    indices = list(range(first, len(schedule) - 1))
    for start in range(0, len(indices), BATCH):
        chunk = indices[start : start + BATCH]
        x = trajectory[chunk]
        times = torch.tensor([schedule[i].t for i in chunk], device=x.device)
        levels = sorted({level for i in chunk for level in lending.get(i, ())})
        predicted, recorded = denoiser.record(x, times, levels) if levels else (denoiser(x, times), {})
        for row, (i, eps) in enumerate(zip(chunk, predicted, strict=True)):
            step = schedule[i]
            mean = move(x[row], eps, step.abar, step.abar_prev, step.sigma)
            yield i, (trajectory[i + 1] - mean) / step.sigma, _row(recorded, row, lending.get(i, ()))


def _row(recorded: KeysValues, row: int, levels: Sequence[int]) -> KeysValues:
    """One image's keys and values of a batch's, copied so that the batch's memory is freed."""
    chosen = {layer: pair for layer, pair in recorded.items() if layer.level in levels}
    return {layer: KeyValue(*(t[row : row + 1].clone() for t in pair)) for layer, pair in chosen.items()}


def redenoise(
    denoiser: Denoiser, branch: Branch, schedule: Sequence[Step], first: int, lending: Lending
) -> Iterator[tuple[int, Tensor, KeysValues]]:
    """Denoise x_first again with the branch's own noise maps, one call a step.

    Yields (i, x_{i+1} [4, h, w], keys and values of x_i asked for by ``lending``) for i from ``first`` on.
    """
    z = branch.trajectory[first][None]
    for i in range(first, len(schedule)):
        step, levels = schedule[i], lending.get(i, ())
        eps, recorded = denoiser.record(z, step.t, levels) if levels else (denoiser(z, step.t), {})
        noise = None if branch.maps is None or i == len(schedule) - 1 else branch.maps[i][None]
        z = denoise_step(z, eps, step, noise)
        yield i, z[0], recorded


@dataclass(frozen=True)
class Inverter:
    """Inverts latents as ``settings`` say: with ``inverting``, and denoised again with ``text`` if they ask for it.

    ``text`` is the prediction that ``inverting`` guides, so that keys and values kept on either way are the same.
    """

    inverting: Denoiser
    text: Denoiser
    settings: Settings
    schedule: Sequence[Step]

    @property
    def _first_map(self) -> int:
        # Denoising again runs through every executed step; z_out starts later where its way is known.
        return self.settings.first_step + (0 if self.settings.redenoise else self.settings.untouched)

    def calls(self, *, maps: bool) -> int:
        """How many network steps `branch` takes."""
        inversion = len(self.schedule) if self.settings.inversion == "ddim" else 0
        if self.settings.inversion == "ddpm" and maps:
            inversion = len(self.schedule) - 1 - self._first_map
        return inversion + (self.settings.executed if self.settings.redenoise else 0)

    def branch(
        self, clean: Tensor, noise: Tensor, *, maps: bool, lending: Lending | None = None
    ) -> Iterator[Branch | None]:
        """Invert ``clean`` [4, h, w] with the drawn ``noise`` [T, 4, h, w]: yields None per call, at last the branch.

        Noise maps exist for ``ddpm`` only and are computed where ``maps`` asks for them. Keys and values asked for by
        ``lending`` are kept if a pass for something else comes by them.
        """
        settings, wanted = self.settings, {} if lending is None else lending
        trajectory = ddpm_trajectory(clean, noise, self.schedule)
        found = None
        lends: dict[int, KeysValues] = {}
        if settings.inversion == "ddim":
            for i, x in ddim_trajectory(self.inverting, clean, self.schedule):
                trajectory[i] = x
                yield None
        elif maps:
            found = torch.zeros_like(noise)
            passing = {} if settings.redenoise else wanted
            for i, w, recorded in noise_maps(self.inverting, trajectory, self.schedule, self._first_map, passing):
                found[i] = w
                lends |= {i: recorded} if recorded else {}
                yield None
        branch = Branch(trajectory, found, lends)
        if settings.redenoise:
            again = trajectory.clone()
            for i, x, recorded in redenoise(self.text, branch, self.schedule, settings.first_step, wanted):
                again[i + 1] = x
                lends |= {i: recorded} if recorded else {}
                yield None
            branch = Branch(again, found, lends)
        yield branch
