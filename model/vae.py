"""The autoencoder of Stable Diffusion 1.x: images in [-1, 1] to latents at an eighth of the side, and back.

Parameter names are those of the published diffusers checkpoints (their present attention names).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from model.config import VAEConfig
from model.layers import Downsample, ResnetBlock, Upsample


class GridAttention(nn.Module):
    """Single-head self-attention over the positions of a grid, with a residual: [B, C, H, W] -> same."""

    def __init__(self, channels: int, *, groups: int, eps: float) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, channels, eps=eps)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tensor) -> Tensor:
        tokens = rearrange(self.group_norm(x), "b c h w -> b 1 (h w) c")
        out = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x + rearrange(self.to_out[0](out), "b 1 (h w) c -> b c h w", h=x.shape[-2])


class Stage(nn.Module):
    """The resnets of one resolution and the change to the next."""

    def __init__(self, config: VAEConfig, ins: list[int], width: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(_resnet(config, channels, width) for channels in ins)

    def forward(self, x: Tensor) -> Tensor:
        for resnet in self.resnets:
            x = resnet(x)
        return x


class DownStage(Stage):
    """Resnets, then a down-sampling with padding right and bottom except at the last stage."""

    def __init__(self, config: VAEConfig, ins: list[int], width: int, *, last: bool) -> None:
        super().__init__(config, ins, width)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(width, asymmetric=True)])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for downsample in self.downsamplers:
            x = downsample(x)
        return x


class UpStage(Stage):
    """Resnets, then an up-sampling except at the last stage."""

    def __init__(self, config: VAEConfig, ins: list[int], width: int, *, last: bool) -> None:
        super().__init__(config, ins, width)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(width)])

    def forward(self, x: Tensor) -> Tensor:
        x = super().forward(x)
        for upsample in self.upsamplers:
            x = upsample(x)
        return x


class Middle(nn.Module):
    """Resnet, attention, resnet at the latent resolution."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        width = config.widths[-1]
        self.resnets = nn.ModuleList(_resnet(config, width, width) for _ in range(2))
        self.attentions = nn.ModuleList([GridAttention(width, groups=config.groups, eps=config.eps)])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.resnets
        return second(self.attentions[0](first(x)))


class Encoder(nn.Module):
    """[B, 3, H, W] -> mean and log-variance before ``quant_conv``, [B, 8, H / 8, W / 8]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            ins = [widths[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
            self.down_blocks.append(DownStage(config, ins, width, last=level == len(widths) - 1))
        self.mid_block = Middle(config)
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[-1], eps=config.eps)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config.latent_channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        h = self.conv_in(image)
        for block in self.down_blocks:
            h = block(h)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(h))))


class Decoder(nn.Module):
    """Latents after ``post_quant_conv`` [B, 4, h, w] -> image [B, 3, 8 h, 8 w]."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        widths = config.widths
        self.conv_in = nn.Conv2d(config.latent_channels, widths[-1], 3, padding=1)
        self.mid_block = Middle(config)
        self.up_blocks = nn.ModuleList()
        for level in reversed(range(len(widths))):
            ins = [widths[min(level + 1, len(widths) - 1)]] + [widths[level]] * config.layers_per_block
            self.up_blocks.append(UpStage(config, ins, widths[level], last=level == 0))
        self.conv_norm_out = nn.GroupNorm(config.groups, widths[0], eps=config.eps)
        self.conv_out = nn.Conv2d(widths[0], config.in_channels, 3, padding=1)

    def forward(self, latents: Tensor) -> Tensor:
        h = self.mid_block(self.conv_in(latents))
        for block in self.up_blocks:
            h = block(h)
        return self.conv_out(F.silu(self.conv_norm_out(h)))


class VAE(nn.Module):
    """The autoencoder with its two 1×1 convolutions around the latents."""

    def __init__(self, config: VAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.latent_channels, 1)
        self.post_quant_conv = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Decoder(config)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (clipped to [-30, 20]) of the unscaled latents, each [B, 4, H / 8, W / 8].

        ``image`` is [B, 3, H, W] in [-1, 1]. Raises ValueError if a side is not a multiple of 8.
        """
        factor = self.config.factor
        if image.shape[-1] % factor or image.shape[-2] % factor:
            sides = f"{image.shape[-2]}×{image.shape[-1]}"
            raise ValueError(f"image of {sides} px: both sides must be multiples of {factor}")
        mean, log_variance = self.quant_conv(self.encoder(image)).chunk(2, dim=1)
        return mean, torch.clamp(log_variance, -30.0, 20.0)

    def encode(self, image: Tensor) -> Tensor:
        """``image`` [B, 3, H, W] in [-1, 1] -> latents [B, 4, H / 8, W / 8]: the posterior's mean × scaling."""
        mean, _ = self.posterior(image)
        return mean * self.config.scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Latents [B, 4, h, w] as the UNet has them -> image [B, 3, 8 h, 8 w], about [-1, 1] and not clipped."""
        return self.decoder(self.post_quant_conv(latents / self.config.scaling))


def _resnet(config: VAEConfig, in_channels: int, out_channels: int) -> ResnetBlock:
    return ResnetBlock(in_channels, out_channels, groups=config.groups, eps=config.eps, time_width=None)
