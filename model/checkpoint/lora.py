"""LoRA: small files that change another model's weights, W + weight · alpha / rank · up·down, merged while loading.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, arXiv 2106.09685. Of a convolution (LoCon) ``down`` has
its kernel and ``up`` is 1×1. Sums are in float64 and rounded once, to the type that the networks run in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from model.checkpoint import tensors
from model.checkpoint.lora_keys import ENDINGS, Layer, Part, Role, layers_by_name, refuse_other_kinds
from model.checkpoint.lora_metadata import MOST_ALPHA, adapter_alphas
from model.clip import TextEncoder
from model.errors import CheckpointError
from model.files import check_regular, exists, is_file, is_folder, names_in, shown, shown_name
from model.unet import UNet

IN_FOLDER = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class Lora:
    """A LoRA file, or a folder that holds one under diffusers' name, and how much of it is added."""

    path: Path
    weight: float = 1.0

    @property
    def file(self) -> Path:
        """The file itself. Raises CheckpointError if there is no regular one."""
        if not exists(self.path):
            raise CheckpointError(f"{shown_name(str(self.path))}: no such LoRA: give a .safetensors file")
        if not is_folder(self.path):
            check_regular(self.path)
            return self.path
        if is_file(self.path / IN_FOLDER):
            return self.path / IN_FOLDER
        others = [name for name in names_in(self.path) if name.endswith(".safetensors")]
        beside = f", but {tensors.abridge(others)}" if others else ""
        raise CheckpointError(f"{self.path}: a folder without {IN_FOLDER}{beside}: give the LoRA's file itself")


@dataclass(frozen=True)
class Update:
    """What one LoRA adds to one parameter: ``scale`` · up·down."""

    down: tensors.Entry
    up: tensors.Entry
    scale: float


Updates = dict[str, list[Update]]
"""By the parameter's name, in the order in which LoRAs were given."""


def find_updates(loras: Sequence[Lora], unet: UNet, text_encoder: TextEncoder) -> dict[Part, Updates]:
    """Find what ``loras`` change, and check that all of it fits, without reading more than single numbers.

    Raises:
        CheckpointError: a file is missing, damaged, a pickle or another kind of LoRA, or holds a tensor that belongs to
            no layer, has no other half or does not fit; each that is left over is one of the error's ``problems``.
        ValueError: a weight is not finite.
    """
    found: dict[Part, Updates] = {"unet": {}, "text_encoder": {}}
    names = layers_by_name(unet, text_encoder) if loras else {}
    networks: Mapping[Part, nn.Module] = {"unet": unet, "text_encoder": text_encoder}
    for lora in loras:
        if not math.isfinite(lora.weight):
            raise ValueError(f"{lora.path}: the weight must be a finite number, not {lora.weight}")
        index = tensors.read_index(lora.file)
        refuse_other_kinds(index)
        layers = _by_layer(index, names)
        alphas = adapter_alphas(index)
        for layer, tensor in layers.items():
            rank = _check_shapes(index, tensor, networks[layer.part].get_submodule(layer.module))
            alpha = alphas(layer, rank) if "alpha" not in tensor else _read_alpha(tensor["alpha"])
            update = Update(tensor["down"], tensor["up"], lora.weight * alpha / rank)
            found[layer.part].setdefault(f"{layer.module}.weight", []).append(update)
    return found


def merging(updates: Updates) -> Callable[[str, Tensor], Tensor]:
    """A function from a parameter's name and stored value to its value with ``updates`` added.

    That is float64, or the stored tensor itself if nothing is added, as with a weight of 0. The function raises
    CheckpointError for values in a LoRA that are NaN or infinite.
    """

    def merge(name: str, stored: Tensor) -> Tensor:
        merged = stored
        for update in updates.get(name, ()):
            pair = [("down", update.down), ("up", update.up)]
            read = dict(tensors.read_tensors(pair, dtype=torch.float64, device=torch.device("cpu")))
            if update.scale == 0.0:
                continue
            if merged is stored:
                merged = stored.to(torch.float64, copy=True)
            up, down = read["up"].flatten(1), read["down"].flatten(1)  # [out, rank], [rank, in · kernel]
            merged.view(len(merged), -1).addmm_(up, down, alpha=update.scale)
        return merged

    return merge


def _by_layer(index: tensors.CheckpointIndex, names: Mapping[str, Layer]) -> dict[Layer, dict[Role, tensors.Entry]]:
    """The tensors of each layer that the file changes. Raises CheckpointError for what is left over, double or half."""
    found: dict[Layer, dict[Role, tensors.Entry]] = {}
    left, twice = [], []
    for key, entry in index.entries.items():
        ending = next((each for each in ENDINGS if key.endswith(each)), None)
        layer = None if ending is None else names.get(key.removesuffix(ending))
        if ending is None or layer is None:
            left.append(key)
        elif (other := found.setdefault(layer, {}).setdefault(ENDINGS[ending], entry)) is not entry:
            twice.append(f"{other.key} and {key}")
    if left:
        what = f"{len(left)} of {len(index.entries)} tensors are for no layer of this model"
        raise CheckpointError(
            f"{index.where}: {what} ({tensors.abridge(left)}): give a LoRA made for Stable Diffusion 1.x",
            [f"{index.where}: left over: {shown_name(key)}" for key in left],
        )
    if twice:
        problem = f"tensors given twice ({len(twice)}: {tensors.abridge(twice)})"
        raise CheckpointError(f"{index.where}: {problem}: give an unmodified LoRA")
    halves = [next(iter(each.values())).key for each in found.values() if not {"down", "up"} <= each.keys()]
    if halves:
        problem = f"lacks the other half of {len(halves)} tensors ({tensors.abridge(halves)})"
        raise CheckpointError(f"{index.where}: {problem}: download it again")
    if not found:
        raise CheckpointError(f"{index.where}: holds no tensors: give a LoRA")
    return found


def _check_shapes(index: tensors.CheckpointIndex, tensor: Mapping[Role, tensors.Entry], module: nn.Module) -> int:
    """The rank of a pair. Raises CheckpointError if one of the two is not of its layer's shape or the other's rank."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    rank = (*tensor["down"].shape, 0)[0]
    if rank == 0:
        raise _misfit(index, tensor["down"], "it must have a rank of 1 or more")
    for role, wanted in (("down", (rank, *weight.shape[1:])), ("up", (weight.shape[0], rank))):
        entry = tensor["down"] if role == "down" else tensor["up"]
        # Of linear maps and 1×1 convolutions each may be stored as the other.
        shape, plain = _without_ones(entry.shape), _without_ones(wanted)
        if shape != plain:
            whole = f"{list(wanted)}, as the layer and the rank {rank} of its other half have it"
            raise _misfit(index, entry, f"it must be {whole}")
        if entry.dtype not in tensors.FLOAT_BYTES:
            problem = f"type {entry.dtype}: give a LoRA in 16- or 32-bit floating point"
            raise CheckpointError(f"{index.where}: {shown_name(entry.key)} has {problem}")
    return rank


def _without_ones(shape: Sequence[int]) -> tuple[int, ...]:
    """``shape`` [a, b, 1, 1] as [a, b], and any other as it is."""
    return tuple(shape[:2]) if len(shape) == 4 and tuple(shape[2:]) == (1, 1) else tuple(shape)


def _misfit(index: tensors.CheckpointIndex, entry: tensors.Entry, wanted: str) -> CheckpointError:
    named = f"{shown_name(entry.key)} has shape {shown(list(entry.shape))}"
    return CheckpointError(f"{index.where}: {named}: {wanted}; give a LoRA made for these weights' architecture")


def _read_alpha(entry: tensors.Entry) -> float:
    value = tensors.read_number(entry)
    if not abs(value) <= MOST_ALPHA:
        problem = f"{shown_name(entry.key)} is {value:g}, and no LoRA has an alpha beyond {MOST_ALPHA:g}"
        raise CheckpointError(f"{entry.path}: {problem}: download it again")
    return value
