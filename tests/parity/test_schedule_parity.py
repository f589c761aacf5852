"""Schedule and step against diffusers' DDIMScheduler with SD-1.x's scheduler file."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from sampler.conditioned_unet import TextConditionedUNet
from sampler.ddim import ddim_step, denoise_step
from sampler.feature_cache import in_place
from sampler.inversion import ddpm_trajectory, noise_maps
from sampler.schedule import cumulative_alphas, steps
from sampler.ticks import result_of

SD_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}


def test_noise_levels_are_those_of_diffusers():
    theirs = DDIMScheduler(**SD_SCHEDULER).alphas_cumprod
    # diffusers multiplies 1000 float32 factors, each rounding once; ours are rounded once at the end.
    torch.testing.assert_close(cumulative_alphas(), theirs, rtol=1000 * 2**-24, atol=0)


@pytest.mark.parametrize("count", [1, 7, 20, 50, 100, 333, 999])
def test_timesteps_are_those_of_diffusers(count):
    scheduler = DDIMScheduler(**SD_SCHEDULER)
    scheduler.set_timesteps(count)
    assert [step.t for step in steps(count)] == scheduler.timesteps.tolist()


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("index", [0, 31, 98, 99])
def test_a_step_is_that_of_diffusers(eta, index):
    scheduler = DDIMScheduler(**SD_SCHEDULER)
    scheduler.alphas_cumprod = cumulative_alphas().double()
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(100)
    x, eps, noise = torch.randn(3, 2, 4, 8, 8, generator=torch.Generator().manual_seed(index), dtype=torch.float64)
    step = steps(100)[index]
    expected = scheduler.step(eps, step.t, x, eta=eta, variance_noise=noise if eta else None).prev_sample
    ours = denoise_step(x, eps, step if eta else step.deterministic(), noise if eta else None)
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


def test_inverting_a_step_is_what_diffusers_inverse_scheduler_does():
    from diffusers import DDIMInverseScheduler

    settings = {k: v for k, v in SD_SCHEDULER.items() if k != "set_alpha_to_one"}
    inverse = DDIMInverseScheduler(**settings, set_alpha_to_one=False)
    inverse.alphas_cumprod = cumulative_alphas().double()
    inverse.initial_alpha_cumprod = inverse.alphas_cumprod[0]
    inverse.set_timesteps(100)
    x, eps = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = steps(100)[40]
    expected = inverse.step(eps, step.t, x).prev_sample
    torch.testing.assert_close(ddim_step(x, eps, step.alpha_bar_prev, step.alpha_bar), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-9), (torch.float32, 20 * 100 * 2**-23)])
@torch.no_grad()
def test_our_noise_maps_lead_diffusers_back_along_the_trajectory(dtype, bound, tiny_pair):
    """Inversion by ours, denoising by diffusers' UNet and scheduler; float32 rounds ~100 times in each of 20 steps."""
    ours, theirs = tiny_pair(dtype)
    generator = torch.Generator().manual_seed(2)
    clean, noise = torch.randn(4, 8, 16, generator=generator), torch.randn(20, 4, 8, 16, generator=generator)
    context = torch.randn(1, 77, ours.config.unet.cross_attention_dim, generator=generator).to(dtype)
    schedule = steps(20)
    trajectory = ddpm_trajectory(clean.to(dtype), noise.to(dtype), schedule)
    denoiser = TextConditionedUNet.of(ours.unet, context, [step.t for step in schedule])
    maps, _ = result_of(noise_maps(denoiser, trajectory, schedule, range(4, 19), {}, 4, in_place))

    scheduler = DDIMScheduler(**SD_SCHEDULER)
    scheduler.alphas_cumprod = cumulative_alphas().double()
    scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    scheduler.set_timesteps(20)
    x = trajectory[4][None]
    for i in range(4, 19):
        eps = theirs.unet(x, schedule[i].t, encoder_hidden_states=context).sample
        x = scheduler.step(eps, schedule[i].t, x, eta=1.0, variance_noise=maps[i][None]).prev_sample.to(dtype)
        assert (x[0] - trajectory[i + 1]).norm() <= bound * trajectory[i + 1].norm()
