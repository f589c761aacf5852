"""The building blocks that the UNet and the autoencoder share, and the UNet's time embedding.

Parameter names are those of the published diffusers checkpoints, so that weights need no renaming.

Notation: B batch, C channels, H×W latent or pixel grid.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import Implementation, group_norm
from kernels.threads import threads_for
from model.cpu_layers import Conv2d, Linear


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of timesteps, cosines first: ``t`` [B] -> float32 [B, width].

    Computed in float32 whatever the network's type, as the published weights were trained.
    Source: Ho et al., arXiv 2006.11239, with ``flip_sin_to_cos`` and ``freq_shift`` 0 of SD-1.x.
    """
    half = width // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    angle = t[:, None].float() * torch.exp(exponent)  # [B, width / 2]
    return torch.cat([angle.cos(), angle.sin()], dim=-1)


class TimestepMLP(nn.Module):
    """Two linear layers over the sinusoidal embedding: [B, width] -> [B, 4 · width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = Linear(width, 4 * width)
        self.linear_2 = Linear(4 * width, 4 * width)

    def forward(self, embedding: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(embedding)))


class ResnetBlock(nn.Module):
    """Two 3×3 convolutions with GroupNorm and SiLU, a time shift between them, and a shortcut.

    ``time_embed_dim`` is None in the autoencoder, which knows no time.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, eps: float, time_embed_dim: int | None
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_channels, eps=eps)
        self.conv1 = Conv2d(in_channels, out_channels, 3, padding=1)
        self.time_emb_proj = None if time_embed_dim is None else Linear(time_embed_dim, out_channels)
        self.norm2 = nn.GroupNorm(groups, out_channels, eps=eps)
        self.conv2 = Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv_shortcut = None if in_channels == out_channels else Conv2d(in_channels, out_channels, 1)

    def shift(self, time: Tensor) -> Tensor:
        """What the time embedding [B, time_width] adds between the convolutions: [B, C_out, 1, 1]."""
        if self.time_emb_proj is None:
            raise ValueError("this block was made without a time embedding")
        return self.time_emb_proj(F.silu(time))[:, :, None, None]

    def forward(self, x: Tensor, shift: Tensor | None, impl: Implementation) -> Tensor:
        """[B, C_in, H, W], with `shift` [B or 1, C_out, 1, 1] if the block knows time -> [B, C_out, H, W]."""
        with threads_for(self._operations(x), x):
            h = self.conv1(normalise(self.norm1, x, silu=True, impl=impl))
            if shift is not None:
                h = h + shift
            h = self.conv2(normalise(self.norm2, h, silu=True, impl=impl))
            shortcut: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
            return shortcut + h

    def _operations(self, x: Tensor) -> int:
        ins, outs = self.conv1.in_channels, self.conv1.out_channels
        return 2 * 9 * outs * (ins + outs) * x.shape[0] * x.shape[2] * x.shape[3]


class Downsample(nn.Module):
    """Halve the grid with a strided 3×3 convolution; ``asymmetric`` pads right and bottom only (the VAE)."""

    def __init__(self, channels: int, *, asymmetric: bool) -> None:
        super().__init__()
        self.asymmetric = asymmetric
        self.conv = Conv2d(channels, channels, 3, stride=2, padding=0 if asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Double the grid by nearest neighbour, then a 3×3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def normalise(norm: nn.GroupNorm, x: Tensor, *, silu: bool, impl: Implementation) -> Tensor:
    """``norm`` of ``x`` [B, C, H, W] by ``kernels``, followed by SiLU where ``silu`` says so."""
    # The same tensors, but under autocast, where features alone are of the half type.
    weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
    return group_norm(x, norm.num_groups, weight, bias, eps=norm.eps, silu=silu, impl=impl)
