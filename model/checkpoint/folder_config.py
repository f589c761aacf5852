"""The ``config.json`` files of a diffusers folder: read, checked key by key, turned into our configurations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model import limits
from model.checkpoint.unsupported import V_PREDICTION, refusal, refuse_other_unet
from model.config import TextConfig, UNetConfig, VAEConfig
from model.errors import CheckpointError
from model.files import read_json, shown, shown_name
from model.tokenizer import LENGTH, VOCABULARY

Raw = Mapping[str, Any]

__all__ = ["check_scheduler", "read_json", "text_config", "unet_config", "vae_config"]

UNET_READ = frozenset(
    {
        "in_channels",
        "out_channels",
        "block_out_channels",
        "down_block_types",
        "up_block_types",
        "layers_per_block",
        "norm_num_groups",
        "norm_eps",
        "attention_head_dim",
        "num_attention_heads",
        "cross_attention_dim",
    }
)
UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("UNet2DConditionModel",),
    "act_fn": ("silu", "swish"),
    "center_input_sample": (False,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "downsample_padding": (1,),
    "mid_block_type": ("UNetMidBlock2DCrossAttn",),
    "mid_block_scale_factor": (1,),
    "transformer_layers_per_block": (1,),
    "resnet_time_scale_shift": ("default",),
    "resnet_out_scale_factor": (1,),
    "time_embedding_type": ("positional",),
    "attention_type": ("default",),
    "conv_in_kernel": (3,),
    "conv_out_kernel": (3,),
}
# Only training, other hardware or keys that are themselves switched on by a key refused below.
UNET_IGNORED = frozenset(
    {
        "sample_size",
        "dropout",
        "upcast_attention",
        "addition_embed_type_num_heads",
        "decay",
        "inv_gamma",
        "min_decay",
        "optimization_step",
        "power",
        "update_after_step",
        "use_ema_warmup",
    }
)
VAE_READ = frozenset(
    {
        "in_channels",
        "out_channels",
        "latent_channels",
        "block_out_channels",
        "layers_per_block",
        "norm_num_groups",
        "scaling_factor",
        "down_block_types",
        "up_block_types",
    }
)
VAE_FIXED: dict[str, tuple[Any, ...]] = {
    "_class_name": ("AutoencoderKL",),
    "act_fn": ("silu", "swish"),
    "use_quant_conv": (True,),
    "use_post_quant_conv": (True,),
    "mid_block_add_attention": (True,),
}
VAE_IGNORED = frozenset({"sample_size", "force_upcast"})
TEXT_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("clip_text_model",),
    "hidden_act": ("quick_gelu",),
    "vocab_size": (VOCABULARY,),
    "max_position_embeddings": (LENGTH,),
}
SCHEDULER_FIXED: dict[str, tuple[Any, ...]] = {
    "num_train_timesteps": (1000,),
    "beta_start": (0.00085,),
    "beta_end": (0.012,),
    "beta_schedule": ("scaled_linear",),
    "trained_betas": (None, []),
    "rescale_betas_zero_snr": (False,),
}


def unet_config(path: Path) -> UNetConfig:
    """Read ``unet/config.json``. Raises CheckpointError for any architecture but that of Stable Diffusion 1.x."""
    raw = read_json(path)
    in_channels = _number(path, raw, "in_channels", 4, limits.CHANNELS)
    cross_attention_dim = _number(path, raw, "cross_attention_dim", 1280, limits.WIDTH)
    refuse_other_unet(path, in_channels, cross_attention_dim)
    _check(path, raw, UNET_FIXED, UNET_READ | UNET_IGNORED)
    block_out_channels = _widths(path, raw, (320, 640, 1280, 1280))
    down = _types(path, raw, "down_block_types", ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",), block_out_channels)
    up = _types(path, raw, "up_block_types", ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3, block_out_channels)
    attention = tuple(_has_attention(path, name, "DownBlock2D") for name in down)
    if tuple(_has_attention(path, name, "UpBlock2D") for name in reversed(up)) != attention:
        raise CheckpointError(
            f"{path}: up_block_types {list(up)} do not mirror down_block_types: not Stable Diffusion 1.x"
        )
    # Diffusers calls the number of heads attention_head_dim, a slip that the published files keep.
    named = "attention_head_dim" if raw.get("num_attention_heads") is None else "num_attention_heads"
    config = UNetConfig(
        in_channels=in_channels,
        out_channels=_number(path, raw, "out_channels", 4, limits.CHANNELS),
        block_out_channels=block_out_channels,
        attention=attention,
        layers_per_block=_number(path, raw, "layers_per_block", 2, limits.LAYERS_PER_BLOCK),
        num_heads=_number(path, raw, named, 8, limits.WIDTH),
        cross_attention_dim=cross_attention_dim,
        groups=_number(path, raw, "norm_num_groups", 32, limits.WIDTH),
        resnet_eps=_real(path, raw, "norm_eps", 1e-5, (0.0, limits.LARGEST_EPS)),
    )
    _refuse_indivisible(path, block_out_channels, config.groups, "norm_num_groups")
    _refuse_indivisible(path, block_out_channels, config.num_heads, named)
    return config


def vae_config(path: Path) -> VAEConfig:
    """Read ``vae/config.json``. Raises CheckpointError for any architecture but that of Stable Diffusion 1.x."""
    raw = read_json(path)
    _check(path, raw, VAE_FIXED, VAE_READ | VAE_IGNORED)
    block_out_channels = _widths(path, raw, (64,))
    for key, name in (("down_block_types", "DownEncoderBlock2D"), ("up_block_types", "UpDecoderBlock2D")):
        if set(_types(path, raw, key, (name,), block_out_channels)) != {name}:
            raise CheckpointError(f"{path}: {key} has others than {name}: not Stable Diffusion 1.x")
    config = VAEConfig(
        in_channels=_number(path, raw, "in_channels", 3, limits.CHANNELS),
        latent_channels=_number(path, raw, "latent_channels", 4, limits.CHANNELS),
        block_out_channels=block_out_channels,
        layers_per_block=_number(path, raw, "layers_per_block", 1, limits.LAYERS_PER_BLOCK),
        groups=_number(path, raw, "norm_num_groups", 32, limits.WIDTH),
        scaling=_real(path, raw, "scaling_factor", 0.18215, limits.SCALINGS),
    )
    if _number(path, raw, "out_channels", 3, limits.CHANNELS) != config.in_channels:
        raise CheckpointError(f"{path}: in_channels and out_channels differ: not Stable Diffusion 1.x")
    _refuse_indivisible(path, block_out_channels, config.groups, "norm_num_groups")
    return config


def text_config(path: Path) -> TextConfig:
    """Read ``text_encoder/config.json``; its token ids, wrong in old files, are not used.

    Raises:
        CheckpointError: not a CLIP text encoder as in Stable Diffusion 1.x, or one with another vocabulary or length.
    """
    raw = read_json(path)
    _check(path, {key: raw[key] for key in TEXT_FIXED if key in raw}, TEXT_FIXED, frozenset())
    config = TextConfig(
        width=_number(path, raw, "hidden_size", 512, limits.WIDTH),
        mlp_width=_number(path, raw, "intermediate_size", 2048, limits.MLP_WIDTH),
        layers=_number(path, raw, "num_hidden_layers", 12, limits.TEXT_LAYERS),
        num_heads=_number(path, raw, "num_attention_heads", 8, limits.WIDTH),
        eps=_real(path, raw, "layer_norm_eps", 1e-5, (0.0, limits.LARGEST_EPS)),
    )
    _refuse_indivisible(path, (config.width,), config.num_heads, "num_attention_heads")
    return config


def check_scheduler(path: Path) -> None:
    """Check ``scheduler/scheduler_config.json``: noise prediction and the noise schedule of Stable Diffusion 1.x."""
    raw = read_json(path)
    prediction = raw.get("prediction_type", "epsilon")
    if prediction == "v_prediction":
        raise refusal(path, V_PREDICTION)
    if prediction != "epsilon":
        raise CheckpointError(f"{path}: prediction_type {shown(prediction)} is not supported: only 'epsilon' is")
    for key, allowed in SCHEDULER_FIXED.items():
        if key in raw and not _is_among(raw[key], allowed):
            raise CheckpointError(
                f"{path}: {key} is {shown(raw[key])}; the schedule of Stable Diffusion 1.x has {allowed[0]!r}"
            )


def _check(path: Path, raw: Raw, fixed: Mapping[str, tuple[Any, ...]], known: frozenset[str]) -> None:
    for key, value in raw.items():
        if key in fixed:
            if not _is_among(value, fixed[key]):
                raise CheckpointError(
                    f"{path}: {key} {shown(value)} is not supported: Stable Diffusion 1.x has {fixed[key][0]!r}"
                )
        elif key not in known and not key.startswith("_") and not _is_off(value):
            named = f"{shown_name(key)} {shown(value)}"
            raise CheckpointError(f"{path}: {named} is not supported: Stable Diffusion 1.x does not have it")


def _is_among(value: Any, allowed: tuple[Any, ...]) -> bool:
    """Whether ``value`` is one of ``allowed``, where true is not 1 nor false 0."""
    return any(isinstance(value, bool) == isinstance(item, bool) and value == item for item in allowed)


def _is_off(value: Any) -> bool:
    return value is None or value is False


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _number(path: Path, raw: Raw, key: str, default: int, largest: int) -> int:
    value = raw.get(key, default)
    if isinstance(value, list) and value and all(map(_is_number, value)) and len(set(value)) == 1:
        value = value[0]
    if not _is_number(value):
        raise CheckpointError(
            f"{path}: {key} {shown(value)} is not supported: one whole number for all levels is needed"
        )
    number: int = value
    limits.refuse_beyond(path, key, number, largest)
    return number


def _real(path: Path, raw: Raw, key: str, default: float, bounds: tuple[float, float]) -> float:
    value = raw.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{path}: {key} {shown(value)} is not a positive number")
    if not bounds[0] <= value <= bounds[1]:
        raise CheckpointError(
            f"{path}: {key} {shown(value)} is not supported: it must be from {bounds[0]} to {bounds[1]}"
        )
    return float(value)


def _widths(path: Path, raw: Raw, default: tuple[int, ...]) -> tuple[int, ...]:
    value = raw.get("block_out_channels", default)
    if not isinstance(value, list | tuple) or not value or not all(map(_is_number, value)):
        raise CheckpointError(f"{path}: block_out_channels {shown(value)} is not a list of whole numbers")
    limits.refuse_beyond(path, "number of block_out_channels", len(value), limits.LEVELS)
    for width in value:
        limits.refuse_beyond(path, "width in block_out_channels", width, limits.WIDTH)
    return tuple(value)


def _types(
    path: Path, raw: Raw, key: str, default: tuple[str, ...], block_out_channels: tuple[int, ...]
) -> tuple[str, ...]:
    value = raw.get(key, default)
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path}: {key} {shown(value)} is not a list of names")
    if len(value) != len(block_out_channels):
        raise CheckpointError(
            f"{path}: {key} has {len(value)} entries but block_out_channels {len(block_out_channels)}"
        )
    return tuple(value)


def _has_attention(path: Path, name: str, plain: str) -> bool:
    if name not in (plain, f"CrossAttn{plain}"):
        raise CheckpointError(f"{path}: block type {shown(name)} is not supported: Stable Diffusion 1.x has {plain!r}")
    return name != plain


def _refuse_indivisible(path: Path, block_out_channels: tuple[int, ...], divisor: int, key: str) -> None:
    for width in block_out_channels:
        if width % divisor:
            raise CheckpointError(f"{path}: {key} {divisor} does not divide the width {width}")
