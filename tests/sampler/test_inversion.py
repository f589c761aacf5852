from __future__ import annotations

from dataclasses import replace

import torch

from model.unet import Prediction
from model.unet_blocks import Layer
from sampler.ddim import ddim_step, denoise_step, predict_x0
from sampler.feature_cache import in_place
from sampler.inversion import InversionPlan, ddim_trajectory, ddpm_trajectory, invert, noise_maps, redenoise
from sampler.schedule import steps
from sampler.settings import Settings, Span
from sampler.ticks import result_of


def denoiser(z, t, *, capture=()):
    """A stand-in for a network that depends on latents and timestep; its features are the latents."""
    time = torch.tensor(t, dtype=z.dtype).reshape(-1, 1, 1, 1) / 1000
    eps = torch.tanh(0.7 * z + time) + 0.1 * z.roll(1, dims=-1)
    return Prediction(eps, {Layer(level, 0): z.flatten(2) for level in capture})


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_noise_maps_lead_from_any_start_back_to_the_clean_latents():
    schedule, clean = steps(20), randn(4, 8, 8)
    trajectory = ddpm_trajectory(clean, randn(20, 4, 8, 8, seed=1), schedule)
    for first in (0, 6, 18):
        maps, _ = result_of(noise_maps(denoiser, trajectory, schedule, range(first, 19), {}, 4, in_place))
        assert not maps[:first].any()
        visited, *_ = result_of(redenoise(denoiser, trajectory, maps, schedule, range(first, 20), {}, in_place, {}))
        for i in range(first + 1, 20):
            torch.testing.assert_close(visited[i], trajectory[i], rtol=1e-9, atol=1e-9)
        # The last step takes no noise, so it ends where the network leads, not at the clean latents.
        expected = ddim_step(
            trajectory[19],
            denoiser(trajectory[19][None], 1).eps[0],
            schedule[19].alpha_bar,
            schedule[19].alpha_bar_prev,
            schedule[19].sigma,
        )
        torch.testing.assert_close(visited[20], expected, rtol=1e-9, atol=1e-9)


def test_noise_maps_do_not_depend_on_the_batch():
    schedule = steps(10)
    trajectory = ddpm_trajectory(randn(4, 8, 8), randn(10, 4, 8, 8, seed=1), schedule)
    together, alone = (
        result_of(noise_maps(denoiser, trajectory, schedule, range(2, 9), {}, batch, in_place))[0] for batch in (4, 1)
    )
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert [i for i in range(10) if alone[i].any()] == list(range(2, 9))


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
    trajectory = result_of(ddim_trajectory(lambda z, t: Prediction(directions[t], {}), clean, schedule))
    assert trajectory.shape == (26, 4, 8, 8)
    torch.testing.assert_close(trajectory[25], clean, rtol=0, atol=0)
    z = trajectory[:1]
    for step in schedule:
        z = denoise_step(z, directions[step.t], step, None)
    torch.testing.assert_close(z[0], clean, rtol=1e-9, atol=1e-9)


def test_an_inversion_takes_as_many_calls_as_its_plan_says():
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
        plan = InversionPlan.of(settings, noise_maps=maps, capture={})
        noise = randn(12, 4, 8, 8, seed=1)
        work = invert(plan, denoiser, denoiser, randn(4, 8, 8), noise, schedule, batch=4, put=in_place)
        assert len(list(work)) == plan.calls == expected


def test_features_are_kept_of_just_the_steps_and_levels_asked_for():
    schedule, capture = steps(12), {5: (0, 1), 6: (0,), 11: (1,)}
    settings = Settings(steps=12, skip_steps=3, cross_attn_64=Span(0, 9))
    for again in (False, True):
        plan = InversionPlan.of(replace(settings, redenoise=again), noise_maps=True, capture=capture)
        noise = randn(12, 4, 8, 8, seed=1)
        trajectory = result_of(invert(plan, denoiser, denoiser, randn(4, 8, 8), noise, schedule, batch=4, put=in_place))
        # No noise map is computed at the last step, so only denoising again comes by its features.
        expected = capture if again else {5: (0, 1), 6: (0,)}
        cached = {i: entry.fetch(torch.device("cpu")) for i, entry in trajectory.cached.items()}
        assert {i: tuple(sorted(layer.level for layer in found)) for i, found in cached.items()} == expected
        for i, found in cached.items():
            for tokens in found.values():
                torch.testing.assert_close(tokens[0], trajectory.latents[i].flatten(1), rtol=1e-9, atol=1e-9)
                assert tokens.untyped_storage().nbytes() == tokens.nbytes, "a part of a batch keeps the whole batch"
