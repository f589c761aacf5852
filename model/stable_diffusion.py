"""One whole Stable Diffusion 1.x model, and the layouts in which its weights are quickest."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.clip import TextEncoder
from model.config import ModelConfig
from model.cpu_layers import pack_convolutions
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE


@dataclass(frozen=True)
class StableDiffusion:
    """One loaded model. ``name`` is its hub id, or the name of its folder or file."""

    unet: UNet
    vae: VAE
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    config: ModelConfig
    name: str

    def prepack(self) -> None:
        """On a CPU, bring UNet and autoencoder into its own layout, in place, for speed in inference alone.

        The ``weight`` of each convolution that is packed is None afterwards. Elsewhere nothing changes.
        """
        for network in (self.unet, self.vae):
            pack_convolutions(network)


def lay_out_for_gpu(unet: UNet, vae: VAE) -> None:
    """Bring weights into the layouts that a GPU's libraries are quickest with; the numbers stay the same."""
    unet.fuse()
    for network in (unet, vae):
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
