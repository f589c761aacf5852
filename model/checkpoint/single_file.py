"""The single-file layout of CompVis: all networks in one safetensors file, under their original names."""

from __future__ import annotations

from pathlib import Path

from model import limits
from model.checkpoint.fill import Parts, build_empty, match, refuse_unknown
from model.checkpoint.keys import (
    EMA_PREFIX,
    SINGLE_FILE_CLUTTER,
    SINGLE_FILE_IGNORED,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    ema_name,
    text_folder,
    unet_original,
    vae_single_file,
)
from model.checkpoint.safetensors import CheckpointIndex, read_table
from model.checkpoint.unsupported import refuse_other_tensors, refuse_other_unet
from model.clip import TextEncoder
from model.config import SD15, ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.errors import CheckpointError
from model.files import shown
from model.unet import UNet
from model.vae import VAE

PARTS = {"UNet": UNET_PREFIX, "VAE": VAE_PREFIX, "text encoder": TEXT_PREFIX}
HEAD_WIDTH = 64  # of every published CLIP text encoder


def read_single_file(path: Path, *, ema: bool) -> Parts:
    """Find everything in a single file and check it, without reading the tensors.

    Raises:
        CheckpointError: the file is not a complete Stable Diffusion 1.x model in safetensors, or has no moving average
            though ``ema`` asks for it.
    """
    table = _without_clutter(read_table(path))
    refuse_other_tensors(table)
    for what, prefix in PARTS.items():
        if not any(key.startswith(prefix) for key in table.entries):
            raise CheckpointError(f"{path}: holds no {what} (no tensor named {prefix}…): give a full checkpoint")
    shapes = Shapes(table)
    config = shapes.config()
    limits.refuse_mismatch(path, config)
    unet = build_empty(lambda: UNet(config.unet))
    vae = build_empty(lambda: VAE(config.vae))
    text = build_empty(lambda: TextEncoder(config.text))
    originals = unet_original(config.unet, unet.state_dict())
    plain = {UNET_PREFIX + original: name for original, name in originals.items()}
    averaged = {ema_name(original): name for original, name in originals.items()}
    vae_names = {VAE_PREFIX + key: name for key, name in vae_single_file(config.vae, vae.state_dict()).items()}
    text_names = {TEXT_PREFIX + key: name for key, name in text_folder(text.state_dict()).items()}
    if ema and not any(key in averaged for key in table.entries):
        why = "a file named emaonly holds it as its plain weights"
        raise CheckpointError(
            f"{path}: has no moving-average (EMA) weights under {EMA_PREFIX}; load it without ema: {why}"
        )
    refuse_unknown(table, plain.keys() | averaged.keys() | vae_names.keys() | text_names.keys() | SINGLE_FILE_IGNORED)
    return Parts(
        config,
        unet,
        vae,
        text,
        match(table, "UNet", unet, averaged if ema else plain),
        match(table, "VAE", vae, vae_names),
        match(table, "text encoder", text, text_names),
    )


def _without_clutter(table: CheckpointIndex) -> CheckpointIndex:
    kept = {key: entry for key, entry in table.entries.items() if not key.startswith(SINGLE_FILE_CLUTTER)}
    return CheckpointIndex(table.where, kept, table.metadata)


class Shapes:
    """Reads the configuration off the tensors' shapes.

    A network whose first layer is as wide as that of Stable Diffusion 1.5 is taken for it, so that what is missing
    or misshaped is told tensor by tensor. What shapes do not show (heads, groups, eps) is as there.
    """

    def __init__(self, table: CheckpointIndex) -> None:
        self._where = table.where
        self._shapes = {key: entry.shape for key, entry in table.entries.items()}

    def config(self) -> ModelConfig:
        """The configuration of the whole file. Raises CheckpointError for other models and contradictory shapes."""
        return ModelConfig(unet=self._unet(), vae=self._vae(), text=self._text())

    def _unet(self) -> UNetConfig:
        width, in_channels = self._shape(UNET_PREFIX + "input_blocks.0.0.weight", 4)[:2]
        contexts = {
            shape[1]
            for key, shape in self._shapes.items()
            if key.startswith(UNET_PREFIX) and key.endswith("attn2.to_k.weight") and len(shape) == 2
        }
        cross_attention_dim = max(contexts, default=SD15.unet.cross_attention_dim)
        refuse_other_unet(self._where, in_channels, cross_attention_dim)
        limits.refuse_beyond(self._where, "width of the UNet's context", cross_attention_dim, limits.WIDTH)
        if width == SD15.unet.block_out_channels[0]:
            return SD15.unet
        block_out_channels: list[int] = []
        attention: list[bool] = []
        layers, block, more = 0, 1, True
        while more:
            first = block
            while f"{UNET_PREFIX}input_blocks.{block}.0.out_layers.3.weight" in self._shapes:
                block += 1
            if block == first:
                raise CheckpointError(
                    f"{self._where}: input_blocks.{block} of the UNet is missing: the file is incomplete"
                )
            layers = block - first
            block_out_channels.append(self._shape(f"{UNET_PREFIX}input_blocks.{first}.0.out_layers.3.weight", 4)[0])
            attention.append(f"{UNET_PREFIX}input_blocks.{first}.1.proj_in.weight" in self._shapes)
            more = f"{UNET_PREFIX}input_blocks.{block}.0.op.weight" in self._shapes
            block += 1
        out_channels = self._shape(UNET_PREFIX + "out.2.weight", 4)[0]
        self._check("UNet", block_out_channels, layers, (in_channels, out_channels), SD15.unet.groups)
        return UNetConfig(
            in_channels=in_channels,
            out_channels=out_channels,
            block_out_channels=tuple(block_out_channels),
            attention=tuple(attention),
            layers_per_block=layers,
            cross_attention_dim=cross_attention_dim,
        )

    def _vae(self) -> VAEConfig:
        width, in_channels = self._shape(VAE_PREFIX + "encoder.conv_in.weight", 4)[:2]
        if width == SD15.vae.block_out_channels[0]:
            return SD15.vae
        block_out_channels: list[int] = []
        while (key := f"{VAE_PREFIX}encoder.down.{len(block_out_channels)}.block.0.conv2.weight") in self._shapes:
            block_out_channels.append(self._shape(key, 4)[0])
        layers = 0
        while f"{VAE_PREFIX}encoder.down.0.block.{layers}.conv2.weight" in self._shapes:
            layers += 1
        if layers == 0:
            raise CheckpointError(f"{self._where}: encoder.down.0 of the VAE is missing: the file is incomplete")
        latent_channels = self._shape(VAE_PREFIX + "post_quant_conv.weight", 4)[0]
        self._check("VAE", block_out_channels, layers, (in_channels, latent_channels), SD15.vae.groups)
        return VAEConfig(
            in_channels=in_channels,
            latent_channels=latent_channels,
            block_out_channels=tuple(block_out_channels),
            layers_per_block=layers,
        )

    def _text(self) -> TextConfig:
        # Files without text_model. in their names may still hold one key with it, position_ids.
        last = "final_layer_norm.weight"
        prefix = f"{TEXT_PREFIX}text_model."
        if prefix + last not in self._shapes and TEXT_PREFIX + last in self._shapes:
            prefix = TEXT_PREFIX
        width = self._shape(prefix + last, 1)[0]
        if width == SD15.text.width:
            return SD15.text
        layers = 0
        while f"{prefix}encoder.layers.{layers}.mlp.fc1.weight" in self._shapes:
            layers += 1
        if layers == 0 or width % HEAD_WIDTH:
            raise CheckpointError(f"{self._where}: its text encoder is not a CLIP text encoder: give a full checkpoint")
        mlp_width = self._shape(f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0]
        limits.refuse_beyond(self._where, "width of the text encoder", width, limits.WIDTH)
        limits.refuse_beyond(self._where, "width of the text encoder's MLP", mlp_width, limits.MLP_WIDTH)
        limits.refuse_beyond(self._where, "number of the text encoder's layers", layers, limits.TEXT_LAYERS)
        return TextConfig(width=width, mlp_width=mlp_width, layers=layers, num_heads=width // HEAD_WIDTH)

    def _shape(self, key: str, dimensions: int) -> tuple[int, ...]:
        shape = self._shapes.get(key)
        if shape is None:
            raise CheckpointError(f"{self._where}: {key} is missing: the file is incomplete, download it again")
        if len(shape) != dimensions:
            raise CheckpointError(f"{self._where}: {key} has shape {shown(list(shape))}, not {dimensions} dimensions")
        return shape

    def _check(
        self, what: str, block_out_channels: list[int], layers: int, channels: tuple[int, int], groups: int
    ) -> None:
        limits.refuse_beyond(self._where, f"number of the {what}'s levels", len(block_out_channels), limits.LEVELS)
        limits.refuse_beyond(self._where, f"number of the {what}'s layers a level", layers, limits.LAYERS_PER_BLOCK)
        for count in channels:
            limits.refuse_beyond(self._where, f"number of the {what}'s channels", count, limits.CHANNELS)
        for width in block_out_channels:
            limits.refuse_beyond(self._where, f"width of the {what}", width, limits.WIDTH)
            if width % groups:
                raise CheckpointError(f"{self._where}: a width of {width} is not a multiple of {groups} groups")
