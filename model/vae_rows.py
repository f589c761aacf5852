"""Convolutions over large grids in chunks of rows: the same result, and working memory for one chunk alone.

A decoder of 2048×2048 px holds 2 GB for each copy of its widest features in half precision, and a norm, a gate and a
padded convolution make several. Tiles that are decoded apart and blended would be cheaper still, but each would be
normalised by its own statistics: the image would change. Here statistics are those of the whole grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.precision import accumulator
from model.cpu_layers import Conv2d
from model.layers import ResnetBlock, Upsample


def resnet_in_row_chunks(block: ResnetBlock, x: Tensor, rows: int) -> Tensor:
    """``block`` without a time shift: [B, C_in, H, W] -> [B, C_out, H, W], ``rows`` rows at once. Overwrites ``x``."""
    h = _convolve(block.conv1, x, rows, _normaliser(block.norm1, x, rows))
    out = _room(x, h)
    for top, chunk in _row_chunks(block.conv2, h, rows, _normaliser(block.norm2, h, rows)):
        part = x[:, :, top : top + chunk.shape[2]]
        shortcut = part if block.conv_shortcut is None else block.conv_shortcut(part)
        torch.add(shortcut, chunk, out=out[:, :, top : top + chunk.shape[2]])
    return out


def _room(x: Tensor, h: Tensor) -> Tensor:
    """Memory for a tensor like ``h``, filled from its first row on: that of ``x`` where each row of it is read by then.

    A row of ``h`` must end no later than the same row of ``x``, so fewer channels than ``x`` has find room in it.
    """
    if h.shape[1] > x.shape[1]:
        return torch.empty_like(h)
    if x.is_contiguous():
        return x[:, : h.shape[1]]
    if len(x) == 1 and x.is_contiguous(memory_format=torch.channels_last):
        return x.permute(0, 2, 3, 1).flatten()[: h.numel()].view(1, *h.shape[2:], h.shape[1]).permute(0, 3, 1, 2)
    return x if h.shape == x.shape else torch.empty_like(h)


def upsample_in_row_chunks(layer: Upsample, x: Tensor, rows: int) -> Tensor:
    """``layer`` of ``x``: [B, C, H, W] -> [B, C, 2 H, 2 W], from ``rows`` rows at once."""
    return _convolve(layer.conv, x, rows, lambda part: F.interpolate(part, scale_factor=2.0, mode="nearest"), scale=2)


def output_in_row_chunks(norm: nn.GroupNorm, conv: Conv2d, x: Tensor, rows: int) -> Tensor:
    """``conv`` of the normalised and gated ``x``: [B, C, H, W] -> [B, C_out, H, W]."""
    return _convolve(conv, x, rows, _normaliser(norm, x, rows))


def _convolve(conv: Conv2d, x: Tensor, rows: int, prepare: Callable[[Tensor], Tensor], scale: int = 1) -> Tensor:
    """A 3×3 convolution with padding 1 of ``prepare(x)``, which works on every row apart and makes ``scale`` of it."""
    batch, _, height, width = x.shape
    last = not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    shape = (batch, conv.out_channels, scale * height, scale * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=layout)
    for top, chunk in _row_chunks(conv, x, rows, prepare, scale):
        out[:, :, top : top + chunk.shape[2]] = chunk
    return out


def _row_chunks(
    conv: Conv2d, x: Tensor, rows: int, prepare: Callable[[Tensor], Tensor], scale: int = 1
) -> Iterator[tuple[int, Tensor]]:
    """The parts of `_convolve`'s result, each with its first row."""
    height = x.shape[2]
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        first = max(top - 1, 0)
        chunk = prepare(x[:, :, first : min(bottom + 1, height)])
        # One row beyond the chunk on each side, zeros beyond the grid.
        start, stop = scale * (top - first) - 1, scale * (bottom - first) + 1
        chunk = chunk[:, :, max(start, 0) : stop]
        if top == 0 or bottom == height:
            chunk = F.pad(chunk, (0, 0, int(top == 0), int(bottom == height)))
        yield scale * top, conv.between_rows(chunk)


def _normaliser(norm: nn.GroupNorm, x: Tensor, rows: int) -> Callable[[Tensor], Tensor]:
    """The group norm by the statistics of the whole of ``x``, then SiLU, as a function of some of its rows."""
    statistics = Statistics(norm.num_groups)
    for top in range(0, x.shape[2], rows):
        statistics.see(x[:, :, top : top + rows])
    return normaliser(norm, *statistics.result())


def normaliser(norm: nn.GroupNorm, mean: Tensor, variance: Tensor) -> Callable[[Tensor], Tensor]:
    """The group norm by these statistics, [B, groups], then SiLU, as a function of some rows."""
    each = norm.num_channels // norm.num_groups
    centre = mean.repeat_interleave(each, 1)[:, :, None, None]  # [B, C, 1, 1]
    scale = (variance + norm.eps).rsqrt().repeat_interleave(each, 1) * norm.weight
    scale, bias = scale[:, :, None, None], norm.bias.to(scale.dtype)[:, None, None]

    def normalise(part: Tensor) -> Tensor:
        return F.silu((part - centre).mul_(scale).add_(bias), inplace=True).to(part.dtype)

    return normalise


class Statistics:
    """Mean and biased variance of each group of channels, merged from chunks of rows (Chan et al., 1983)."""

    def __init__(self, groups: int) -> None:
        self._groups, self._count = groups, 0
        self._found: tuple[Tensor, Tensor] | None = None

    def see(self, chunk: Tensor) -> None:
        """Take rows [B, C, h, W] in."""
        dtype, (batch, channels) = accumulator(chunk.dtype), chunk.shape[:2]
        size = chunk[0].numel() // self._groups
        # Sums by channel come first: they are quick in either layout.
        own = chunk.sum((2, 3), dtype=dtype).view(batch, self._groups, -1).sum(2) / size
        centre = own.repeat_interleave(channels // self._groups, 1)[:, :, None, None]
        inner = (chunk - centre).square_().sum((2, 3)).view(batch, self._groups, -1).sum(2)
        mean, squares = (torch.zeros_like(own), torch.zeros_like(own)) if self._found is None else self._found
        away, count = own - mean, self._count
        mean = mean + away * (size / (count + size))
        squares = squares + inner + away.square() * (count * size / (count + size))
        self._found, self._count = (mean, squares), count + size

    def result(self) -> tuple[Tensor, Tensor]:
        """Both, [B, groups]."""
        if self._found is None:
            raise ValueError("there are no rows")
        return self._found[0], self._found[1] / self._count
