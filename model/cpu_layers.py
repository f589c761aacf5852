"""The networks' linear maps and convolutions: PyTorch's, with what makes them quick on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.onednn import convolve, is_supported, linear, prepack

_POSITIONS = (32, 32)
"""The grid that packed weights are laid out for: SD-1.x at 512 px in the middle of its levels."""


class Linear(nn.Linear):
    """A linear map of the last dimension."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., K] -> [..., N]."""
        return linear(x, self.weight, self.bias)


class Conv2d(nn.Conv2d):
    """A convolution whose weights can be packed."""

    packed: Tensor | None = None

    def prepack(self) -> None:
        """Bring the weights into the CPU's own layout, once they are final. ``weight`` is None afterwards.

        Where the CPU does not take them, and for 1×1 convolutions, which are plain products, nothing changes.
        """
        if self.kernel_size != (1, 1) and self.weight is not None and is_supported(self.weight):
            self.packed = prepack(self.weight.detach(), self.stride, self._padding, _POSITIONS)
            self.register_parameter("weight", None)

    def forward(self, x: Tensor) -> Tensor:
        """[B, C_in, H, W] -> [B, C_out, H', W']; channels last where ``x`` is, and where the weights are packed."""
        if self.packed is not None:
            return convolve(x, self.packed, self.bias, self.stride, self._padding)
        flat = x.is_cpu and self.kernel_size == (1, 1) and x.is_contiguous(memory_format=torch.channels_last)
        if flat and is_supported(x, self.weight):
            return linear(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0], self.bias).permute(0, 3, 1, 2)
        return super().forward(x)

    def between_rows(self, x: Tensor) -> Tensor:
        """The same of rows of an input, with those above and below: padded at the left and right alone."""
        padding = (0, self._padding[1])
        if self.packed is not None:
            return convolve(x, self.packed, self.bias, self.stride, padding)
        return F.conv2d(x, self.weight, self.bias, self.stride, padding)

    @property
    def _padding(self) -> tuple[int, ...]:
        assert isinstance(self.padding, tuple)
        return self.padding


def pack_convolutions(network: nn.Module) -> None:
    """`Conv2d.prepack` for all of ``network``. Its features are channels last from the first packed convolution on."""
    for layer in network.modules():
        if isinstance(layer, Conv2d):
            layer.prepack()
