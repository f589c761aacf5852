"""What the autoencoder is judged by: pixels, low-pass colour, edges, optical density, a small patch discriminator."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_DARKEST = 0.02  # light below this share counts as this dark in the optical-density term


def optical_density(image: Tensor) -> Tensor:
    """Optical density of an image in [-1, 1]; 0 is white."""
    return -torch.log(((image + 1.0) / 2.0).clamp_min(_DARKEST))


def opponent_colours(image: Tensor) -> Tensor:
    """Colour without brightness: red - green and green - blue, [B, 2, H, W]."""
    return image[:, :2] - image[:, 1:]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Weighted sum of L1 terms over images [B, 3, H, W] in [-1, 1].

    The low-pass terms, the colour differences and the optical density hold hues; the gradient term holds outlines.
    """
    loss = F.l1_loss(output, target) + 4.0 * F.mse_loss(output, target)
    for size in (size for size in (2, 4, 8, 32) if size <= min(output.shape[-2:])):
        coarse, wanted = F.avg_pool2d(output, size), F.avg_pool2d(target, size)
        loss = (
            loss + 0.6 * F.l1_loss(coarse, wanted) + 1.0 * F.l1_loss(opponent_colours(coarse), opponent_colours(wanted))
        )
    for axis in (-1, -2):
        loss = loss + 0.4 * F.l1_loss(output.diff(dim=axis), target.diff(dim=axis))
    # The clamp alone would give no gradient where the output is too dark.
    inside = output.clamp_min(2.0 * _DARKEST - 1.0)
    return loss + 0.2 * F.l1_loss(optical_density(inside), optical_density(target))


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Mean over the latents of the divergence from a standard normal."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean()


class PatchDiscriminator(nn.Module):
    """Convolutional discriminator of 22-pixel patches (Isola et al., arXiv 1611.07004), returning its features too."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        channels = (3, width, 2 * width, 3 * width)
        self.layers = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2 if i < 2 else 1, padding=1)
            for i, (a, b) in enumerate(itertools.pairwise(channels))
        )
        self.out = nn.Conv2d(channels[-1], 1, 3, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Images [B, 3, H, W] -> scores [B, 1, h, w] and the features of each layer."""
        features: list[Tensor] = []
        h = image
        for layer in self.layers:
            h = F.leaky_relu(layer(h), 0.2)
            features.append(h)
        return self.out(h), features


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator's scores."""
    return F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean()


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean L1 distance of the discriminator's features, each in units of the real ones' size."""
    terms = [
        F.l1_loss(a, b.detach()) / b.detach().abs().mean().clamp_min(1e-3) for a, b in zip(fake, real, strict=True)
    ]
    return torch.stack(terms).mean()


def psnr(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio, dB, of images [B, C, H, W] in [-1, 1], after clipping, as the mean over the batch."""
    error = (output.clamp(-1.0, 1.0) - target).square().mean(dim=(1, 2, 3)) / 4.0
    return float((-10.0 * torch.log10(error.clamp_min(1e-10))).mean())
