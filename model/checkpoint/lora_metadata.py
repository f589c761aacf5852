"""The scales that diffusers writes into a LoRA file's metadata, in place of a tensor ``alpha`` for each layer.

``lora_adapter_metadata`` is PEFT's configuration as JSON, its keys behind ``unet.`` and ``text_encoder.``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from model.checkpoint.lora_keys import Layer
from model.checkpoint.tensors import CheckpointIndex
from model.errors import CheckpointError
from model.files import shown

KEY = "lora_adapter_metadata"
MOST_ALPHA = 1e6  # far above every rank there is; more is damage
# What is off in a plain LoRA; other values change what its tensors mean.
OFF = ("use_dora", "lora_bias", "fan_in_fan_out", "use_qalora", "alora_invocation_tokens", "layer_replication")
# Initial values that change the model's own weights, too.
CHANGING = ("pissa", "corda", "olora", "loftq")


def adapter_alphas(index: CheckpointIndex) -> Callable[[Layer, int], float]:
    """A function from a layer and its rank to its alpha: as the metadata say, else the rank, which is a scale of 1.

    Raises:
        CheckpointError: the metadata are damaged, or say that this is no plain LoRA. The function raises it, too.
    """
    if KEY not in index.metadata:
        return lambda layer, rank: float(rank)
    try:
        raw = json.loads(index.metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise _damaged(index, "no JSON") from error
    if not isinstance(raw, dict):
        raise _damaged(index, "no JSON object")
    parts = {
        part: {key.removeprefix(f"{part}."): value for key, value in raw.items() if key.startswith(f"{part}.")}
        for part in ("unet", "text_encoder")
    }
    for part, config in parts.items():
        _check(index, part, config)

    def alpha(layer: Layer, rank: int) -> float:
        config = parts[layer.part]
        if not config:
            return float(rank)
        patterns = config.get("alpha_pattern") or {}
        key = next((each for each in patterns if _matches(each, layer)), None)
        value = _number(index, layer.part, config["lora_alpha"] if key is None else patterns[key])
        return value * math.sqrt(rank) if config.get("use_rslora") else value

    return alpha


def _check(index: CheckpointIndex, part: str, config: Mapping[str, Any]) -> None:
    if not config:
        return
    changing = str(config.get("init_lora_weights")).lower().startswith(CHANGING)
    on = [key for key in OFF if config.get(key)] + ["init_lora_weights"] * changing
    if on:
        said = ", ".join(f"{key} {shown(config[key])}" for key in on)
        raise CheckpointError(f"{index.where}: the {part}'s {said} is not supported: only plain LoRA can be merged")
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or not all(re.fullmatch(r"\^?[\w.]+", key) for key in patterns):
        raise _damaged(index, f"the {part}'s alpha_pattern {shown(patterns)} is no table of layers")
    for value in (config.get("lora_alpha"), *patterns.values()):
        _number(index, part, value)


def _number(index: CheckpointIndex, part: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MOST_ALPHA:
        raise _damaged(index, f"the {part}'s alpha is {shown(value)}")
    return float(value)


def _matches(pattern: str, layer: Layer) -> bool:
    """Whether PEFT's ``pattern``, here a name or its end, means ``layer``."""
    names = (layer.module, f"text_model.{layer.module}")
    whole = pattern.removeprefix("^")
    return whole in names or (whole == pattern and layer.module.endswith(f".{pattern}"))


def _damaged(index: CheckpointIndex, problem: str) -> CheckpointError:
    return CheckpointError(f"{index.where}: its {KEY} cannot be used ({problem}): save the LoRA again")
