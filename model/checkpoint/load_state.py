"""From an index of tensors to filled networks: each parameter exactly once, or an error that names file and keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from model.checkpoint.safetensors import FLOAT_BYTES, CheckpointIndex, Entry, read_tensors
from model.clip import TextEncoder
from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import shown, shown_name
from model.unet import UNet
from model.vae import VAE

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Unfilled:
    """The three networks on the meta device, and for each the tensors that fill it, by its parameters' names."""

    config: ModelConfig
    networks: tuple[UNet, VAE, TextEncoder]
    entries: list[dict[str, Entry]]


def build_empty(make: Callable[[], _Module]) -> _Module:
    """Build a network on the meta device: shapes and names without memory."""
    with torch.device("meta"):
        return make()


def build_networks(config: ModelConfig) -> tuple[UNet, VAE, TextEncoder]:
    """Build the three networks of a model on the meta device."""
    with torch.device("meta"):
        return UNet(config.unet), VAE(config.vae), TextEncoder(config.text)


def find_parameters(index: CheckpointIndex, what: str, module: nn.Module, names: Mapping[str, str]) -> dict[str, Entry]:
    """Find the tensor of each of ``module``'s parameters.

    Args:
        index: the tensors at hand; names that ``names`` lacks are passed over.
        what: the network's name in error messages.
        module: the network, on any device.
        names: parameter names, by each name that a tensor for it may have.

    Raises:
        CheckpointError: a parameter has no tensor or two, or one of another shape or type.
    """
    found: dict[str, Entry] = {}
    twice = []
    for key, entry in index.entries.items():
        if key in names and found.setdefault(names[key], entry) is not entry:
            twice.append(f"{found[names[key]].key} and {key}")
    if twice:
        raise CheckpointError(
            f"{index.where}: {what} tensors given twice ({len(twice)}: {abridge(twice)}): give an unmodified checkpoint"
        )
    parameters = module.state_dict()
    missing = [name for name in parameters if name not in found]
    if missing:
        sources = {names[key]: key for key in reversed(list(names))}
        count = f"{len(missing)} of {len(parameters)} {what} tensors"
        listed = abridge(sources[name] for name in missing)
        raise CheckpointError(f"{index.where}: lacks {count} ({listed}): download it again")
    for name, parameter in parameters.items():
        entry, shape = found[name], list(parameter.shape)
        if entry.dtype not in FLOAT_BYTES:
            problem = f"type {entry.dtype}: give weights in 16- or 32-bit floating point"
        elif not _fits(list(entry.shape), shape):
            given = shown(list(entry.shape))
            problem = f"shape {given} instead of {shape}: not the {what} that its configuration describes"
        else:
            continue
        raise CheckpointError(f"{entry.path}: {shown_name(entry.key)} has {problem}")
    return found


def refuse_unknown(index: CheckpointIndex, known: Collection[str]) -> None:
    """Raise CheckpointError if ``index`` has a tensor whose name is not in ``known``."""
    unknown = [key for key in index.entries if key not in known]
    if unknown:
        raise CheckpointError(
            f"{index.where}: unknown tensors ({len(unknown)}: {abridge(unknown)}), not part of Stable Diffusion 1.x: "
            "give an unmodified checkpoint"
        )


def load_state(module: nn.Module, found: Mapping[str, Entry], *, dtype: torch.dtype, device: torch.device) -> None:
    """Give ``module``'s parameters the tensors of ``found`` (from `find_parameters`), ready for inference."""
    parameters = module.state_dict()
    values = {
        name: tensor.reshape(parameters[name].shape)
        for name, tensor in read_tensors(found.items(), dtype=dtype, device=device)
    }
    module.load_state_dict(values, strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


def abridge(names: Iterable[str]) -> str:
    """The first three names, and an ellipsis if there are more."""
    listed = list(names)
    return ", ".join(map(shown_name, listed[:3])) + (", …" if len(listed) > 3 else "")


def _fits(given: list[int], wanted: list[int]) -> bool:
    # Old autoencoders store the attention's linear maps as 1×1 convolutions; files that diffusers' conversion script
    # of December 2023 made have their biases in that shape too (github.com/huggingface/diffusers/issues/6226).
    return given == wanted or (len(wanted) in (1, 2) and given == [*wanted, 1, 1])
