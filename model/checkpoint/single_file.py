"""The single-file layout of CompVis: all networks in one safetensors file, under their original names."""

from __future__ import annotations

from pathlib import Path

from model.checkpoint import keys, tensors
from model.checkpoint.configs import model_config
from model.checkpoint.unsupported import refuse_others
from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import shown

NETWORKS = {"UNet": keys.UNET_PREFIX, "VAE": keys.VAE_PREFIX, "text encoder": keys.TEXT_PREFIX}
HEAD_WIDTH = 64  # of every published CLIP text encoder


def read_single_file(path: Path) -> tensors.Unfilled:
    """Find everything in a single file and check it, without reading the tensors.

    Of the UNet the plain weights are taken; a moving average (EMA) beside them is passed over.

    Raises:
        CheckpointError: the file is not a complete Stable Diffusion 1.x model in safetensors.
    """
    index = tensors.read_index(path)
    kept = {key: entry for key, entry in index.entries.items() if not key.startswith(keys.SINGLE_FILE_CLUTTER)}
    index = tensors.CheckpointIndex(path, kept, index.metadata)
    refuse_others(path, names=kept, prediction=index.metadata.get("modelspec.prediction_type"))
    for what, prefix in NETWORKS.items():
        if not any(key.startswith(prefix) for key in index.entries):
            raise CheckpointError(
                f"{path}: holds no {what} (no tensor named {prefix}…): give a full checkpoint or a folder"
            )
    config = config_of_shapes(index)
    networks = tensors.build_networks(config)
    unet, vae, text = (network.state_dict() for network in networks)
    originals = keys.unet_original(config.unet, unet)
    tables = (originals, keys.vae_original(config.vae, vae), keys.text_folder(text))
    names = [
        {prefix + key: name for key, name in table.items()}
        for prefix, table in zip(NETWORKS.values(), tables, strict=True)
    ]
    tensors.refuse_unknown(index, keys.SINGLE_FILE_IGNORED.union(map(keys.ema_name, originals), *names))
    found = [tensors.find_parameters(index, *each) for each in zip(NETWORKS, networks, names, strict=True)]
    return config, networks, found


def config_of_shapes(index: tensors.CheckpointIndex) -> ModelConfig:
    """Read the configuration off the tensors' shapes. What they do not show (heads, groups, eps) is as in 1.5.

    Raises:
        CheckpointError: another model, or shapes that contradict each other.
    """
    prefix = f"{keys.UNET_PREFIX}input_blocks."
    in_channels = _size(index, f"{prefix}0.0.weight", 1)
    context = _size(index, f"{keys.UNET_PREFIX}middle_block.1.transformer_blocks.0.attn2.to_k.weight", 1)
    refuse_others(index.where, channels=in_channels, context=context)
    levels, layers = _levels(index, prefix, ".0.op.weight", ".0.out_layers.3.weight")
    blocks = [f"{prefix}{1 + level * (layers + 1)}" for level in range(levels)]
    attention = [f"{block}.1.proj_in.weight" in index.entries for block in blocks]
    unet = {
        "in_channels": in_channels,
        "cross_attention_dim": context,
        "layers_per_block": layers,
        "block_out_channels": [_size(index, f"{block}.0.out_layers.3.weight", 0) for block in blocks],
        "down_block_types": ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in attention],
        "up_block_types": ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(attention)],
    }
    prefix = f"{keys.VAE_PREFIX}encoder.down."
    levels, layers = _levels(index, prefix, ".downsample.conv.weight", ".conv2.weight")
    vae = {
        "layers_per_block": layers,
        "block_out_channels": [_size(index, f"{prefix}{level}.block.0.conv2.weight", 0) for level in range(levels)],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    # Files without text_model. in their names may still hold one key with it, position_ids.
    last, prefix = "final_layer_norm.weight", f"{keys.TEXT_PREFIX}text_model."
    prefix = prefix if prefix + last in index.entries else keys.TEXT_PREFIX
    width = _size(index, prefix + last, 0)
    text = {
        "hidden_size": width,
        "intermediate_size": _size(index, f"{prefix}encoder.layers.0.mlp.fc1.weight", 0),
        "num_hidden_layers": _count(index, f"{prefix}encoder.layers.", ".mlp.fc1.weight"),
        "num_attention_heads": width // HEAD_WIDTH if width % HEAD_WIDTH == 0 else width / HEAD_WIDTH,
    }
    return model_config(index.where, unet, vae, text, [f"{index.where}: the {what}'s " for what in NETWORKS])


def _size(index: tensors.CheckpointIndex, key: str, axis: int) -> int:
    if key not in index.entries:
        raise CheckpointError(f"{index.where}: {key} is missing: the file is incomplete, download it again")
    shape = index.entries[key].shape
    if len(shape) <= axis:
        raise CheckpointError(f"{index.where}: {key} has shape {shown(list(shape))}: give an unmodified checkpoint")
    return shape[axis]


def _levels(index: tensors.CheckpointIndex, start: str, down: str, layer: str) -> tuple[int, int]:
    """How many levels there are, between which lie tensors named ``down``, and layers in each, named ``layer``."""
    levels = _count(index, start, down) + 1
    return levels, round(_count(index, start, layer) / levels)


def _count(index: tensors.CheckpointIndex, start: str, end: str) -> int:
    return sum(key.startswith(start) and key.endswith(end) for key in index.entries)
