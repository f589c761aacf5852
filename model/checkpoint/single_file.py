"""The single-file layout of CompVis: all networks in one safetensors file, under their original names."""

from __future__ import annotations

from itertools import count
from pathlib import Path

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
from model.config import SD15, ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.errors import CheckpointError
from model.files import shown

NETWORKS = {"UNet": UNET_PREFIX, "VAE": VAE_PREFIX, "text encoder": TEXT_PREFIX}
HEAD_WIDTH = 64  # of every published CLIP text encoder


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
    """Read the configuration off the tensors' shapes.

    A network whose first layer is as wide as that of Stable Diffusion 1.5 is taken for it, so that what is missing
    or misshaped is told tensor by tensor. What shapes do not show (heads, groups, eps) is as there.

    Raises:
        CheckpointError: another model, or shapes that contradict each other.
    """
    config = ModelConfig(unet=_unet(index), vae=_vae(index), text=_text(index))
    check_fit(index.where, config)
    return config


def _unet(index: CheckpointIndex) -> UNetConfig:
    width, in_channels = _shape(index, UNET_PREFIX + "input_blocks.0.0.weight", 4)[:2]
    contexts = [
        entry.shape[1]
        for key, entry in index.entries.items()
        if key.startswith(UNET_PREFIX) and key.endswith("attn2.to_k.weight") and len(entry.shape) == 2
    ]
    context = max(contexts, default=SD15.unet.cross_attention_dim)
    refuse_other_unet(index.where, in_channels, context)
    if width == SD15.unet.block_out_channels[0]:
        return SD15.unet
    sizes, attention = [], []
    layers, block, more = 0, 1, True
    while more:
        layers = _count(index, UNET_PREFIX + "input_blocks.{}.0.out_layers.3.weight", block)
        if layers == 0:
            raise CheckpointError(f"{index.where}: input_blocks.{block} of the UNet is missing: the file is incomplete")
        sizes.append(_shape(index, f"{UNET_PREFIX}input_blocks.{block}.0.out_layers.3.weight", 4)[0])
        attention.append(f"{UNET_PREFIX}input_blocks.{block}.1.proj_in.weight" in index.entries)
        more = f"{UNET_PREFIX}input_blocks.{block + layers}.0.op.weight" in index.entries
        block += layers + 1
    raw = {
        "in_channels": in_channels,
        "out_channels": _shape(index, UNET_PREFIX + "out.2.weight", 4)[0],
        "block_out_channels": sizes,
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)],
        "layers_per_block": layers,
        "cross_attention_dim": context,
    }
    return unet_config(f"{index.where}: the UNet's ", raw)


def _vae(index: CheckpointIndex) -> VAEConfig:
    width, in_channels = _shape(index, VAE_PREFIX + "encoder.conv_in.weight", 4)[:2]
    if width == SD15.vae.block_out_channels[0]:
        return SD15.vae
    levels = _count(index, VAE_PREFIX + "encoder.down.{}.block.0.conv2.weight")
    if levels == 0:
        raise CheckpointError(f"{index.where}: encoder.down.0 of the VAE is missing: the file is incomplete")
    shapes = [_shape(index, f"{VAE_PREFIX}encoder.down.{level}.block.0.conv2.weight", 4) for level in range(levels)]
    raw = {
        "in_channels": in_channels,
        "out_channels": in_channels,
        "latent_channels": _shape(index, VAE_PREFIX + "post_quant_conv.weight", 4)[0],
        "block_out_channels": [shape[0] for shape in shapes],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "layers_per_block": _count(index, VAE_PREFIX + "encoder.down.0.block.{}.conv2.weight"),
    }
    return vae_config(f"{index.where}: the VAE's ", raw)


def _text(index: CheckpointIndex) -> TextConfig:
    # Files without text_model. in their names may still hold one key with it, position_ids.
    last = "final_layer_norm.weight"
    prefix = f"{TEXT_PREFIX}text_model."
    if prefix + last not in index.entries and TEXT_PREFIX + last in index.entries:
        prefix = TEXT_PREFIX
    width = _shape(index, prefix + last, 1)[0]
    if width == SD15.text.width:
        return SD15.text
    layers = _count(index, prefix + "encoder.layers.{}.mlp.fc1.weight")
    if layers == 0 or width % HEAD_WIDTH:
        raise CheckpointError(f"{index.where}: its text encoder is not a CLIP text encoder: give a full checkpoint")
    raw = {
        "hidden_size": width,
        "intermediate_size": _shape(index, f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_hidden_layers": layers,
        "num_attention_heads": width // HEAD_WIDTH,
    }
    return text_config(f"{index.where}: the text encoder's ", raw)


def _count(index: CheckpointIndex, key: str, first: int = 0) -> int:
    """How many tensors there are whose names are ``key`` with ``first`` and the numbers after it."""
    return next(number for number in count(first) if key.format(number) not in index.entries) - first


def _shape(index: CheckpointIndex, key: str, dimensions: int) -> tuple[int, ...]:
    if key not in index.entries:
        raise CheckpointError(f"{index.where}: {key} is missing: the file is incomplete, download it again")
    shape = index.entries[key].shape
    if len(shape) != dimensions:
        raise CheckpointError(f"{index.where}: {key} has shape {shown(list(shape))}, not {dimensions} dimensions")
    return shape
