"""What safetensors files hold, and networks filled with it: each parameter once, or an error that names file and keys.

A tensor is copied out of a memory map into its final type and place. The map is opened anew after every 64th of
the file, so that the pages already copied do not count as memory of the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from model.checkpoint.unsupported import refuse_other_format
from model.clip import TextEncoder
from model.config import ModelConfig
from model.errors import CheckpointError
from model.files import check_regular, shown, shown_name
from model.unet import UNet
from model.vae import VAE

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PAGES = 64
_Built = TypeVar("_Built")
Change = Callable[[str, Tensor], Tensor]


@dataclass(frozen=True)
class Entry:
    """One tensor of one file: its name there, its shape and its type in safetensors' spelling."""

    path: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class CheckpointIndex:
    """The tensors of one source, by their names. ``where`` is what error messages call the source."""

    where: Path
    entries: dict[str, Entry]
    metadata: dict[str, str]


# The three networks on the meta device, and for each the tensors that fill it, by its parameters' names.
Unfilled = tuple[ModelConfig, tuple[UNet, VAE, TextEncoder], list[dict[str, Entry]]]


def read_index(path: Path) -> CheckpointIndex:
    """List what a safetensors file holds, reading its header alone.

    Raises:
        CheckpointError: the file is missing, unreadable, a pickle, a Git LFS pointer or damaged.
    """
    refuse_other_format(path)
    with _telling_damage(path), safe_open(path, framework="pt") as file:
        entries = {}
        for key in file.keys():  # noqa: SIM118 (the file is no dictionary)
            tensor = file.get_slice(key)
            entries[key] = Entry(path, key, tuple(tensor.get_shape()), tensor.get_dtype())
        return CheckpointIndex(path, entries, dict(file.metadata() or {}))


def build_empty(make: Callable[[], _Built]) -> _Built:
    """Build a network on the meta device: shapes and names without memory."""
    with torch.device("meta"):
        return make()


def build_networks(config: ModelConfig) -> tuple[UNet, VAE, TextEncoder]:
    """Build the three networks of a model on the meta device."""
    return build_empty(lambda: (UNet(config.unet), VAE(config.vae), TextEncoder(config.text)))


def find_parameters(index: CheckpointIndex, what: str, module: nn.Module, names: Mapping[str, str]) -> dict[str, Entry]:
    """Find the tensor of each parameter of ``module``, which is called ``what`` in messages.

    ``names`` gives parameters' names by each name that a tensor for it may have; other tensors are passed over.

    Raises:
        CheckpointError: a parameter has no tensor or two, or one of another shape or type.
    """
    found: dict[str, Entry] = {}
    twice = []
    for key, entry in index.entries.items():
        if key in names and found.setdefault(names[key], entry) is not entry:
            twice.append(f"{found[names[key]].key} and {key}")
    if twice:
        problem = f"{what} tensors given twice ({len(twice)}: {abridge(twice)})"
        raise CheckpointError(f"{index.where}: {problem}: give an unmodified checkpoint")
    parameters = module.state_dict()
    missing = [name for name in parameters if name not in found]
    if missing:
        sources = {names[key]: key for key in reversed(list(names))}
        listed = abridge(sources[name] for name in missing)
        count = f"{len(missing)} of {len(parameters)} {what} tensors"
        raise CheckpointError(f"{index.where}: lacks {count} ({listed}): download it again")
    for name, parameter in parameters.items():
        entry, given, wanted = found[name], list(found[name].shape), list(parameter.shape)
        # Old autoencoders store the attention's linear maps as 1×1 convolutions, and some files the biases too
        # (github.com/huggingface/diffusers/issues/6226).
        fits = given == wanted or (len(wanted) <= 2 and given == [*wanted, 1, 1])
        if entry.dtype not in FLOAT_BYTES:
            problem = f"type {entry.dtype}: give weights in 16- or 32-bit floating point"
        elif not fits:
            problem = f"shape {shown(given)} instead of {wanted}: not the {what} that its configuration describes"
        else:
            continue
        raise CheckpointError(f"{entry.path}: {shown_name(entry.key)} has {problem}")
    return found


def refuse_unknown(index: CheckpointIndex, known: Collection[str]) -> None:
    """Raise CheckpointError if ``index`` has a tensor whose name is not in ``known``."""
    unknown = [key for key in index.entries if key not in known]
    if unknown:
        problem = f"unknown tensors ({len(unknown)}: {abridge(unknown)}), not part of Stable Diffusion 1.x"
        raise CheckpointError(f"{index.where}: {problem}: give an unmodified checkpoint")


def load_state(
    module: nn.Module,
    found: Mapping[str, Entry],
    *,
    dtype: torch.dtype,
    device: torch.device,
    change: Change | None = None,
) -> None:
    """Give ``module``'s parameters the tensors of ``found`` (from `find_parameters`), ready for inference.

    ``change`` is as in `read_tensors`.
    """
    parameters = module.state_dict()
    tensors = read_tensors(found.items(), dtype=dtype, device=device, change=change)
    values = {name: tensor.reshape(parameters[name].shape) for name, tensor in tensors}
    module.load_state_dict(values, strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


def abridge(names: Iterable[str]) -> str:
    """The first three names, and an ellipsis if there are more."""
    listed = list(names)
    return ", ".join(map(shown_name, listed[:3])) + (", …" if len(listed) > 3 else "")


def read_number(entry: Entry) -> float:
    """The one number that a tensor of any numeric type holds.

    Raises:
        CheckpointError: it holds more or none, or one that is not finite, or the file cannot be read any more.
    """
    with _telling_damage(entry.path), safe_open(entry.path, framework="pt") as file:
        stored = file.get_tensor(entry.key)
    named = f"{entry.path}: {shown_name(entry.key)}"
    if stored.numel() != 1 or stored.dtype == torch.bool or stored.is_complex():
        problem = f"has shape {shown(list(stored.shape))} and type {entry.dtype}"
        raise CheckpointError(f"{named} {problem}: it must be one number; download it again")
    value = float(stored)
    if not math.isfinite(value):
        raise CheckpointError(f"{named} holds NaN or infinity: download it again")
    return value


def read_tensors(
    wanted: Iterable[tuple[str, Entry]],
    *,
    dtype: torch.dtype,
    device: torch.device,
    change: Change | None = None,
) -> Iterator[tuple[str, Tensor]]:
    """Copy tensors out of their files, each in ``dtype`` on ``device``, under the names given with them.

    ``change`` gives what to take in place of a stored tensor, by its name: a new tensor, or the stored one itself.

    Raises:
        CheckpointError: a file cannot be read any more, was changed since it was listed, or holds a value that is NaN,
            infinite or too large for ``dtype``, changed or not.
    """
    by_file: dict[Path, list[tuple[str, Entry]]] = {}
    for name, entry in wanted:
        by_file.setdefault(entry.path, []).append((name, entry))
    for path, items in by_file.items():
        budget, mapped, file = check_regular(path) // _PAGES, 0, None
        with _telling_damage(path), ExitStack() as opened:
            for name, entry in items:
                size = math.prod(entry.shape) * FLOAT_BYTES[entry.dtype]
                if file is None or mapped + size > budget:
                    opened.close()
                    file, mapped = opened.enter_context(safe_open(path, framework="pt")), 0
                mapped += size
                stored = file.get_tensor(entry.key)
                if tuple(stored.shape) != entry.shape or not stored.is_floating_point():
                    raise CheckpointError(f"{path}: was changed while it was read: try again")
                taken = stored if change is None else change(name, stored)
                value = taken.to(device=device, dtype=dtype, copy=taken is stored)
                if not _is_finite(value):
                    raise _not_finite(entry, stored, taken, dtype)
                yield name, value


def _is_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite: one pass without a copy, unlike ``isfinite().all()``."""
    return all(math.isfinite(float(end)) for end in value.aminmax())  # both ends are NaN if any value is


def _not_finite(entry: Entry, stored: Tensor, taken: Tensor, dtype: torch.dtype) -> CheckpointError:
    if not _is_finite(stored):
        fix = "the weights are damaged, download them again or take others"
        return CheckpointError(f"{entry.path}: {shown_name(entry.key)} holds NaN or infinity: {fix}")
    kind = str(dtype).removeprefix("torch.")
    if taken is not stored and _is_finite(stored.to(dtype)):
        problem = f"{shown_name(entry.key)} gets too large for {kind} with `lora`"
        return CheckpointError(f"{entry.path}: {problem}: give smaller weights with it, as in FILE:0.5")
    largest = max(abs(float(end)) for end in stored.aminmax())
    narrow = dtype == torch.float16 and largest < torch.finfo(torch.bfloat16).max
    fix = "take `dtype` bf16 or fp32" if narrow else "no type that the networks run in can, take other weights"
    return CheckpointError(f"{entry.path}: {shown_name(entry.key)} holds {largest:.4g}, too large for {kind}: {fix}")


@contextmanager
def _telling_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except CheckpointError:  # a ValueError, too
        raise
    except (SafetensorError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.strerror:
            problem = f"cannot be read ({error.strerror}): check its permissions and the disk"
        else:
            problem = f"damaged or cut short ({shown_name(' '.join(str(error).split()))}): download it again"
        raise CheckpointError(f"{path}: {problem}") from error
