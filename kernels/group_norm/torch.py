"""``impl="torch"``: group normalisation with no tensor beside the result where PyTorch allows it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.precision import accumulator


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, layout: torch.memory_format
) -> Tensor:
    """x [B, C, H, W] -> [B, C, H, W] in ``layout``.

    For channels last PyTorch's CPU kernel takes the variance as E[x²] - E[x]². The groups' means are taken off before
    it, which changes nothing else.
    """
    if layout == torch.channels_last and x.device.type == "cpu":
        dtype = accumulator(x.dtype)
        mean = x.mean((2, 3), dtype=dtype).view(x.shape[0], groups, -1).mean(2)  # [B, groups]
        shift = mean.repeat_interleave(x.shape[1] // groups, 1)[:, :, None, None]  # [B, C, 1, 1]
        weight, bias = weight.to(dtype), bias.to(dtype)
        images = []
        # One at a time, so that what lies between stays small.
        for image, centre in zip(x.chunk(len(x)), shift.chunk(len(x)), strict=True):
            normalised = torch.group_norm(image - centre, groups, weight, bias, eps)
            images.append((F.silu(normalised, inplace=True) if silu else normalised).to(x.dtype))
        whole = images[0] if len(images) == 1 else torch.cat(images)
        return whole.contiguous(memory_format=layout)
    # Not `F.group_norm`, which refuses groups of one value.
    out = torch.group_norm(x.contiguous(), groups, weight, bias, eps)
    if silu:
        out = F.silu(out, inplace=True)
    return out.contiguous(memory_format=layout)
