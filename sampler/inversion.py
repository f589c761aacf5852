"""From clean latents to the noisy trajectory x_0 … x_T that leads to them (method.md, "Inversion").

``x_i`` is the latent that step i starts from, ``x_T`` the clean latents. Trajectories are [T + 1, 4, h, w].
Functions that call the network yield after each call, so that a caller can show how far they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model.unet import AttentionFeatures
from sampler.conditioned_unet import Denoiser
from sampler.ddim import add_noise, ddim_step, denoise_step
from sampler.feature_cache import CacheEntry, InMemory, own
from sampler.schedule import Step
from sampler.settings import Settings

FeatureSchedule = Mapping[int, Sequence[int]]
"""Decoder levels at which an image is to lend its tokens, by step i."""

Keep = Callable[[AttentionFeatures], CacheEntry | None]
"""Finds a place for what an image lends, or has none for it."""


@dataclass(frozen=True)
class Trajectory:
    """A trajectory [T + 1, 4, h, w] and, where wanted, the noise maps w_i [T, 4, h, w] along it.

    Maps before the first wanted step are zero and stand for "not computed". ``kept`` holds by step i what came by on
    the way for others to borrow.
    """

    trajectory: Tensor
    maps: Tensor | None
    kept: Mapping[int, CacheEntry]


def keep_all(lent: AttentionFeatures) -> CacheEntry:
    """Keep where it is."""
    return InMemory({layer: own(tokens) for layer, tokens in lent.items()})


def ddpm_trajectory(clean: Tensor, noise: Tensor, schedule: Sequence[Step]) -> Tensor:
    """Edit-friendly trajectory: every x_i noised independently (Huberman-Spiegelglas et al., 2304.06140, eq. 6).

    ``clean`` [4, h, w], ``noise`` [T, 4, h, w]. Needs no network.
    """
    noisy = [add_noise(clean, n, step.alpha_bar) for n, step in zip(noise, schedule, strict=True)]
    return torch.stack([*noisy, clean])


def ddim_trajectory(denoiser: Denoiser, clean: Tensor, schedule: Sequence[Step]) -> Iterator[tuple[int, Tensor]]:
    """DDIM inversion from ``clean`` [4, h, w] upwards: yields (i, x_i) for i = T - 1 … 0, one call each."""
    z = clean[None]
    for i in reversed(range(len(schedule))):
        step = schedule[i]
        z = ddim_step(z, denoiser(z, step.t), step.alpha_bar_prev, step.alpha_bar)
        yield i, z[0]


def noise_maps(
    denoiser: Denoiser, trajectory: Tensor, schedule: Sequence[Step], first: int, lending: FeatureSchedule, batch: int
) -> Iterator[tuple[int, Tensor, AttentionFeatures]]:
    """The noise w_i that carries x_i to x_{i+1}: ``(x_{i+1} - mu(x_i, eps)) / sigma_i`` (2304.06140, eq. 5).

    Yields (i, w_i [4, h, w], what ``lending`` asks for) for i from ``first`` to the last step but one: the last takes
    no noise. Calls at different i do not depend on each other, so ``batch`` of them run at once.
    """
    indices = range(first, len(schedule) - 1)
    for start in indices[::batch]:
        chunk = range(start, min(start + batch, indices.stop))
        x = trajectory[chunk.start : chunk.stop]
        times = [schedule[i].t for i in chunk]
        levels = sorted({level for i in chunk for level in lending.get(i, ())})
        predicted, lent = denoiser.record(x, times, levels) if levels else (denoiser(x, times), {})
        for row, (i, eps) in enumerate(zip(chunk, predicted, strict=True)):
            step = schedule[i]
            mean = ddim_step(x[row], eps, step.alpha_bar, step.alpha_bar_prev, step.sigma)
            yield i, (trajectory[i + 1] - mean) / step.sigma, one(lent, row, lending.get(i, ()))


def one(lent: AttentionFeatures, row: int, levels: Sequence[int]) -> AttentionFeatures:
    """What one image of a batch lends at ``levels``."""
    return {layer: tokens[row : row + 1] for layer, tokens in lent.items() if layer.level in levels}


def redenoise(
    denoiser: Denoiser,
    trajectory: Tensor,
    maps: Tensor | None,
    schedule: Sequence[Step],
    first: int,
    lending: FeatureSchedule,
) -> Iterator[tuple[int, Tensor, AttentionFeatures]]:
    """Denoise x_first again with the noise maps of its own inversion, one call a step.

    Yields (i, x_{i+1} [4, h, w], what ``lending`` asks for at x_i) for i from ``first`` on.
    """
    z = trajectory[first][None]
    for i in range(first, len(schedule)):
        step, levels = schedule[i], lending.get(i, ())
        eps, lent = denoiser.record(z, step.t, levels) if levels else (denoiser(z, step.t), {})
        noise = None if maps is None or i == len(schedule) - 1 else maps[i][None]
        z = denoise_step(z, eps, step, noise)
        yield i, z[0], lent


@dataclass(frozen=True)
class Inverter:
    """Inverts latents as ``settings`` say: with ``inverting``, and denoised again with ``text`` if they ask for it.

    ``text`` is the prediction that ``inverting`` guides, so that what is lent on either way is the same. ``batch``
    latents go through the network at once.
    """

    inverting: Denoiser
    text: Denoiser
    settings: Settings
    schedule: Sequence[Step]
    batch: int

    @property
    def _first_map(self) -> int:
        # Denoising again runs through every executed step; z_out starts later where its way is known.
        return self.settings.start_step + (0 if self.settings.redenoise else self.settings.num_known_steps)

    def calls(self, *, maps: bool) -> int:
        """How many network steps `branch` takes."""
        inversion = len(self.schedule) if self.settings.inversion == "ddim" else 0
        if self.settings.inversion == "ddpm" and maps:
            inversion = len(self.schedule) - 1 - self._first_map
        return inversion + (self.settings.num_denoising_steps if self.settings.redenoise else 0)

    def branch(
        self, clean: Tensor, noise: Tensor, *, maps: bool, lending: FeatureSchedule, keep: Keep
    ) -> Iterator[Trajectory | None]:
        """Invert ``clean`` [4, h, w] with the drawn ``noise`` [T, 4, h, w]: yields None per call, at last the branch.

        Noise maps exist for ``ddpm`` only and are computed where ``maps`` asks for them. What ``lending`` asks for is
        given to ``keep`` if a pass for something else comes by it.
        """
        settings = self.settings
        trajectory = ddpm_trajectory(clean, noise, self.schedule)
        found = None
        kept: dict[int, CacheEntry | None] = {}
        if settings.inversion == "ddim":
            for i, x in ddim_trajectory(self.inverting, clean, self.schedule):
                trajectory[i] = x
                yield None
        elif maps:
            found = torch.zeros_like(noise)
            passing = {} if settings.redenoise else lending
            for i, w, lent in noise_maps(
                self.inverting, trajectory, self.schedule, self._first_map, passing, self.batch
            ):
                found[i] = w
                kept[i] = keep(lent) if lent else None
                yield None
        if settings.redenoise:
            again = trajectory.clone()
            first = settings.start_step
            for i, x, lent in redenoise(self.text, trajectory, found, self.schedule, first, lending):
                again[i + 1] = x
                kept[i] = keep(lent) if lent else None
                yield None
            trajectory = again
        yield Trajectory(trajectory, found, {i: item for i, item in kept.items() if item is not None})
