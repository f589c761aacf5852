"""What configurations may say, one table for each, whether read from ``config.json`` or off a single file's shapes.

The bounds are far above every published Stable Diffusion 1.x model. What is beyond them is damage, and would be built
for minutes, or not at all, before it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from model.checkpoint.unsupported import V_PREDICTION, refusal
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.errors import CheckpointError
from model.files import read_json, shown, shown_name
from model.tokenizer import LENGTH, VOCABULARY

LEVELS = 8
LAYERS_PER_BLOCK = 8
CHANNELS = 256  # of images and latents
WIDTH = 16384
TEXT_LAYERS = 128


@dataclass(frozen=True)
class Rule:
    """What one key may be: its value if absent, how it is read, what a refusal says of others, and our field for it.

    ``read`` gives the value in our form, or None for one that is not supported.
    """

    default: Any
    read: Callable[[Any], Any]
    wanted: str
    field: str = ""


def one_of(*values: Any) -> Rule:
    """One of a few values, where true is not 1 nor false 0. The first is what an absent key means."""

    def read(value: Any) -> Any:
        same = any(isinstance(value, bool) == isinstance(item, bool) and value == item for item in values)
        return True if same else None

    return Rule(values[0], read, f"Stable Diffusion 1.x has {values[0]!r}")


def whole(default: int | None, largest: int, field: str = "") -> Rule:
    """A whole number from 1 to ``largest``, or a list that gives the same one for every level."""

    def read(value: Any) -> int | None:
        if isinstance(value, list) and all(map(_is_whole, value)) and len(set(value)) == 1:
            value = value[0]
        return value if _is_whole(value) and 1 <= value <= largest else None

    return Rule(default, read, f"it must be from 1 to {largest}, one whole number for all levels", field)


def real(default: float, lowest: float, largest: float, field: str) -> Rule:
    """A number above 0 from ``lowest`` to ``largest``."""

    def read(value: Any) -> float | None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number and value > 0 and lowest <= value <= largest else None

    return Rule(default, read, f"it must be a positive number from {lowest} to {largest}", field)


def each(default: tuple[Any, ...], accepts: Callable[[Any], bool], wanted: str, field: str = "") -> Rule:
    """A list with one item for each of at most `LEVELS` levels."""

    def read(value: Any) -> tuple[Any, ...] | None:
        fits = isinstance(value, list | tuple) and 1 <= len(value) <= LEVELS and all(map(accepts, value))
        return tuple(value) if fits else None

    return Rule(default, read, f"it must be from 1 to {LEVELS} {wanted}", field)


def widths(*default: int) -> Rule:
    """The widths of the levels."""
    wanted = f"whole numbers up to {WIDTH}"
    return each(default, lambda value: _is_whole(value) and 1 <= value <= WIDTH, wanted, "block_out_channels")


def blocks(*default: str) -> Rule:
    """The kinds of block that the levels have, which are those of ``default``."""
    kinds = sorted(set(default))
    return each(default, lambda value: isinstance(value, str) and value in kinds, f"of {' and '.join(kinds)}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


IGNORED = Rule(None, lambda value: True, "")

UNET: dict[str, Rule] = {
    "_class_name": one_of("UNet2DConditionModel"),
    "in_channels": whole(4, CHANNELS, "in_channels"),
    "out_channels": whole(4, CHANNELS, "out_channels"),
    "block_out_channels": widths(320, 640, 1280, 1280),
    "down_block_types": blocks(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": blocks("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "layers_per_block": whole(2, LAYERS_PER_BLOCK, "layers_per_block"),
    "cross_attention_dim": whole(1280, WIDTH, "cross_attention_dim"),
    "norm_num_groups": whole(32, WIDTH, "groups"),
    "norm_eps": real(1e-5, 0.0, 1.0, "resnet_eps"),
    # Diffusers calls the number of heads attention_head_dim, a slip that the published files keep.
    "attention_head_dim": whole(8, WIDTH),
    "num_attention_heads": whole(None, WIDTH),
    "act_fn": one_of("silu", "swish"),
    "center_input_sample": one_of(False),
    "flip_sin_to_cos": one_of(True),
    "freq_shift": one_of(0),
    "downsample_padding": one_of(1),
    "mid_block_type": one_of("UNetMidBlock2DCrossAttn"),
    "mid_block_scale_factor": one_of(1),
    "transformer_layers_per_block": one_of(1),
    "resnet_time_scale_shift": one_of("default"),
    "resnet_out_scale_factor": one_of(1),
    "time_embedding_type": one_of("positional"),
    "attention_type": one_of("default"),
    "conv_in_kernel": one_of(3),
    "conv_out_kernel": one_of(3),
    # Only training, other hardware or keys that are themselves switched on by a key refused above.
    **dict.fromkeys(("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads"), IGNORED),
    **dict.fromkeys(("decay", "inv_gamma", "min_decay", "optimization_step", "power"), IGNORED),
    **dict.fromkeys(("update_after_step", "use_ema_warmup"), IGNORED),
}
VAE: dict[str, Rule] = {
    "_class_name": one_of("AutoencoderKL"),
    "in_channels": whole(3, CHANNELS, "in_channels"),
    "out_channels": whole(3, CHANNELS),
    "latent_channels": whole(4, CHANNELS, "latent_channels"),
    "block_out_channels": widths(64),
    "down_block_types": blocks("DownEncoderBlock2D"),
    "up_block_types": blocks("UpDecoderBlock2D"),
    "layers_per_block": whole(1, LAYERS_PER_BLOCK, "layers_per_block"),
    "norm_num_groups": whole(32, WIDTH, "groups"),
    "scaling_factor": real(0.18215, 1e-4, 1e4, "scaling"),
    "act_fn": one_of("silu", "swish"),
    "use_quant_conv": one_of(True),
    "use_post_quant_conv": one_of(True),
    "mid_block_add_attention": one_of(True),
    "sample_size": IGNORED,
    "force_upcast": IGNORED,
}
# All other keys are for generating text, or token ids, which are wrong in old files.
TEXT: dict[str, Rule] = {
    "model_type": one_of("clip_text_model"),
    "hidden_act": one_of("quick_gelu"),
    "vocab_size": one_of(VOCABULARY),
    "max_position_embeddings": one_of(LENGTH),
    "hidden_size": whole(512, WIDTH, "width"),
    "intermediate_size": whole(2048, 4 * WIDTH, "mlp_width"),
    "num_hidden_layers": whole(12, TEXT_LAYERS, "layers"),
    "num_attention_heads": whole(8, WIDTH, "num_heads"),
    "layer_norm_eps": real(1e-5, 0.0, 1.0, "eps"),
}
SCHEDULER: dict[str, Rule] = {
    "prediction_type": one_of("epsilon"),
    "num_train_timesteps": one_of(1000),
    "beta_start": one_of(0.00085),
    "beta_end": one_of(0.012),
    "beta_schedule": one_of("scaled_linear"),
    "trained_betas": one_of(None, []),
    "rescale_betas_zero_snr": one_of(False),
}


def unet_config(place: str, raw: Mapping[str, Any]) -> UNetConfig:
    """Read a UNet's ``config.json``. ``place``, the file, stands before the key in messages.

    Raises CheckpointError for any architecture but that of Stable Diffusion 1.x, as do the others here.
    """
    values = _read(place, raw, UNET)
    down, up = values["down_block_types"], values["up_block_types"]
    attention = tuple(name != "DownBlock2D" for name in down)
    if tuple(name != "UpBlock2D" for name in reversed(up)) != attention:
        problem = f"up_block_types {list(up)} do not mirror down_block_types: not Stable Diffusion 1.x"
        raise CheckpointError(place + problem)
    heads = values.get("num_attention_heads", values["attention_head_dim"])
    return UNetConfig(**_fields(values, UNET), attention=attention, num_heads=heads)


def vae_config(place: str, raw: Mapping[str, Any]) -> VAEConfig:
    """Read a VAE's ``config.json``."""
    values = _read(place, raw, VAE)
    if values["out_channels"] != values["in_channels"]:
        raise CheckpointError(f"{place}in_channels and out_channels differ: not Stable Diffusion 1.x")
    return VAEConfig(**_fields(values, VAE))


def text_config(place: str, raw: Mapping[str, Any]) -> TextConfig:
    """Read a text encoder's ``config.json``."""
    return TextConfig(**_fields(_read(place, raw, TEXT, closed=False), TEXT))


def check_scheduler(path: Path) -> None:
    """Raise CheckpointError for another prediction or noise schedule than those of Stable Diffusion 1.x."""
    raw = read_json(path)
    if raw.get("prediction_type") == "v_prediction":
        raise refusal(path, V_PREDICTION)
    _read(f"{path}: ", raw, SCHEDULER, closed=False)


def check_fit(where: Path, config: ModelConfig) -> None:
    """Raise CheckpointError if the three networks' widths and channels do not fit together."""
    unet, vae, text = config.unet, config.vae, config.text
    problem = ""
    if text.width != unet.cross_attention_dim:
        problem = f"the text encoder is {text.width} wide but the UNet's context {unet.cross_attention_dim}"
    elif not unet.in_channels == unet.out_channels == vae.latent_channels:
        ends = f"from {unet.in_channels} to {unet.out_channels} channels"
        problem = f"the UNet goes {ends} but the VAE's latents have {vae.latent_channels}"
    if problem:
        raise CheckpointError(f"{where}: {problem}: the parts belong to different models")
    if vae.in_channels != 3:
        raise CheckpointError(f"{where}: the VAE's images have {vae.in_channels} channels: only RGB is supported")
    if unet.block_out_channels[0] % 2:
        width = unet.block_out_channels[0]
        raise CheckpointError(f"{where}: the UNet's first width {width} is odd: not Stable Diffusion 1.x")


def _read(place: str, raw: Mapping[str, Any], rules: Mapping[str, Rule], *, closed: bool = True) -> dict[str, Any]:
    """The values under the keys of ``rules``, in our form; those without value or default are left out.

    With ``closed``, keys that ``rules`` lacks must be off, which is null or false, unless they begin with ``_``. Every
    level must have a block type, and groups and heads must divide the widths.
    """
    values = {}
    for key, rule in rules.items():
        given = raw.get(key, rule.default)
        if given is None and rule.default is None:
            continue
        values[key] = rule.read(given)
        if values[key] is None:
            raise CheckpointError(f"{place}{key} {shown(given)} is not supported: {rule.wanted}")
    for key, given in raw.items():
        if closed and key not in rules and not key.startswith("_") and given is not None and given is not False:
            named = f"{shown_name(key)} {shown(given)}"
            raise CheckpointError(f"{place}{named} is not supported: Stable Diffusion 1.x does not have it")
    sizes = values.get("block_out_channels", ())
    for key in ("down_block_types", "up_block_types"):
        if len(values.get(key, sizes)) != len(sizes):
            raise CheckpointError(f"{place}{key} has {len(values[key])} entries but block_out_channels {len(sizes)}")
    heads = "num_attention_heads" if "num_attention_heads" in values else "attention_head_dim"
    for key, width in product(("norm_num_groups", heads), (*sizes, values.get("hidden_size", 0))):
        if width % values.get(key, 1):
            raise CheckpointError(f"{place}{key} {values[key]} does not divide the width {width}")
    return values


def _fields(values: Mapping[str, Any], rules: Mapping[str, Rule]) -> dict[str, Any]:
    return {rule.field: values[key] for key, rule in rules.items() if rule.field}
