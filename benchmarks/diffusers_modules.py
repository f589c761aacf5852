"""diffusers' and transformers' networks around our own tensors, so that a process holds the weights once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from demo.export import text_json, unet_json, vae_json
from model import StableDiffusion


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
