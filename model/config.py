"""Every number of the Stable Diffusion 1.x networks, each in one place.

The defaults are those of SD 1.4 and 1.5 (Rombach et al., *High-Resolution Image Synthesis with Latent
Diffusion Models*, arXiv 2112.10752), which share one architecture. Other widths, such as the demonstration
weights', are other instances of the same classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class UNetConfig:
    """The denoising UNet. ``block_out_channels`` go from the latent resolution down, one per level."""

    in_channels: int = 4
    out_channels: int = 4
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    layers_per_block: int = 2
    num_heads: int = 8
    cross_attention_dim: int = 768
    groups: int = 32
    resnet_eps: float = 1e-5
    transformer_group_norm_eps: float = 1e-6
    layer_norm_eps: float = 1e-5

    @property
    def levels(self) -> int:
        """Number of resolutions; level 0 is the latent resolution."""
        return len(self.block_out_channels)


@dataclass(frozen=True)
class VAEConfig:
    """The autoencoder. ``scaling`` multiplies the posterior mean to give the UNet's latents."""

    in_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    groups: int = 32
    eps: float = 1e-6
    scaling: float = 0.18215

    @property
    def factor(self) -> int:
        """Image pixels per latent position along one side."""
        return 2 ** (len(self.block_out_channels) - 1)


@dataclass(frozen=True)
class TextConfig:
    """The CLIP text encoder (Radford et al., arXiv 2103.00020), ViT-L/14 by default."""

    vocabulary: int = 49408
    width: int = 768
    mlp_width: int = 3072
    layers: int = 12
    num_heads: int = 12
    positions: int = 77
    eps: float = 1e-5


@dataclass(frozen=True)
class ModelConfig:
    """One whole Stable Diffusion 1.x model. ``name`` says where the weights came from."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    vae: VAEConfig = field(default_factory=VAEConfig)
    text: TextConfig = field(default_factory=TextConfig)


SD15 = ModelConfig()
