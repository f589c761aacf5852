"""A Stable Diffusion of full size with seeded random weights: time and memory do not depend on what weights are."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from model import StableDiffusion
from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.config import SD15, ModelConfig
from model.stable_diffusion import lay_out_for_gpu
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE

_Network = TypeVar("_Network", bound=nn.Module)

EMBEDDING_DEVIATION = 0.02


def random_model(
    dtype: torch.dtype, device: torch.device, *, seed: int = 0, config: ModelConfig = SD15
) -> StableDiffusion:
    """Networks whose weights are drawn on ``device`` in ``dtype``, so that nothing is held twice.

    They are PyTorch's own initial ones, with smaller embeddings: activations stay small enough for half precision.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        unet = _filled(build_empty(lambda: UNet(config.unet)), dtype, device)
        vae = _filled(build_empty(lambda: VAE(config.vae)), dtype, device)
        text = _filled(build_empty(lambda: TextEncoder(config.text)), dtype, device)
    if device.type == "cuda":
        lay_out_for_gpu(unet, vae)
    return StableDiffusion(unet, vae, text, Tokenizer(), config, "random")


def weight_bytes(model: StableDiffusion) -> int:
    """Size of all parameters."""
    parts: tuple[nn.Module, ...] = (model.unet, model.vae, model.text_encoder)
    return sum(parameter.nbytes for part in parts for parameter in part.parameters())


@torch.no_grad()
def _filled(network: _Network, dtype: torch.dtype, device: torch.device) -> _Network:
    network.to(dtype).to_empty(device=device)
    for module in network.modules():
        if list(module.parameters(recurse=False)):
            layer: Any = module
            layer.reset_parameters()
            if isinstance(module, nn.Embedding):
                module.weight.mul_(EMBEDDING_DEVIATION)
    return network.eval().requires_grad_(False)
