"""A Stable Diffusion of full size with seeded random weights: time and memory do not depend on what weights are."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

from model import StableDiffusion
from model.checkpoint.load import lay_out_for_gpu
from model.checkpoint.load_state import build_empty
from model.clip import TextEncoder
from model.config import SD15, ModelConfig
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE

_Network = TypeVar("_Network", bound=nn.Module)

EMBEDDING_DEVIATION = 0.02


def random_model(
    dtype: torch.dtype, device: torch.device, *, seed: int = 0, config: ModelConfig = SD15
) -> StableDiffusion:
    """Networks whose weights are drawn on ``device`` in ``dtype``, so that nothing is held twice.

    Linear maps and convolutions are uniform within 1/sqrt(inputs) as PyTorch's own are, norms 1 and 0, embeddings
    normal: activations stay small enough for half precision.
    """
    generator = torch.Generator(device).manual_seed(seed)
    unet = _filled(build_empty(lambda: UNet(config.unet)), dtype, device, generator)
    vae = _filled(build_empty(lambda: VAE(config.vae)), dtype, device, generator)
    text = _filled(build_empty(lambda: TextEncoder(config.text)), dtype, device, generator)
    if device.type == "cuda":
        lay_out_for_gpu(unet, vae)
    return StableDiffusion(unet, vae, text, Tokenizer(), config, "random")


def weight_bytes(model: StableDiffusion) -> int:
    """Size of all parameters."""
    parts: tuple[nn.Module, ...] = (model.unet, model.vae, model.text_encoder)
    return sum(parameter.nbytes for part in parts for parameter in part.parameters())


@torch.no_grad()
def _fill(network: nn.Module, generator: torch.Generator) -> None:
    for name, module in network.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            own["weight"].fill_(1.0)
            own["bias"].zero_()
        elif isinstance(module, nn.Embedding):
            own["weight"].normal_(std=EMBEDDING_DEVIATION, generator=generator)
        elif isinstance(module, nn.Linear | nn.Conv2d):
            bound = 1.0 / math.sqrt(own["weight"][0].numel())
            for parameter in own.values():
                parameter.uniform_(-bound, bound, generator=generator)
        else:
            raise TypeError(f"{name}: no rule for the weights of a {type(module).__name__}")


def _filled(network: _Network, dtype: torch.dtype, device: torch.device, generator: torch.Generator) -> _Network:
    network.to(dtype).to_empty(device=device)
    _fill(network, generator)
    return network.eval().requires_grad_(False)
