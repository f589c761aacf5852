"""From clean latents to the noisy trajectory x_0 … x_T that leads to them (docs/method.md, "Inversion").

``x_i`` is the latent that step i starts from, ``x_T`` the clean latents. Trajectories are [T + 1, 4, h, w].
Generators yield after each network call, so that a caller can show how far they are, and return their result.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.unet_blocks import AttentionFeatures, Layer
from sampler.conditioned_unet import Denoiser
from sampler.ddim import add_noise, ddim_step, denoise_step
from sampler.feature_cache import CacheEntry
from sampler.features import FeatureSchedule, row_of
from sampler.schedule import Step
from sampler.settings import Settings

Put = Callable[[AttentionFeatures], CacheEntry | None]
"""Finds a place for features, or has none."""

LayerSchedule = Mapping[int, Sequence[Layer]]
"""Single layers by step i."""


@dataclass(frozen=True)
class Trajectory:
    """``latents`` [T + 1, 4, h, w] and, where wanted, the ``noise_maps`` w_i [T, 4, h, w] that lead along them.

    Maps that were not computed are zero. ``cached`` holds by step i the features that came by on the way, and
    ``seen`` those of the plan's ``look``.
    """

    latents: Tensor
    noise_maps: Tensor | None
    cached: Mapping[int, CacheEntry]
    seen: AttentionFeatures = field(default_factory=dict)


@dataclass(frozen=True)
class InversionPlan:
    """The steps that take a network call each, decided before the first, and the features to keep on the way.

    ``look`` names single layers at steps of denoising again, for self-segmentation.
    """

    ddim: range
    noise_maps: range
    redenoise: range
    capture: FeatureSchedule
    look: LayerSchedule = field(default_factory=dict)

    @staticmethod
    def of(
        settings: Settings, *, noise_maps: bool, capture: FeatureSchedule, look: LayerSchedule | None = None
    ) -> InversionPlan:
        """What ``settings`` ask for. Noise maps, which exist for ``ddpm`` alone, are computed if ``noise_maps``."""
        # Denoising again runs through every executed step; z_out starts later where its way is known.
        first = settings.start_step if settings.redenoise else settings.computed_steps.start
        wanted = noise_maps and settings.inversion == "ddpm"
        return InversionPlan(
            ddim=range(settings.steps if settings.inversion == "ddim" else 0),
            noise_maps=range(first, settings.steps - 1) if wanted else range(0),
            redenoise=range(settings.start_step, settings.steps) if settings.redenoise else range(0),
            capture=capture,
            look=look or {},
        )

    @property
    def calls(self) -> int:
        """How often `invert` yields."""
        return len(self.ddim) + len(self.noise_maps) + len(self.redenoise)


def invert(
    plan: InversionPlan,
    inverting: Denoiser,
    text: Denoiser,
    clean: Tensor,
    noise: Tensor,
    schedule: Sequence[Step],
    *,
    batch: int,
    put: Put,
) -> Generator[None, None, Trajectory]:
    """Invert ``clean`` [4, h, w] with the drawn ``noise`` [T, 4, h, w], as ``plan`` says.

    ``inverting`` predicts the noise of the inversion, ``text`` that of denoising again; features are the same under
    both. What ``plan.capture`` asks for goes to ``put`` where a pass comes by it, the last one if there are two.
    ``batch`` latents go through the network at once where they do not depend on each other.
    """
    latents, found = ddpm_trajectory(clean, noise, schedule), None
    cached: dict[int, CacheEntry] = {}
    seen: AttentionFeatures = {}
    if plan.ddim:
        latents = yield from ddim_trajectory(inverting, clean, schedule)
    if plan.noise_maps:
        capture = {} if plan.redenoise else plan.capture
        found, cached = yield from noise_maps(inverting, latents, schedule, plan.noise_maps, capture, batch, put)
    if plan.redenoise:
        again = redenoise(text, latents, found, schedule, plan.redenoise, plan.capture, put, plan.look)
        latents, cached, seen = yield from again
    return Trajectory(latents, found, cached, seen)


def ddpm_trajectory(clean: Tensor, noise: Tensor, schedule: Sequence[Step]) -> Tensor:
    """Edit-friendly trajectory: every x_i noised independently (Huberman-Spiegelglas et al., 2304.06140, eq. 6).

    ``clean`` [4, h, w], ``noise`` [T, 4, h, w]. Needs no network.
    """
    noisy = [add_noise(clean, n, step.alpha_bar) for n, step in zip(noise, schedule, strict=True)]
    return torch.stack([*noisy, clean])


def ddim_trajectory(denoiser: Denoiser, clean: Tensor, schedule: Sequence[Step]) -> Generator[None, None, Tensor]:
    """DDIM inversion from ``clean`` [4, h, w] upwards, one call a step (Song et al., 2010.02502, section 4.3)."""
    z, latents = clean[None], [clean]
    for step in reversed(schedule):
        z = ddim_step(z, denoiser(z, step.t).eps, step.alpha_bar_prev, step.alpha_bar)
        latents.append(z[0])
        yield
    return torch.stack(latents[::-1])


def noise_maps(
    denoiser: Denoiser,
    latents: Tensor,
    schedule: Sequence[Step],
    wanted: range,
    capture: FeatureSchedule,
    batch: int,
    put: Put,
) -> Generator[None, None, tuple[Tensor, dict[int, CacheEntry]]]:
    """The noise w_i that carries x_i to x_{i+1}: ``(x_{i+1} - mu(x_i, eps)) / sigma_i`` (2304.06140, eq. 5).

    For the steps ``wanted``, of which the last of all takes no noise and is none. Returns w [T, 4, h, w], zero at other
    steps, and what was kept of the features that ``capture`` asks for. ``batch`` steps, which do not depend on each
    other, run at once.
    """
    maps = torch.zeros_like(latents[:-1])
    cached: dict[int, CacheEntry] = {}
    for start in wanted[::batch]:
        chunk = range(start, min(start + batch, wanted.stop))
        x = latents[chunk.start : chunk.stop]
        levels = sorted({level for i in chunk for level in capture.get(i, ())})
        predicted = denoiser(x, [schedule[i].t for i in chunk], capture=levels)
        for row, i in enumerate(chunk):
            step = schedule[i]
            mean = ddim_step(x[row], predicted.eps[row], step.alpha_bar, step.alpha_bar_prev, step.sigma)
            maps[i] = (latents[i + 1] - mean) / step.sigma
            _keep(row_of(predicted.features, row, capture.get(i, ())), i, cached, put)
            yield
    return maps, cached


def redenoise(
    denoiser: Denoiser,
    latents: Tensor,
    maps: Tensor | None,
    schedule: Sequence[Step],
    wanted: range,
    capture: FeatureSchedule,
    put: Put,
    look: LayerSchedule,
) -> Generator[None, None, tuple[Tensor, dict[int, CacheEntry], AttentionFeatures]]:
    """Denoise again with the noise ``maps`` of the image's own inversion, one call for each step ``wanted``.

    Returns the trajectory [T + 1, 4, h, w] from there on, what was kept of the features that ``capture`` asks for, and
    the features of the layers that ``look`` names.
    """
    again = latents.clone()
    cached: dict[int, CacheEntry] = {}
    seen: dict[Layer, Tensor] = {}
    z = latents[wanted.start][None]
    for i in wanted:
        levels, layers = capture.get(i, ()), look.get(i, ())
        predicted = denoiser(z, schedule[i].t, capture=(*levels, *layers))
        z = denoise_step(z, predicted.eps, schedule[i], None if maps is None or i == len(schedule) - 1 else maps[i])
        again[i + 1] = z[0]
        _keep(row_of(predicted.features, 0, levels), i, cached, put)
        seen.update((layer, predicted.features[layer]) for layer in layers)
        yield
    return again, cached, seen


def _keep(features: AttentionFeatures, i: int, cached: dict[int, CacheEntry], put: Put) -> None:
    entry = put(features) if features else None
    if entry is not None:
        cached[i] = entry
