"""The whole method on a CUDA device: graphs, Triton and other layouts give what plain PyTorch gives. `make gpu`."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from model import StableDiffusion
from model.clip import TextEncoder
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.stable_diffusion import lay_out_for_gpu
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from sampler.execution import Execution
from sampler.feature_cache import CacheBudget
from tests.sampler.cases import CASES, SHORT, run, tasks

pytestmark = pytest.mark.gpu

# Heads wide enough for the kernels.
CONFIG = ModelConfig(
    unet=UNetConfig(block_out_channels=(64, 128, 128, 128), num_heads=2, cross_attention_dim=12, groups=8),
    vae=VAEConfig(block_out_channels=(8, 8, 16, 16), groups=4),
    text=TextConfig(width=12, mlp_width=24, layers=2, num_heads=2),
)


def build() -> StableDiffusion:
    """Seeded random weights in float64 on the CPU."""
    torch.manual_seed(0)
    parts = [UNet(CONFIG.unet), VAE(CONFIG.vae), TextEncoder(CONFIG.text)]
    unet, vae, text = (part.double().eval().requires_grad_(False) for part in parts)
    return StableDiffusion(unet, vae, text, Tokenizer(), CONFIG, "small")


def on_gpu(exact: StableDiffusion, dtype: torch.dtype, *, laid_out: bool) -> StableDiffusion:
    unet, vae, text = (copy.deepcopy(part).to("cuda", dtype) for part in (exact.unet, exact.vae, exact.text_encoder))
    if laid_out:
        lay_out_for_gpu(unet, vae)
    return replace(exact, unet=unet, vae=vae, text_encoder=text)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["winter", "ddim", "alaluf"])
def test_every_way_on_the_gpu_is_as_accurate_as_plain_pytorch_there(name, dtype):
    exact, settings, work = build(), replace(SHORT, **CASES[name]), tasks()
    truth = run(exact, work, settings, Execution())
    plain = run(on_gpu(exact, dtype, laid_out=False), work, settings, Execution(batch=2))
    room = CacheBudget(device=10**5, host=10**9)
    ways = {
        "layouts": Execution(batch=2),
        "graphs": Execution(batch=2, graphs=True),
        "triton": Execution(impl="triton", batch=2),
        "all": Execution(impl="triton", batch=2, graphs=True, budget=room),
    }
    model = on_gpu(exact, dtype, laid_out=True)
    for way, execution in ways.items():
        results = run(model, work, settings, execution)
        for index, true in truth.items():
            error, allowed = ((r[index].latents - true.latents).norm() for r in (results, plain))
            assert error <= 2 * allowed + torch.finfo(dtype).eps * true.latents.norm(), f"{way}, image {index}"


def test_graphs_replayed_give_what_the_calls_give_that_they_record():
    exact, work = build(), tasks()[:1]
    model = on_gpu(exact, torch.float16, laid_out=True)
    eager, replayed = (run(model, work, SHORT, Execution(batch=2, graphs=graphs)) for graphs in (False, True))
    torch.testing.assert_close(replayed[0].latents, eager[0].latents, rtol=1e-3, atol=1e-3)
