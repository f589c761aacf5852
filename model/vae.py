"""The autoencoder of Stable Diffusion 1.x: images in [-1, 1] to latents at an eighth of the side, and back.

Parameter names are those of the published diffusers checkpoints (their present attention names).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from kernels import Implementation
from kernels.cross_image_attention.torch import plain
from model.config import VAEConfig
from model.cpu_layers import Conv2d, Linear
from model.host_memory import trim_heap
from model.layers import Downsample, ResnetBlock, Upsample, normalise
from model.vae_bands import Convolved, Downsampled, Held, Rows, Upsampled, held_if_small, norm, stage, whole
from model.vae_rows import output_in_row_chunks, resnet_in_row_chunks, upsample_in_row_chunks

LARGEST_WHOLE = {"cpu": 256 * 256, "cuda": 768 * 768}
"""Pixels of the largest image that goes through as a whole. Bands cost a GPU launches and a CPU little."""
CHUNK = {"cpu": 2**19, "cuda": 2**24}
"""Values of the features in a chunk of a larger image: on a CPU a chunk stays in the cache."""

LARGEST_HELD = 2**31
"""Bytes of the largest features that are held whole; images with larger ones go through in bands."""
BAND = 2**26
"""Values of a band's widest features."""


class GridAttention(nn.Module):
    """Single-head self-attention over the positions of a grid, with a residual: [B, C, H, W] -> same."""

    def __init__(self, channels: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.to_q = Linear(channels, channels)
        self.to_k = Linear(channels, channels)
        self.to_v = Linear(channels, channels)
        self.to_out = nn.ModuleList([Linear(channels, channels)])

    def forward(self, x: Tensor, impl: Implementation) -> Tensor:
        tokens = rearrange(normalise(self.group_norm, x, silu=False, impl=impl), "b c h w -> b 1 (h w) c")
        out = plain(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + rearrange(self.to_out[0](out), "b 1 (h w) c -> b c h w", h=x.shape[-2])


class Stage(nn.Module):
    """The resnets of one resolution and the change to the next.

    With ``chunk`` about that many values go through at once, in whole rows, for their memory's sake; None takes all.
    """

    def __init__(self, config: VAEConfig, ins: list[int], width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(config, channels, width) for channels in ins)

    def forward(self, x: Tensor, impl: Implementation, chunk: int | None) -> Tensor:
        for resnet in cast("Iterable[ResnetBlock]", self.resnets):
            if chunk is None:
                x = resnet(x, None, impl)
                continue
            if x.is_cpu:
                trim_heap()
            x = resnet_in_row_chunks(resnet, x, _rows(x, chunk))
        return x


class DownStage(Stage):
    """Resnets, then a down-sampling with padding right and bottom except at the last stage."""

    def __init__(self, config: VAEConfig, ins: list[int], width: int, *, last: bool) -> None:
        super().__init__(config, ins, width)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width, asymmetric=True)])

    def forward(self, x: Tensor, impl: Implementation, chunk: int | None) -> Tensor:
        x = super().forward(x, impl, chunk)
        for downsample in self.downsamplers:
            x = downsample(x)
        return x


class UpStage(Stage):
    """Resnets, then an up-sampling except at the last stage."""

    def __init__(self, config: VAEConfig, ins: list[int], width: int, *, last: bool) -> None:
        super().__init__(config, ins, width)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor, impl: Implementation, chunk: int | None) -> Tensor:
        x = super().forward(x, impl, chunk)
        for upsample in cast("Iterable[Upsample]", self.upsamplers):
            x = upsample(x) if chunk is None else upsample_in_row_chunks(upsample, x, _rows(x, chunk))
        return x


class Middle(nn.Module):
    """Resnet, attention, resnet at the latent resolution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        width = config.block_out_channels[-1]
        self.resnets = nn.ModuleList(_resnet(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([GridAttention(width, groups=config.groups, eps=config.eps)])

    def forward(self, x: Tensor, impl: Implementation) -> Tensor:
        first, second = self.resnets
        return second(self.attentions[0](first(x, None, impl), impl), None, impl)


class Encoder(nn.Module):
    """[B, 3, H, W] -> mean and log-variance before ``quant_conv``, [B, 8, H / 8, W / 8]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        block_out_channels = config.block_out_channels
        self.conv_in = Conv2d(config.in_channels, block_out_channels[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(block_out_channels):
            ins = [block_out_channels[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
            self.down_blocks.append(DownStage(config, ins, width, last=level == len(block_out_channels) - 1))
        self.mid_block = Middle(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, block_out_channels[-1], eps=config.eps)
        self.conv_out = Conv2d(block_out_channels[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor, impl: Implementation, chunk: int | None) -> Tensor:
        if _is_field(image, self.conv_in.out_channels, image.shape[2:]):
            h = self._in_bands(image)
        else:
            h = self.conv_in(image)
            for block in self.down_blocks:
                h = block(h, impl, chunk)
        return self.conv_out(normalise(self.conv_norm_out, self.mid_block(h, impl), silu=True, impl=impl))

    def _in_bands(self, image: Tensor) -> Tensor:
        held, values = LARGEST_HELD, BAND
        h: Rows = Convolved(Held(image), self.conv_in)
        for block in self.down_blocks:
            h = stage(h, cast("Sequence[ResnetBlock]", block.resnets), values)
            for downsample in cast("Iterable[Downsample]", block.downsamplers):
                h = Downsampled(h, downsample)
            h = held_if_small(h, image.itemsize, held, values)
        return whole(h, values)


class Decoder(nn.Module):
    """Latents after ``post_quant_conv`` [B, 4, h, w] -> image [B, 3, 8 h, 8 w]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        block_out_channels = config.block_out_channels
        self.conv_in = Conv2d(config.latent_channels, block_out_channels[-1], 3, padding=1)
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList()
        self.widest = block_out_channels[min(1, len(block_out_channels) - 1)]  # at the image's resolution
        for level in reversed(range(len(block_out_channels))):
            ins = [block_out_channels[min(level + 1, len(block_out_channels) - 1)]] + [
                block_out_channels[level]
            ] * config.layers_per_block
            self.up_blocks.append(UpStage(config, ins, block_out_channels[level], last=level == 0))
        self.conv_norm_out = nn.GroupNorm(config.groups, block_out_channels[0], eps=config.eps)
        self.conv_out = Conv2d(block_out_channels[0], config.in_channels, 3, padding=1)

    def forward(self, latents: Tensor, impl: Implementation, chunk: int | None) -> Tensor:
        h = self.mid_block(self.conv_in(latents), impl)
        sides = [side * 2 ** (len(self.up_blocks) - 1) for side in latents.shape[2:]]
        if _is_field(latents, self.widest, sides):
            return self._in_bands(h)
        for block in self.up_blocks:
            h = block(h, impl, chunk)
        if chunk is not None:
            return output_in_row_chunks(self.conv_norm_out, self.conv_out, h, _rows(h, chunk))
        return self.conv_out(normalise(self.conv_norm_out, h, silu=True, impl=impl))

    def _in_bands(self, middle: Tensor) -> Tensor:
        held, values = LARGEST_HELD, BAND
        h: Rows = Held(middle)
        for block in self.up_blocks:
            h = held_if_small(
                stage(h, cast("Sequence[ResnetBlock]", block.resnets), values), middle.itemsize, held, values
            )
            for upsample in cast("Iterable[Upsample]", block.upsamplers):
                h = Upsampled(h, upsample)
        return whole(Convolved(h, self.conv_out, norm(self.conv_norm_out, h, values)), values)


class VAE(nn.Module):
    """The autoencoder with its two 1×1 convolutions around the latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def posterior(
        self, image: Tensor, *, impl: Implementation = "torch", chunk: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (clipped to [-30, 20]) of the unscaled latents, each [B, 4, H / 8, W / 8].

        ``image`` is [B, 3, H, W] in [-1, 1]. Raises ValueError if a side is not a multiple of 8.
        """
        factor = self.config.factor
        if image.shape[-1] % factor or image.shape[-2] % factor:
            sides = f"{image.shape[-2]}×{image.shape[-1]}"
            raise ValueError(f"image of {sides} px: both sides must be multiples of {factor}")
        mean, log_variance = self.quant_conv(self.encoder(image, impl, self._chunk(image, 1, chunk))).chunk(2, dim=1)
        return mean, torch.clamp(log_variance, -30.0, 20.0)

    def encode(self, image: Tensor, *, impl: Implementation = "torch", chunk: int | None = None) -> Tensor:
        """``image`` [B, 3, H, W] in [-1, 1] -> latents [B, 4, H / 8, W / 8]: the posterior's mean × scaling."""
        mean, _ = self.posterior(image, impl=impl, chunk=chunk)
        return mean * self.config.scaling

    def decode(self, latents: Tensor, *, impl: Implementation = "torch", chunk: int | None = None) -> Tensor:
        """Latents [B, 4, h, w] as the UNet has them -> image [B, 3, 8 h, 8 w], about [-1, 1] and not clipped.

        Large images are decoded in chunks of rows, to rounding the same, and so are they encoded. ``chunk``, values
        at once, sets their height at any size.
        """
        chunk = self._chunk(latents, self.config.factor**2, chunk)
        return self.decoder(self.post_quant_conv(latents / self.config.scaling), impl, chunk)

    @staticmethod
    def _chunk(x: Tensor, pixels: int, chunk: int | None) -> int | None:
        """Values at once for ``x`` [B, C, h, w] with ``pixels`` of the image at each position; None for all."""
        device = "cpu" if x.device.type == "cpu" else "cuda"
        whole = x.shape[-2] * x.shape[-1] * pixels <= LARGEST_WHOLE[device]
        return CHUNK[device] if chunk is None and not whole else chunk


def _is_field(x: Tensor, channels: int, sides: Sequence[int]) -> bool:
    """Whether features of ``channels`` on a grid of ``sides`` are too large to be held, in the type of ``x``."""
    return len(x) * channels * sides[0] * sides[1] * x.itemsize > LARGEST_HELD


def _rows(x: Tensor, chunk: int) -> int:
    """Height of a chunk of ``x`` [B, C, H, W]."""
    return max(1, chunk // (x.shape[1] * x.shape[3]))


def _resnet(config: VAEConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    return ResnetBlock(in_channels, out_channels, groups=config.groups, eps=config.eps, time_embed_dim=None)
