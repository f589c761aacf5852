"""diffusers' and transformers' networks around our own tensors, so that a process holds the weights once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn
from transformers.models.clip.configuration_clip import CLIPTextConfig
from transformers.models.clip.modeling_clip import CLIPTextModel

from model import StableDiffusion
from model.config import ModelConfig


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
    with torch.device("meta"):
        theirs = _empty(ours.config, ours.tokenizer)
    _adopt(theirs.unet, ours.unet)
    _adopt(theirs.vae, ours.vae)
    _adopt(theirs.text_encoder, ours.text_encoder)
    return theirs


def _empty(config: ModelConfig, tokenize: Callable[[Sequence[str]], Tensor]) -> Theirs:
    attends = config.unet.attention
    unet = UNet2DConditionModel(
        in_channels=config.unet.in_channels,
        out_channels=config.unet.out_channels,
        sample_size=64,  # the pipeline wants it; no computation does
        block_out_channels=config.unet.block_out_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if level else "DownBlock2D" for level in attends),
        up_block_types=tuple("CrossAttnUpBlock2D" if level else "UpBlock2D" for level in reversed(attends)),
        layers_per_block=config.unet.layers_per_block,
        attention_head_dim=config.unet.num_heads,  # diffusers' old name for the number of heads
        cross_attention_dim=config.unet.cross_attention_dim,
        norm_num_groups=config.unet.groups,
        norm_eps=config.unet.resnet_eps,
    )
    levels = len(config.vae.block_out_channels)
    vae = AutoencoderKL(
        in_channels=config.vae.in_channels,
        out_channels=config.vae.in_channels,
        block_out_channels=config.vae.block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=config.vae.layers_per_block,
        latent_channels=config.vae.latent_channels,
        norm_num_groups=config.vae.groups,
        scaling_factor=config.vae.scaling,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=config.text.vocabulary,
            hidden_size=config.text.width,
            intermediate_size=config.text.mlp_width,
            num_hidden_layers=config.text.layers,
            num_attention_heads=config.text.num_heads,
            max_position_embeddings=config.text.positions,
            layer_norm_eps=config.text.eps,
        )
    )
    return Theirs(unet, vae, text_encoder, tokenize)


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
