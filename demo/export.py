"""Write trained networks as a diffusers folder in float16, with the files and keys that diffusers itself writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from model.clip import TextEncoder
from model.config import TextConfig, UNetConfig, VAEConfig
from model.unet import UNet
from model.vae import VAE
from sampler.schedule import BETA_END, BETA_START, TRAINING_STEPS

_VERSION = "0.30.0"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_SAMPLE_SIDE = 64


def export(folder: Path, unet: UNet, vae: VAE, text_encoder: TextEncoder) -> int:
    """Write the folder and return its weights' size in bytes. Existing files are replaced."""
    _json(folder / "model_index.json", _index())
    _json(folder / "unet" / "config.json", unet_json(unet.config))
    _json(folder / "vae" / "config.json", vae_json(vae.config))
    _json(folder / "text_encoder" / "config.json", text_json(text_encoder.config))
    _json(folder / "scheduler" / "scheduler_config.json", scheduler_json())
    size = _weights(folder / "unet" / _WEIGHTS, unet, "")
    size += _weights(folder / "vae" / _WEIGHTS, vae, "")
    return size + _weights(folder / "text_encoder" / "model.safetensors", text_encoder, "text_model.")


def unet_json(config: UNetConfig) -> dict[str, Any]:
    """``unet/config.json``; diffusers calls the number of heads ``attention_head_dim``."""
    down = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention]
    up = ["CrossAttnUpBlock2D" if attends else "UpBlock2D" for attends in reversed(config.attention)]
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "attention_head_dim": config.num_heads,
        "block_out_channels": list(config.block_out_channels),
        "center_input_sample": False,
        "cross_attention_dim": config.cross_attention_dim,
        "down_block_types": down,
        "downsample_padding": 1,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "in_channels": config.in_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_scale_factor": 1,
        "norm_eps": config.resnet_eps,
        "norm_num_groups": config.groups,
        "out_channels": config.out_channels,
        "sample_size": _SAMPLE_SIDE,
        "up_block_types": up,
    }


def vae_json(config: VAEConfig) -> dict[str, Any]:
    """``vae/config.json``."""
    levels = len(config.block_out_channels)
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": _VERSION,
        "act_fn": "silu",
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "norm_num_groups": config.groups,
        "out_channels": config.in_channels,
        "sample_size": _SAMPLE_SIDE * config.factor,
        "scaling_factor": config.scaling,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }


def text_json(config: TextConfig) -> dict[str, Any]:
    """``text_encoder/config.json``."""
    return {
        "architectures": ["CLIPTextModel"],
        "attention_dropout": 0.0,
        "bos_token_id": 49406,
        "dropout": 0.0,
        "eos_token_id": 49407,
        "hidden_act": "quick_gelu",
        "hidden_size": config.width,
        "initializer_factor": 1.0,
        "initializer_range": 0.02,
        "intermediate_size": config.mlp_width,
        "layer_norm_eps": config.eps,
        "max_position_embeddings": config.positions,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.layers,
        "pad_token_id": 49407,
        "projection_dim": config.width,
        "torch_dtype": "float16",
        "vocab_size": config.vocabulary,
    }


def _index() -> dict[str, Any]:
    # Without tokenizer, safety checker and feature extractor: the tokenizer is CLIP's, the others do not exist.
    return {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": _VERSION,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": [None, None],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }


def scheduler_json() -> dict[str, Any]:
    """``scheduler/scheduler_config.json``."""
    return {
        "_class_name": "DDIMScheduler",
        "_diffusers_version": _VERSION,
        "beta_end": BETA_END,
        "beta_schedule": "scaled_linear",
        "beta_start": BETA_START,
        "clip_sample": False,
        "num_train_timesteps": TRAINING_STEPS,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
    }


def _json(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _weights(path: Path, module: nn.Module, prefix: str) -> int:
    state = {
        prefix + name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in module.state_dict().items()
    }
    largest = max(float(value.abs().max()) for value in state.values())
    if not largest < float("inf"):
        raise ValueError(f"{path}: a weight does not fit float16; train again from an earlier checkpoint")
    partial = path.with_suffix(".partial")
    save_file(state, partial, metadata={"format": "pt"})
    partial.chmod(0o644)  # safetensors makes files that only their owner may read
    partial.replace(path)
    return path.stat().st_size
