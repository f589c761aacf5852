"""diffusers' networks around our own tensors, held once, and its attention processor with cross-image attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from demo.export import text_json, unet_json, vae_json
from model import StableDiffusion

# Places of the three images in a batch.
OUTPUT, ORIGIN, STRUCTURE = 0, 1, 2


@dataclass(frozen=True)
class Theirs:
    """One Stable Diffusion in other libraries' modules. ``tokenize`` takes B prompts to ids [B, 77], int64."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenize: Callable[[Sequence[str]], Tensor]

    @property
    def factor(self) -> int:
        """Image pixels per latent position along one side."""
        return 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    def encode(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] -> the means of their latents [B, 4, h, w]."""
        latents: Tensor = self.vae.encode(images).latent_dist.mode()
        return latents * self.vae.config["scaling_factor"]

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, 4, h, w] -> images [B, 3, H, W] in [-1, 1]."""
        images: Tensor = self.vae.decode(z / self.vae.config["scaling_factor"]).sample
        return images

    def lay_out_channels_last(self) -> None:
        """Give UNet and autoencoder the memory layout that convolutions run fastest in; copies their weights."""
        networks: tuple[nn.Module, ...] = (self.unet, self.vae)
        for network in networks:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> their states [B, 77, width], in the type and on the device of the text encoder."""
        ids = self.tokenize(prompts).to(next(self.text_encoder.parameters()).device)
        states: Tensor = self.text_encoder(ids).last_hidden_state
        return states


def from_ours(ours: StableDiffusion) -> Theirs:
    """The libraries' modules with the tensors of ``ours`` themselves: nothing is copied.

    Raises RuntimeError if the names or shapes of the parameters differ.
    """
    config = ours.config
    unet_class: Any = UNet2DConditionModel  # from_config has no annotations
    vae_class: Any = AutoencoderKL
    with torch.device("meta"):
        unet, vae = unet_class.from_config(unet_json(config.unet)), vae_class.from_config(vae_json(config.vae))
        text_encoder = CLIPTextModel(CLIPTextConfig(**text_json(config.text)))
    for theirs, own in ((unet, ours.unet), (vae, ours.vae), (text_encoder, ours.text_encoder)):
        _adopt(theirs, own)
    return Theirs(unet, vae, text_encoder, ours.tokenizer)


def _adopt(theirs: nn.Module, ours: nn.Module) -> None:
    """Give ``theirs``, built on the meta device, the tensors of ``ours``."""
    tensors = ours.state_dict()
    # Some versions of transformers keep the text encoder's layers under this name.
    getattr(theirs, "text_model", theirs).load_state_dict(tensors, strict=True, assign=True)
    device = next(iter(tensors.values())).device
    for module in theirs.modules():
        positions = module._buffers.get("position_ids")
        if positions is not None:  # the one buffer that no checkpoint holds
            module.register_buffer("position_ids", torch.arange(positions.shape[-1], device=device)[None], False)
    theirs.eval().requires_grad_(False)


@dataclass
class Swap:
    """What the present UNet call swaps: at decoder ``levels`` the output takes keys and values of ``shown``."""

    levels: tuple[int, ...] = ()
    shown: int = ORIGIN
    contrast: float = 1.0


class SwappingProcessor:
    """diffusers' attention processor for one layer; ``level`` None for all but the decoder's self-attention."""

    def __init__(self, level: int | None, swap: Swap, *, optimised: bool) -> None:
        self.level, self.swap, self.optimised = level, swap, optimised

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, N, C] -> [B, N, C]; with a swap B is 3."""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B, H, N, D]
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        contrast = 1.0
        if self.level in self.swap.levels:
            contrast = self.swap.contrast
            for x in (k, v):
                x[OUTPUT] = x[self.swap.shown]
        if not self.optimised:
            out = materialised(q, k, v, contrast)
        elif contrast == 1.0:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            # No library kernel transforms probabilities, so the one image that needs it keeps its map.
            contrasted = materialised(q[:1], k[:1], v[:1], contrast)
            out = torch.cat([contrasted, F.scaled_dot_product_attention(q[1:], k[1:], v[1:])])
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def materialised(q: Tensor, k: Tensor, v: Tensor, contrast: float) -> Tensor:
    """Attention with the map [B, H, N, N] held, contrasted for the first image of the batch."""
    p = torch.softmax((q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2), dim=-1)
    if contrast != 1.0:
        uniform = 1.0 / k.shape[-2]
        p[OUTPUT].sub_(uniform).mul_(contrast).add_(uniform).clamp_(0.0, 1.0)
    return p @ v
