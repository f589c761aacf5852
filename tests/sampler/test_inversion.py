from __future__ import annotations

from dataclasses import replace

import torch

from model.unet import Layer
from sampler.ddim import ddim_step, denoise_step, predict_x0
from sampler.inversion import Inverter, Trajectory, ddim_trajectory, ddpm_trajectory, keep_all, noise_maps, redenoise
from sampler.schedule import steps
from sampler.settings import Settings, Span


class Smooth:
    """A stand-in for a network that depends on latents and timestep; as keys and values it lends the latents."""

    def __call__(self, z, t):
        time = torch.tensor(t, dtype=z.dtype).reshape(-1, 1, 1, 1) / 1000
        return torch.tanh(0.7 * z + time) + 0.1 * z.roll(1, dims=-1)

    def record(self, z, t, levels):
        return self(z, t), {Layer(level, 0): z.flatten(2) for level in levels}


denoiser = Smooth()


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_noise_maps_lead_from_any_start_back_to_the_clean_latents():
    schedule, clean = steps(20), randn(4, 8, 8)
    trajectory = ddpm_trajectory(clean, randn(20, 4, 8, 8, seed=1), schedule)
    for first in (0, 6, 18):
        maps = torch.full((20, 4, 8, 8), torch.nan, dtype=torch.float64)
        for i, w, _ in noise_maps(denoiser, trajectory, schedule, first, {}, 4):
            maps[i] = w
        again = redenoise(denoiser, trajectory, maps, schedule, first, {})
        visited = {i + 1: x for i, x, _ in again}
        for i in range(first + 1, 20):
            torch.testing.assert_close(visited[i], trajectory[i], rtol=1e-9, atol=1e-9)
        # The last step takes no noise, so it ends where the network leads, not at the clean latents.
        expected = ddim_step(
            trajectory[19],
            denoiser(trajectory[19][None], 1)[0],
            schedule[19].alpha_bar,
            schedule[19].alpha_bar_prev,
            schedule[19].sigma,
        )
        torch.testing.assert_close(visited[20], expected, rtol=1e-9, atol=1e-9)


def test_noise_maps_do_not_depend_on_the_batch():
    schedule = steps(10)
    trajectory = ddpm_trajectory(randn(4, 8, 8), randn(10, 4, 8, 8, seed=1), schedule)
    together = {i: w for i, w, _ in noise_maps(denoiser, trajectory, schedule, 2, {}, 4)}
    alone = {i: w for i, w, _ in noise_maps(denoiser, trajectory, schedule, 2, {}, 1)}
    assert sorted(together) == sorted(alone) == list(range(2, 9))
    for i in alone:
        torch.testing.assert_close(together[i], alone[i], rtol=1e-12, atol=1e-12)


def test_every_ddpm_latent_is_noised_by_its_own_noise():
    schedule, clean, noise = steps(5), randn(4, 8, 8), randn(5, 4, 8, 8, seed=1)
    trajectory = ddpm_trajectory(clean, noise, schedule)
    torch.testing.assert_close(trajectory[5], clean)
    for i, step in enumerate(schedule):
        torch.testing.assert_close(predict_x0(trajectory[i], noise[i], step.alpha_bar), clean, rtol=1e-9, atol=1e-9)


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
        (Settings(steps=12, skip_steps=3, cross_attn_64=Span(0, 9)), True, 8),
        (Settings(steps=12, skip_steps=3, cross_attn_64=Span(5, 9), cross_attn_32=None), True, 3),
        (Settings(steps=12, skip_steps=3, cross_attn_64=Span(5, 9), fresh_noise=0.5), True, 8),
        (Settings(steps=12, skip_steps=3, redenoise=True), True, 8 + 9),
        (Settings(steps=12, inversion="ddim"), False, 12),
    ]
    for settings, maps, expected in cases:
        inverter = Inverter(denoiser, denoiser, settings, schedule, batch=4)
        noise = randn(12, 4, 8, 8, seed=1)
        *taken, last = list(inverter.branch(randn(4, 8, 8), noise, maps=maps, lending={}, keep=keep_all))
        assert isinstance(last, Trajectory)
        assert len(taken) == inverter.calls(maps=maps) == expected


def test_what_is_lent_is_kept_of_just_the_steps_and_levels_asked_for():
    schedule, lending = steps(12), {5: (0, 1), 6: (0,), 11: (1,)}
    settings = Settings(steps=12, skip_steps=3, cross_attn_64=Span(0, 9))
    for again in (False, True):
        inverter = Inverter(denoiser, denoiser, replace(settings, redenoise=again), schedule, batch=4)
        noise = randn(12, 4, 8, 8, seed=1)
        *_, branch = inverter.branch(randn(4, 8, 8), noise, maps=True, lending=lending, keep=keep_all)
        # No noise map is computed at the last step, so only denoising again comes by what it lends.
        expected = lending if again else {5: (0, 1), 6: (0,)}
        kept = {i: item.fetch(torch.device("cpu")) for i, item in branch.kept.items()}
        assert {i: tuple(sorted(layer.level for layer in lent)) for i, lent in kept.items()} == expected
        for i, lent in kept.items():
            for tokens in lent.values():
                torch.testing.assert_close(tokens[0], branch.trajectory[i].flatten(1), rtol=1e-9, atol=1e-9)
                assert tokens.untyped_storage().nbytes() == tokens.nbytes, "a part of a batch keeps the whole batch"
