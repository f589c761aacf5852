"""Label maps for the sampler: painted as a structure image, and at latent resolution (docs/method.md)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def structure_image(
    labels: Tensor, intensities: Sequence[float], variance: float, generator: torch.Generator
) -> Tensor:
    """Paint a label map [H, W] grey, add noise, clip: an image [1, 3, H, W] in [-1, 1], float32.

    Class c becomes ``intensities[c]`` in [0, 1] on all channels, and pixels of no class the mean of all; the Gaussian
    noise of ``variance`` is drawn from ``generator`` (CPU) per pixel and channel. Source: Winter et al., section 3.2.
    """
    values = [*intensities, sum(intensities) / len(intensities)]
    painted = torch.tensor(values, dtype=torch.float32)[labels.cpu()].expand(3, -1, -1)  # [3, H, W]
    image = torch.randn(painted.shape, generator=generator, dtype=torch.float32)
    # In place: the image of a large field takes long to copy.
    return image.mul_(variance**0.5).add_(painted).clamp_(0.0, 1.0).mul_(2.0).sub_(1.0)[None]


def latent_labels(labels: Tensor, num_classes: int, factor: int) -> Tensor:
    """A label map [H, W] at latent resolution [H / factor, W / factor], int64.

    Each class's one-hot map is averaged over squares of ``factor`` px and the largest share wins, the lower label
    in a tie. Counted in whole numbers, so that ties are exact. Pixels of no class have the label ``num_classes`` and
    count like one more. Raises ValueError for a label outside 0..num_classes or a side that is not a multiple of
    ``factor``.
    """
    height, width = labels.shape
    if height % factor or width % factor:
        raise ValueError(f"label map of {height}×{width}: both sides must be multiples of {factor}")
    if int(labels.min()) < 0 or int(labels.max()) > num_classes:
        raise ValueError(f"labels from {int(labels.min())} to {int(labels.max())} for {num_classes} classes")
    squares = labels.reshape(height // factor, factor, width // factor, factor)

    def count(label: int) -> Tensor:
        return (squares == label).sum(dim=(1, 3))

    # One class after the other: all one-hot maps of a large field would not fit. The first of equals stays.
    most = count(0)
    best = torch.zeros_like(most)
    for label in range(1, num_classes + 1):
        counted = count(label)
        best = torch.where(counted > most, label, best)
        most = torch.maximum(counted, most)
    return best


def vanishing_classes(labels: Tensor, num_classes: int, factor: int) -> list[int]:
    """Classes of a label map [H, W] that have pixels and win no latent position of ``factor`` px."""
    pixels = torch.bincount(labels.flatten(), minlength=num_classes).tolist()
    left = torch.bincount(latent_labels(labels, num_classes, factor).flatten(), minlength=num_classes).tolist()
    return [c for c in range(num_classes) if pixels[c] and not left[c]]


def unmatched_classes(target: Tensor, origin: Tensor, num_classes: int) -> list[int]:
    """Classes present in ``target`` that AdaIN must leave alone: fewer than 2 latent positions on either side.

    Both are label maps at latent resolution.
    """
    counts_target = torch.bincount(target.flatten(), minlength=num_classes)
    counts_origin = torch.bincount(origin.flatten(), minlength=num_classes)
    return [c for c in range(num_classes) if counts_target[c] > 0 and (counts_target[c] < 2 or counts_origin[c] < 2)]
