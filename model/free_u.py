"""FreeU (Si et al., arXiv 2309.11497) in the variant of the cross-image attention code (docs/method.md, presets)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def scale_low_frequencies(x: Tensor, factor: float) -> Tensor:
    """Multiply the lowest frequencies of ``x`` [B, C, H, W] by ``factor``.

    The band is rows and columns [n // 2 - 1, n // 2 + 1) of the shifted spectrum. Half types go through float32,
    since the transform of a side that is no power of two does not exist in them.
    """
    exact = x if x.dtype in (torch.float32, torch.float64) else x.float()
    spectrum = torch.fft.fftshift(torch.fft.fft2(exact), dim=(-2, -1))
    middle_h, middle_w = x.shape[-2] // 2, x.shape[-1] // 2
    rows = slice(max(middle_h - 1, 0), middle_h + 1)
    columns = slice(max(middle_w - 1, 0), middle_w + 1)
    spectrum[..., rows, columns] *= factor
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))).real.to(x.dtype)


@dataclass(frozen=True)
class FreeU:
    """Per up block, from the lowest resolution: (factor of the first half of the channels, of low frequencies)."""

    factors: tuple[tuple[float, float], ...] = ((1.2, 0.9), (1.2, 0.9), (1.2, 0.9), (1.4, 0.2))

    def apply(self, h: Tensor, block: int) -> Tensor:
        """Rescale the features ``h`` [B, C, H, W] that enter up block ``block``."""
        backbone, low = self.factors[block]
        half = h.shape[1] // 2
        boosted = torch.cat([h[:, :half] * backbone, h[:, half:]], dim=1)
        return scale_low_frequencies(boosted, low)
