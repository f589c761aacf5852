"""The device that the Triton kernels' tests run on: a GPU, or the CPU for Triton's interpreter."""

from __future__ import annotations

import torch
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def on_device(*tensors: Tensor) -> list[Tensor]:
    """The tensors on the device with their strides."""
    return [t.to(DEVICE) if t.device.type != DEVICE else t for t in tensors]
