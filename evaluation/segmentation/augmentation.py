"""Augmentations of Winter et al., 3.3: in space shifts, rotations, flips and shears; in colour blurs and the like.

Notation: M side of a window with its margin, S its side without, C classes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

MARGIN = 0.25
"""Of a window's side, at each of its borders: enough for the corners of a window turned by any angle."""

WHITE = 255


class Augmentation:
    """Random changes of a window, the same for the same seed.

    Where a rotation reaches beyond the margin the image is white and the labels are ignored (``ignored`` is C).
    """

    def __init__(self, size: int, ignored: int) -> None:
        fill = {tv_tensors.Image: WHITE, tv_tensors.Mask: ignored}
        turns = [v2.RandomRotation((angle, angle)) for angle in (90, 180, 270)]
        self.transform = v2.Compose(
            [
                v2.RandomApply([v2.RandomAffine(180, translate=(0.04, 0.04), shear=(-8, 8, -8, 8), fill=fill)], p=0.5),
                v2.CenterCrop(size),
                v2.RandomHorizontalFlip(),
                v2.RandomVerticalFlip(),
                v2.RandomChoice([v2.Identity(), *turns]),
                v2.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.04),
                v2.RandomApply([Gamma(0.7, 1.4)], p=0.3),
                v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.15),
                v2.RandomApply([MotionBlur(3, 9)], p=0.15),
            ]
        )

    def __call__(self, image: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Image uint8 [3, M, M] and labels uint8 [M, M] -> [3, S, S] and [S, S]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            pixels, mask = self.transform(tv_tensors.Image(image), tv_tensors.Mask(labels))
        return pixels.as_subclass(torch.Tensor), mask.as_subclass(torch.Tensor)


class Gamma(v2.Transform):
    """Raise an image, but not its labels, to a random power from ``low`` to ``high``, uniform in its logarithm."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = math.log(low), math.log(high)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The power."""
        return {"gamma": math.exp(self.low + (self.high - self.low) * float(torch.rand(())))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of image and labels."""
        return v2.functional.adjust_gamma(inpt, params["gamma"]) if isinstance(inpt, tv_tensors.Image) else inpt


class MotionBlur(v2.Transform):
    """Blur an image, but not its labels, along a line of a random direction, ``low`` to ``high`` px long (odd)."""

    def __init__(self, low: int, high: int) -> None:
        super().__init__()
        self.low, self.high = low, high

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The weights [N, N] of the line."""
        side = self.low + 2 * int(torch.randint((self.high - self.low) // 2 + 1, ()))
        angle = math.pi * float(torch.rand(()))
        return {"kernel": line(side, angle)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One of image and labels."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        kernel: torch.Tensor = params["kernel"]
        side = kernel.shape[0]
        padded = torch.nn.functional.pad(inpt.as_subclass(torch.Tensor).float()[None], (side // 2,) * 4, "reflect")
        blurred = torch.nn.functional.conv2d(padded, kernel.expand(3, 1, side, side), groups=3)[0]
        return tv_tensors.Image(blurred.round().clamp(0, 255).to(torch.uint8))


def line(side: int, angle: float) -> torch.Tensor:
    """Weights [side, side], together 1, of a line through the middle; points between pixels are shared out."""
    weights = torch.zeros(side, side)
    middle = (side - 1) / 2
    for step in torch.linspace(-middle, middle, 2 * side).tolist():
        y, x = middle + step * math.sin(angle), middle + step * math.cos(angle)
        for row in (math.floor(y), math.floor(y) + 1):
            for column in (math.floor(x), math.floor(x) + 1):
                share = (1 - abs(y - row)) * (1 - abs(x - column))
                if 0 <= row < side and 0 <= column < side:
                    weights[row, column] += share
    return weights / weights.sum()
