from __future__ import annotations

import torch

from sampler.ddim import denoise_step, move, predict_clean
from sampler.inversion import Branch, Inverter, ddim_trajectory, ddpm_trajectory, noise_maps, redenoise
from sampler.schedule import steps
from sampler.settings import Settings


def denoiser(z, t):
    """A smooth stand-in for a network that depends on latents and timestep."""
    time = torch.as_tensor(t, dtype=z.dtype).reshape(-1, 1, 1, 1) / 1000
    return torch.tanh(0.7 * z + time) + 0.1 * z.roll(1, dims=-1)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_noise_maps_lead_from_any_start_back_to_the_clean_latents():
    schedule, clean = steps(20), randn(4, 8, 8)
    trajectory = ddpm_trajectory(clean, randn(20, 4, 8, 8, seed=1), schedule)
    for first in (0, 6, 18):
        maps = torch.full((20, 4, 8, 8), torch.nan, dtype=torch.float64)
        for i, w in noise_maps(denoiser, trajectory, schedule, first):
            maps[i] = w
        visited = dict(redenoise(denoiser, Branch(trajectory, maps), schedule, first))
        for i in range(first + 1, 20):
            torch.testing.assert_close(visited[i], trajectory[i], rtol=1e-9, atol=1e-9)
        # The last step takes no noise, so it ends where the network leads, not at the clean latents.
        expected = move(
            trajectory[19],
            denoiser(trajectory[19][None], 1)[0],
            schedule[19].abar,
            schedule[19].abar_prev,
            schedule[19].sigma,
        )
        torch.testing.assert_close(visited[20], expected, rtol=1e-9, atol=1e-9)


def test_noise_maps_do_not_depend_on_the_batch(monkeypatch):
    schedule = steps(10)
    trajectory = ddpm_trajectory(randn(4, 8, 8), randn(10, 4, 8, 8, seed=1), schedule)
    together = dict(noise_maps(denoiser, trajectory, schedule, 2))
    monkeypatch.setattr("sampler.inversion.BATCH", 1)
    alone = dict(noise_maps(denoiser, trajectory, schedule, 2))
    assert sorted(together) == sorted(alone) == list(range(2, 9))
    for i in alone:
        torch.testing.assert_close(together[i], alone[i], rtol=1e-12, atol=1e-12)


def test_every_ddpm_latent_is_noised_by_its_own_noise():
    schedule, clean, noise = steps(5), randn(4, 8, 8), randn(5, 4, 8, 8, seed=1)
    trajectory = ddpm_trajectory(clean, noise, schedule)
    torch.testing.assert_close(trajectory[5], clean)
    for i, step in enumerate(schedule):
        torch.testing.assert_close(predict_clean(trajectory[i], noise[i], step.abar), clean, rtol=1e-9, atol=1e-9)


def test_ddim_inversion_with_the_same_prediction_is_undone_by_ddim():
    """With a prediction that depends on t alone, inversion and denoising are each other's inverse."""
    schedule = [step.deterministic() for step in steps(25)]
    directions = {step.t: randn(1, 4, 8, 8, seed=step.t) for step in schedule}
    clean = randn(4, 8, 8)
    *_, (i, z) = ddim_trajectory(lambda z, t: directions[t], clean, schedule)
    assert i == 0
    z = z[None]
    for step in schedule:
        z = denoise_step(z, directions[step.t], step, None)
    torch.testing.assert_close(z[0], clean, rtol=1e-9, atol=1e-9)


def test_a_branch_takes_as_many_steps_as_announced():
    schedule = steps(12)
    cases = [
        (Settings(steps=12, skip_steps=3), False, 0),
        (Settings(steps=12, skip_steps=3), True, 8),
        (Settings(steps=12, skip_steps=3, redenoise=True), True, 8 + 9),
        (Settings(steps=12, inversion="ddim"), False, 12),
    ]
    for settings, maps, expected in cases:
        inverter = Inverter(denoiser, denoiser, settings, schedule)
        *taken, last = list(inverter.branch(randn(4, 8, 8), randn(12, 4, 8, 8, seed=1), maps=maps))
        assert isinstance(last, Branch)
        assert len(taken) == inverter.calls(maps=maps) == expected
