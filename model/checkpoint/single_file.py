"""The single-file layout of CompVis: all networks in one safetensors file, under their original names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from model.checkpoint.configs import check_fit, text_config, unet_config, vae_config
from model.checkpoint.keys import (
    SINGLE_FILE_CLUTTER,
    SINGLE_FILE_IGNORED,
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    ema_name,
    text_folder,
    unet_original,
    vae_original,
)
from model.checkpoint.load_state import Unfilled, build_networks, find_parameters, refuse_unknown
from model.checkpoint.safetensors import CheckpointIndex, read_index
from model.checkpoint.unsupported import refuse_other_tensors, refuse_other_unet
from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import shown

NETWORKS = {"UNet": UNET_PREFIX, "VAE": VAE_PREFIX, "text encoder": TEXT_PREFIX}
HEAD_WIDTH = 64  # of every published CLIP text encoder

# What a config.json would say: the tensor whose shape says it, and along which axis.
UNET_SIZES = {
    "in_channels": ("input_blocks.0.0.weight", 1),
    "out_channels": ("out.2.weight", 0),
    "cross_attention_dim": ("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1),
}
VAE_SIZES = {
    "in_channels": ("encoder.conv_in.weight", 1),
    "out_channels": ("decoder.conv_out.weight", 0),
    "latent_channels": ("post_quant_conv.weight", 0),
}
TEXT_SIZES = {
    "hidden_size": ("final_layer_norm.weight", 0),
    "intermediate_size": ("encoder.layers.0.mlp.fc1.weight", 0),
}


def read_single_file(path: Path) -> Unfilled:
    """Find everything in a single file and check it, without reading the tensors.

    Of the UNet the plain weights are taken; a moving average (EMA) beside them is passed over.

    Raises:
        CheckpointError: the file is not a complete Stable Diffusion 1.x model in safetensors.
    """
    index = read_index(path)
    kept = {key: entry for key, entry in index.entries.items() if not key.startswith(SINGLE_FILE_CLUTTER)}
    index = CheckpointIndex(path, kept, index.metadata)
    refuse_other_tensors(path, index.entries, index.metadata)
    for what, prefix in NETWORKS.items():
        if not any(key.startswith(prefix) for key in index.entries):
            raise CheckpointError(f"{path}: holds no {what} (no tensor named {prefix}…): give a full checkpoint")
    config = config_of_shapes(index)
    networks = build_networks(config)
    unet, vae, text = (network.state_dict() for network in networks)
    originals = unet_original(config.unet, unet)
    tables = (originals, vae_original(config.vae, vae), text_folder(text))
    names = [
        {prefix + key: name for key, name in table.items()}
        for prefix, table in zip(NETWORKS.values(), tables, strict=True)
    ]
    refuse_unknown(index, SINGLE_FILE_IGNORED.union(map(ema_name, originals), *names))
    entries = [
        find_parameters(index, what, network, table)
        for what, network, table in zip(NETWORKS, networks, names, strict=True)
    ]
    return Unfilled(config, networks, entries)


def config_of_shapes(index: CheckpointIndex) -> ModelConfig:
    """Read the configuration off the tensors' shapes. What they do not show (heads, groups, eps) is as in 1.5.

    Raises:
        CheckpointError: another model, or shapes that contradict each other.
    """
    unet = _sizes(index, UNET_PREFIX, UNET_SIZES)
    refuse_other_unet(index.where, unet["in_channels"], unet["cross_attention_dim"])
    levels, layers = _levels(index, f"{UNET_PREFIX}input_blocks.", ".0.op.weight", ".0.out_layers.3.weight")
    blocks = [f"{UNET_PREFIX}input_blocks.{1 + level * (layers + 1)}" for level in range(levels)]
    attention = [f"{block}.1.proj_in.weight" in index.entries for block in blocks]
    unet |= {
        "layers_per_block": layers,
        "block_out_channels": [_size(index, f"{block}.0.out_layers.3.weight", 0) for block in blocks],
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)],
    }
    vae = _sizes(index, VAE_PREFIX, VAE_SIZES)
    levels, layers = _levels(index, f"{VAE_PREFIX}encoder.down.", ".downsample.conv.weight", ".conv2.weight")
    blocks = [f"{VAE_PREFIX}encoder.down.{level}.block.0.conv2.weight" for level in range(levels)]
    vae |= {
        "layers_per_block": layers,
        "block_out_channels": [_size(index, block, 0) for block in blocks],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    # Files without text_model. in their names may still hold one key with it, position_ids.
    prefix = f"{TEXT_PREFIX}text_model."
    prefix = prefix if f"{prefix}final_layer_norm.weight" in index.entries else TEXT_PREFIX
    text = _sizes(index, prefix, TEXT_SIZES)
    text["num_hidden_layers"] = _count(index, f"{prefix}encoder.layers.", ".mlp.fc1.weight")
    text["num_attention_heads"], rest = divmod(text["hidden_size"], HEAD_WIDTH)
    if rest:
        problem = f"its text encoder is {text['hidden_size']} wide, no multiple of {HEAD_WIDTH}, so not CLIP's"
        raise CheckpointError(f"{index.where}: {problem}: give a full checkpoint")
    config = ModelConfig(
        unet=unet_config(f"{index.where}: the UNet's ", unet),
        vae=vae_config(f"{index.where}: the VAE's ", vae),
        text=text_config(f"{index.where}: the text encoder's ", text),
    )
    check_fit(index.where, config)
    return config


def _sizes(index: CheckpointIndex, prefix: str, table: dict[str, tuple[str, int]]) -> dict[str, Any]:
    return {name: _size(index, prefix + key, axis) for name, (key, axis) in table.items()}


def _size(index: CheckpointIndex, key: str, axis: int) -> int:
    if key not in index.entries:
        raise CheckpointError(f"{index.where}: {key} is missing: the file is incomplete, download it again")
    shape = index.entries[key].shape
    if len(shape) <= axis:
        raise CheckpointError(f"{index.where}: {key} has shape {shown(list(shape))}: give an unmodified checkpoint")
    return shape[axis]


def _levels(index: CheckpointIndex, start: str, down: str, layer: str) -> tuple[int, int]:
    """How many levels there are, between which lie tensors named ``down``, and layers in each, named ``layer``."""
    levels = _count(index, start, down) + 1
    return levels, round(_count(index, start, layer) / levels)


def _count(index: CheckpointIndex, start: str, end: str) -> int:
    return sum(key.startswith(start) and key.endswith(end) for key in index.entries)
