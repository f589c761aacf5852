"""What configurations may say, one table for each, whether read from ``config.json`` or off a single file's shapes.

The bounds are far above every published Stable Diffusion 1.x model. What is beyond them is damage, and would be built
for minutes, or not at all, before it is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from model.checkpoint.unsupported import refuse_others
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.errors import CheckpointError
from model.files import read_json, shown, shown_name
from model.tokenizer import LENGTH, VOCABULARY

LEVELS = 8
LAYERS_PER_BLOCK = 8
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


def fixed(**values: Any) -> dict[str, Rule]:
    """Keys that have one value each."""
    return {key: one_of(value) for key, value in values.items()}


def number(default: float | None, lowest: float, largest: float, field: str = "") -> Rule:
    """A number in bounds. If these are whole, so must it be, and a list may give the same one for every level."""
    whole = isinstance(largest, int)

    def read(value: Any) -> Any:
        items = value if whole and isinstance(value, list) else [value]
        if not all(_is_number(item, whole) and lowest <= item <= largest for item in items) or len(set(items)) != 1:
            return None
        return items[0] if whole else float(items[0])

    kind = ", one whole number for all levels" if whole else ""
    return Rule(default, read, f"it must be from {lowest} to {largest}{kind}", field)


def per_level(*default: Any, field: str = "") -> Rule:
    """A list with one item for each of at most `LEVELS` levels: names that ``default`` has, too, or even widths.

    The embedding of the time step wants the first width even; all published ones are.
    """
    named = isinstance(default[0], str)

    def accepts(item: Any) -> bool:
        return item in default if named else _is_number(item, whole=True) and 1 < item <= WIDTH and item % 2 == 0

    def read(value: Any) -> tuple[Any, ...] | None:
        fits = isinstance(value, list | tuple) and 1 <= len(value) <= LEVELS and all(map(accepts, value))
        return tuple(value) if fits else None

    items = f"of {' and '.join(sorted(set(default)))}" if named else f"even numbers up to {WIDTH}"
    return Rule(default, read, f"it must be from 1 to {LEVELS} {items}", field)


def _is_number(value: Any, whole: bool) -> bool:
    return isinstance(value, int if whole else int | float) and not isinstance(value, bool)


UNET: dict[str, Rule] = {
    **fixed(_class_name="UNet2DConditionModel", in_channels=4, out_channels=4),
    "block_out_channels": per_level(320, 640, 1280, 1280, field="block_out_channels"),
    "down_block_types": per_level(*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": per_level("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "layers_per_block": number(2, 1, LAYERS_PER_BLOCK, "layers_per_block"),
    "cross_attention_dim": number(1280, 1, WIDTH, "cross_attention_dim"),
    "norm_num_groups": number(32, 1, WIDTH, "groups"),
    "norm_eps": number(1e-5, 1e-12, 1.0, "resnet_eps"),
    # Diffusers calls the number of heads attention_head_dim, a slip that the published files keep.
    "attention_head_dim": number(8, 1, WIDTH),
    "num_attention_heads": number(None, 1, WIDTH),
    "act_fn": one_of("silu", "swish"),
    **fixed(center_input_sample=False, flip_sin_to_cos=True, freq_shift=0, downsample_padding=1),
    **fixed(mid_block_type="UNetMidBlock2DCrossAttn", mid_block_scale_factor=1, transformer_layers_per_block=1),
    **fixed(resnet_time_scale_shift="default", resnet_out_scale_factor=1, time_embedding_type="positional"),
    **fixed(attention_type="default", conv_in_kernel=3, conv_out_kernel=3),
}
# Only training, other hardware or keys that are themselves switched on by a key refused above.
UNET_IGNORED = (
    *("sample_size", "dropout", "upcast_attention", "addition_embed_type_num_heads", "decay", "inv_gamma"),
    *("min_decay", "optimization_step", "power", "update_after_step", "use_ema_warmup"),
)
VAE: dict[str, Rule] = {
    **fixed(_class_name="AutoencoderKL", in_channels=3, out_channels=3, latent_channels=4),
    "block_out_channels": per_level(64, field="block_out_channels"),
    "down_block_types": per_level("DownEncoderBlock2D"),
    "up_block_types": per_level("UpDecoderBlock2D"),
    "layers_per_block": number(1, 1, LAYERS_PER_BLOCK, "layers_per_block"),
    "norm_num_groups": number(32, 1, WIDTH, "groups"),
    "scaling_factor": number(0.18215, 1e-4, 1e4, "scaling"),
    "act_fn": one_of("silu", "swish"),
    **fixed(use_quant_conv=True, use_post_quant_conv=True, mid_block_add_attention=True),
}
VAE_IGNORED = ("sample_size", "force_upcast")
# All other keys are for generating text, or token ids, which are wrong in old files.
TEXT: dict[str, Rule] = {
    **fixed(model_type="clip_text_model", hidden_act="quick_gelu"),
    **fixed(vocab_size=VOCABULARY, max_position_embeddings=LENGTH),
    "hidden_size": number(512, 1, WIDTH, "width"),
    "intermediate_size": number(2048, 1, 4 * WIDTH, "mlp_width"),
    "num_hidden_layers": number(12, 1, TEXT_LAYERS, "layers"),
    "num_attention_heads": number(8, 1, WIDTH, "num_heads"),
    "layer_norm_eps": number(1e-5, 1e-12, 1.0, "eps"),
}
SCHEDULER: dict[str, Rule] = {
    **fixed(prediction_type="epsilon", num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012),
    **fixed(beta_schedule="scaled_linear", rescale_betas_zero_snr=False),
    "trained_betas": one_of(None, []),
}


def model_config(
    where: Path, unet: Mapping[str, Any], vae: Mapping[str, Any], text: Mapping[str, Any], places: Sequence[str]
) -> ModelConfig:
    """Read what the three networks' ``config.json`` say. ``places`` stand before the keys in messages about each.

    Raises:
        CheckpointError: an architecture other than that of Stable Diffusion 1.x, or networks that do not fit together.
    """
    values = _read(places[0], unet, UNET, UNET_IGNORED)
    down, up = values["down_block_types"], values["up_block_types"]
    attention = tuple(name != "DownBlock2D" for name in down)
    if tuple(name != "UpBlock2D" for name in reversed(up)) != attention:
        problem = f"up_block_types {list(up)} do not mirror down_block_types: not Stable Diffusion 1.x"
        raise CheckpointError(places[0] + problem)
    heads = values.get("num_attention_heads", values["attention_head_dim"])
    config = ModelConfig(
        unet=UNetConfig(**_fields(values, UNET), attention=attention, num_heads=heads),
        vae=VAEConfig(**_fields(_read(places[1], vae, VAE, VAE_IGNORED), VAE)),
        text=TextConfig(**_fields(_read(places[2], text, TEXT, text), TEXT)),
    )
    width, context = config.text.width, config.unet.cross_attention_dim
    if width != context:
        problem = f"the text encoder is {width} wide but the UNet's context {context}"
        raise CheckpointError(f"{where}: {problem}: the parts belong to different models")
    return config


def check_scheduler(path: Path) -> None:
    """Raise CheckpointError for another prediction or noise schedule than those of Stable Diffusion 1.x."""
    raw = read_json(path)
    refuse_others(path, prediction=raw.get("prediction_type"))
    _read(f"{path}: ", raw, SCHEDULER, raw)


def _read(place: str, raw: Mapping[str, Any], rules: Mapping[str, Rule], ignored: Collection[str]) -> dict[str, Any]:
    """The values under the keys of ``rules``, in our form; those without value or default are left out.

    Keys that are neither there nor ``ignored`` must be off, which is null or false, unless they begin with ``_``.
    Every level must have a block type, and groups and heads must divide the widths.
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
        known = key in rules or key in ignored or key.startswith("_")
        if not known and given is not None and given is not False:
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
