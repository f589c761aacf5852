"""What a diffusion model sees in an image: the UNet's decoder at one noise level, averaged over the image.

The features are those that cross-image attention hands from image to image (docs/method.md, step 2), here as a
description of the whole image. That a denoiser's decoder tells images apart: Baranchuk et al., arXiv 2112.03126, and
Tang et al., arXiv 2306.03881.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model import StableDiffusion
from model.unet_blocks import Layer
from sampler.conditioned_unet import TextConditionedUNet
from sampler.execution import Execution
from sampler.inputs import to_unit_range
from sampler.prepare import under_text
from sampler.schedule import Step, cumulative_alphas


@dataclass(frozen=True)
class ImageFeatures:
    """The mean over all positions of the tokens that each of the decoder's self-attention layers looks at.

    The image's latents are noised to timestep ``t`` (0..999), with noise of ``seed`` that is the same for all images of
    a size, under the empty text. Layers stand one after the other, from the coarsest level to the finest.
    """

    model: StableDiffusion
    text: TextConditionedUNet
    levels: tuple[int, ...]
    t: int
    seed: int
    execution: Execution

    @staticmethod
    @torch.inference_mode()
    def of(model: StableDiffusion, t: int, seed: int, execution: Execution) -> ImageFeatures:
        """With the text states computed, once."""
        alpha_bar = float(cumulative_alphas()[t])
        text = under_text(model, "", [Step(t, alpha_bar, alpha_bar, 0.0)], execution)
        levels = tuple(level for level, attends in enumerate(model.config.unet.attention) if attends)
        return ImageFeatures(model, text, levels, t, seed, execution)

    @property
    def multiple(self) -> int:
        """Sides of images must be multiples of this, in pixels."""
        return self.model.config.vae.factor * 2 ** (self.model.config.unet.levels - 1)

    @property
    def width(self) -> int:
        """Numbers of an image: the channels of all layers."""
        unet = self.model.config.unet
        return sum(unet.block_out_channels[layer.level] for layer in self.model.unet.layers(self.levels))

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB [H, W, 3], sides multiples of `multiple` -> float32 [width]."""
        parameter = next(self.model.unet.parameters())
        pixels = to_unit_range(image).to(parameter.device, parameter.dtype)
        exact = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        clean = self.model.vae.encode(pixels, impl=self.execution.impl).to(exact)  # [1, 4, h, w]
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(self.seed)).to(clean)
        alpha_bar = float(cumulative_alphas()[self.t])
        noised = alpha_bar**0.5 * clean + (1.0 - alpha_bar) ** 0.5 * noise
        features = self.text.features(noised, self.t, self.levels)
        means = [tokens[0].to(exact).mean(dim=0) for _, tokens in sorted(features.items(), key=_running_order)]
        found: NDArray[np.float32] = torch.cat(means).float().cpu().numpy()
        return found


def _running_order(item: tuple[Layer, torch.Tensor]) -> tuple[int, int]:
    layer, _ = item
    return -layer.level, layer.position
