"""Vision transformers as transformers saves them (ViT, DINOv2 without and with registers), built as timm's.

The numbers are the last layer's first token after the final norm, as ``last_hidden_state[:, 0]`` is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from evaluation.embedding.vision_folder import PREPROCESSING, VisionFolder
from imaging.errors import InputError, brief
from imaging.rawfile import shown

MODEL_TYPES = ("vit", "dinov2", "dinov2_with_registers")
MOST = {"hidden_size": 8192, "num_hidden_layers": 128, "num_attention_heads": 128, "intermediate_size": 65536}
MOST_SIDE = 4096
_RESAMPLING = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}

# Within a layer: transformers' name -> timm's. Queries, keys and values become one.
_VIT = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
_DINOV2 = {
    "norm1": "norm1",
    "attention.output.dense": "attn.proj",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}
_LAYER_SCALES = {"layer_scale1.lambda1": "ls1.gamma", "layer_scale2.lambda1": "ls2.gamma"}
_UNUSED = ("pooler.", "classifier.", "embeddings.mask_token", "decoder.")


def build_vit(folder: VisionFolder) -> tuple[nn.Module, dict[str, Any]]:
    """The model, and the arguments of timm's ``create_transform`` that its own preprocessing comes to.

    Raises:
        InputError: a number is missing or absurd, weights are missing or too many, or there is no preprocessing.
    """
    data = preprocessing(folder)
    state = {_short(key): value.float() for key, value in load_file(folder.weights).items()}
    state = {key: value for key, value in state.items() if not key.startswith(_UNUSED)}
    config = folder.config
    kind = config["model_type"]
    patch, trained = _whole(folder, "patch_size", MOST_SIDE), _whole(folder, "image_size", MOST_SIDE)
    side = data["input_size"][-1]
    if side % patch:
        raise InputError(f"{shown(folder.name)}: images of {side} px are no multiple of its patches of {patch} px")
    sizes = {name: _whole(folder, name, most) for name, most in MOST.items() if name in config}
    width, layers, heads = (sizes[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
    if config.get("hidden_act", "gelu") != "gelu":
        raise InputError(f"{shown(folder.name)}: its activation {brief(str(config['hidden_act']))} is not built here")
    registers = _whole(folder, "num_register_tokens", 64) if kind == "dinov2_with_registers" else 0
    gated = kind != "vit" and bool(config.get("use_swiglu_ffn", False))
    table, first = (
        (_VIT, "intermediate.dense") if kind == "vit" else (_DINOV2, "mlp.weights_in" if gated else "mlp.fc1")
    )
    hidden = _taken(folder, state, f"encoder.layer.0.{first}.weight").shape[0]
    model = _timm_model(
        img_size=side,
        patch_size=patch,
        embed_dim=width,
        depth=layers,
        num_heads=heads,
        mlp_ratio=hidden / width,
        gated=gated,
        qkv_bias=bool(config.get("qkv_bias", True)),
        init_values=None if kind == "vit" else 1.0,
        eps=float(config.get("layer_norm_eps", 1e-6)),
        registers=registers,
    )
    renamed = _renamed(folder, state, layers, table, scales=kind != "vit")
    renamed["pos_embed"] = resized_positions(renamed["pos_embed"], trained // patch, side // patch, registers > 0)
    if registers:  # there the first token's position is added to it, and registers have none
        renamed["reg_token"] = _taken(folder, state, "embeddings.register_tokens")
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    unused = set(state) - _names_used(state, layers, table)
    left = sorted((model.state_dict().keys() ^ renamed.keys()) | unused)
    if left:
        raise InputError(f"{shown(folder.name)}: its weights do not fit its configuration ({brief(left[0])}); mend it")
    model.load_state_dict(renamed)
    return model, data


def preprocessing(folder: VisionFolder) -> dict[str, Any]:
    """Size, crop and normalisation, as timm's ``create_transform`` takes them. Raises InputError."""
    given = folder.preprocessing
    if not given:
        raise InputError(f"{shown(folder.name)}: has no {PREPROCESSING}, so its normalisation is unknown; add it")
    size = given.get("size", given.get("crop_size"))
    sides: Mapping[str, Any] = size if isinstance(size, dict) else {"height": size, "width": size}
    crop = given.get("crop_size") if given.get("do_center_crop", False) else None
    crop = crop.get("height") if isinstance(crop, dict) else crop
    shortest = sides.get("shortest_edge", sides.get("height"))
    final = shortest if crop is None else crop
    mean, std = given.get("image_mean"), given.get("image_std")
    if given.get("do_normalize", True) is False:
        mean, std = [0.0] * 3, [1.0] * 3
    numbers = [*mean, *std] if isinstance(mean, list) and isinstance(std, list) and len(mean) == len(std) == 3 else []
    fine = all(isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e4 for each in numbers)
    whole = all(isinstance(each, int) and 1 <= each <= MOST_SIDE for each in (shortest, final))
    whole = whole and sides.get("width", shortest) == shortest
    resampling = given.get("resample", 2)
    rescale = given.get("rescale_factor", 1 / 255)
    if not (numbers and fine and whole and resampling in _RESAMPLING and all(each != 0 for each in numbers[3:])):
        raise InputError(f"{shown(folder.name)}: its {PREPROCESSING} has no usable size, mean and deviation; mend it")
    if not isinstance(rescale, int | float) or abs(rescale * 255 - 1) > 1e-6 or given.get("do_rescale", True) is False:
        raise InputError(f"{shown(folder.name)}: its {PREPROCESSING} does not bring pixels to 0..1; that is not built")
    return {
        "input_size": (3, final, final),
        "interpolation": _RESAMPLING[resampling],
        "mean": tuple(float(each) for each in numbers[:3]),
        "std": tuple(float(each) for each in numbers[3:]),
        "crop_pct": final / shortest,
        "crop_mode": "center" if "shortest_edge" in sides or crop is not None else "squash",
    }


def resized_positions(positions: Tensor, trained: int, wanted: int, antialias: bool) -> Tensor:
    """Position embeddings [1, 1 + trained², D] -> [1, 1 + wanted², D].

    As transformers does it, with ``antialias`` for DINOv2 with registers alone.
    """
    if trained == wanted:
        return positions
    first, grid = positions[:, :1], positions[:, 1:]
    square = grid.reshape(1, trained, trained, -1).permute(0, 3, 1, 2)
    square = F.interpolate(square, size=(wanted, wanted), mode="bicubic", align_corners=False, antialias=antialias)
    return torch.cat([first, square.permute(0, 2, 3, 1).reshape(1, wanted * wanted, -1)], dim=1)


def _timm_model(*, gated: bool, eps: float, registers: int, **arguments: Any) -> nn.Module:
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        **arguments,
        num_classes=0,
        global_pool="token",
        reg_tokens=registers,
        no_embed_class=registers > 0,
        norm_layer=partial(nn.LayerNorm, eps=eps),
        mlp_layer=SwiGLUPacked if gated else Mlp,
        act_layer=nn.SiLU if gated else nn.GELU,
    )


def _short(key: str) -> str:
    """Without the prefix that a model with a head has."""
    for prefix in ("vit.", "dinov2.", "dinov2_with_registers."):
        key = key.removeprefix(prefix)
    return key


def _renamed(
    folder: VisionFolder, state: Mapping[str, Tensor], layers: int, table: Mapping[str, str], *, scales: bool
) -> dict[str, Tensor]:
    result = {
        "cls_token": _taken(folder, state, "embeddings.cls_token"),
        "pos_embed": _taken(folder, state, "embeddings.position_embeddings"),
    }
    for part in ("weight", "bias"):
        result[f"patch_embed.proj.{part}"] = _taken(folder, state, f"embeddings.patch_embeddings.projection.{part}")
        result[f"norm.{part}"] = _taken(folder, state, f"layernorm.{part}")
    for number in range(layers):
        theirs, ours = f"encoder.layer.{number}.", f"blocks.{number}."
        for part in ("weight", "bias"):
            names = [f"{theirs}attention.attention.{each}.{part}" for each in ("query", "key", "value")]
            if part == "weight" or names[0] in state:
                result[f"{ours}attn.qkv.{part}"] = torch.cat([_taken(folder, state, name) for name in names])
            for name, other in table.items():
                if f"{theirs}{name}.{part}" in state:
                    result[f"{ours}{other}.{part}"] = state[f"{theirs}{name}.{part}"]
        if scales:
            for name, other in _LAYER_SCALES.items():
                result[ours + other] = _taken(folder, state, theirs + name)
    return result


def _names_used(state: Mapping[str, Tensor], layers: int, table: Mapping[str, str]) -> set[str]:
    used = {key for key in state if not key.startswith("encoder.layer.")}
    for number in range(layers):
        start = f"encoder.layer.{number}."
        names = [*table, *(f"attention.attention.{each}" for each in ("query", "key", "value"))]
        used |= {f"{start}{name}.{part}" for name in names for part in ("weight", "bias")}
        used |= {start + name for name in _LAYER_SCALES}
    return used


def _taken(folder: VisionFolder, state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise InputError(f"{shown(folder.name)}: its weights lack {brief(name)}; download the model again")
    return state[name]


def _whole(folder: VisionFolder, name: str, most: int) -> int:
    value = folder.config.get(name)
    value = value[0] if isinstance(value, list) and value and value == value[:1] * len(value) else value
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"{shown(folder.name)}: its {name} is {brief(repr(value))}; a whole number up to {most} is")
    return value
