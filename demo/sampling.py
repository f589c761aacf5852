"""Samples from captions, to see how the training goes."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from demo.training import contact_sheet
from model.clip import TextEncoder
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from sampler.ddim import denoise_step
from sampler.schedule import steps

_PROMPTS = (
    "an immunohistochemistry image of epithelium and stroma",
    "an immunohistochemistry image of epithelium and stroma",
    "an immunohistochemistry image with brown epithelium and blue nuclei",
    "an immunohistochemistry image with brown nuclei in the epithelium",
)


@torch.no_grad()
def sample(
    unet: UNet,
    text_encoder: TextEncoder,
    prompts: list[str],
    *,
    side: int,
    count: int,
    scale: float,
    seed: int,
) -> Tensor:
    """Latents [B, 4, side, side] by DDIM in ``count`` steps with classifier-free guidance ``scale``."""
    device = next(unet.parameters()).device
    ids = Tokenizer()([*prompts, *[""] * len(prompts)]).to(device)
    context = text_encoder(ids)
    z = torch.randn(len(prompts), 4, side, side, generator=torch.Generator().manual_seed(seed)).to(device)
    for step in steps(count):
        with_text, without = unet(torch.cat([z, z]), step.t, context).chunk(2)
        z = denoise_step(z, without + scale * (with_text - without), step.deterministic(), None)
    return z


@torch.no_grad()
def picture_samples(path: Path, unet: UNet, text_encoder: TextEncoder, vae: VAE, count: int = 12) -> None:
    """A row of 256×256 samples at guidance 2, one per prompt; few steps, since the training waits."""
    latents = sample(unet, text_encoder, list(_PROMPTS), side=32, count=count, scale=2.0, seed=1)
    contact_sheet(path, torch.cat([vae.decode(z[None]) for z in latents]), columns=len(_PROMPTS))
