"""What a configuration may say, whether read from a file or off the tensors' shapes.

The bounds are far above every published Stable Diffusion 1.x model. What is beyond them is damage, and would be built
for minutes, or not at all, before it is told.
"""

from __future__ import annotations

from pathlib import Path

from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import shown

IMAGE_CHANNELS = 3
LEVELS = 8
LAYERS_PER_BLOCK = 8
CHANNELS = 256  # of images and latents
WIDTH = 16384
MLP_WIDTH = 4 * WIDTH
TEXT_LAYERS = 128
LARGEST_EPS = 1.0
SCALINGS = (1e-4, 1e4)


def refuse_beyond(where: Path, name: str, value: int, largest: int) -> None:
    """Raise CheckpointError if ``value``, called ``name``, is not in 1..``largest``."""
    if not 1 <= value <= largest:
        raise CheckpointError(f"{where}: {name} {shown(value)} is not supported: it must be from 1 to {largest}")


def refuse_mismatch(where: Path, config: ModelConfig) -> None:
    """Raise CheckpointError if the three networks' widths and channels do not fit together."""
    unet, vae, text = config.unet, config.vae, config.text
    if text.width != unet.cross_attention_dim:
        mismatch = f"the text encoder is {text.width} wide but the UNet's context {unet.cross_attention_dim}"
        raise CheckpointError(f"{where}: {mismatch}: the parts belong to different models")
    if unet.in_channels != vae.latent_channels or unet.out_channels != vae.latent_channels:
        channels = f"the UNet goes from {unet.in_channels} to {unet.out_channels} channels"
        latents = f"the VAE's latents have {vae.latent_channels}"
        raise CheckpointError(f"{where}: {channels} but {latents}: the parts belong to different models")
    if vae.in_channels != IMAGE_CHANNELS:
        raise CheckpointError(
            f"{where}: the VAE's images have {vae.in_channels} channels: only RGB, with 3, is supported"
        )
    if unet.block_out_channels[0] % 2:
        raise CheckpointError(
            f"{where}: the UNet's first width {unet.block_out_channels[0]} is odd: not Stable Diffusion 1.x"
        )
