"""What safetensors files hold, and reading it without holding more than the parameters.

A tensor is copied out of a memory map into its final type and place. The map is opened anew after every 64th of
the file, so that the pages already copied do not count as memory of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.checkpoint.unsupported import refuse_other_format
from model.errors import CheckpointError
from model.files import check_regular, shown_name

FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_PAGES = 64


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


def read_index(path: Path) -> CheckpointIndex:
    """List what a safetensors file holds, reading its header alone.

    Raises:
        CheckpointError: the file is missing, unreadable, a pickle, a Git LFS pointer or damaged.
    """
    refuse_other_format(path)
    try:
        with safe_open(path, framework="pt") as file:
            entries = {}
            for key in file.keys():  # noqa: SIM118 (the file is no dictionary)
                tensor = file.get_slice(key)
                entries[key] = Entry(path, key, tuple(tensor.get_shape()), tensor.get_dtype())
            return CheckpointIndex(path, entries, dict(file.metadata() or {}))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def read_tensors(
    wanted: Iterable[tuple[str, Entry]], *, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    """Copy tensors out of their files, each in ``dtype`` on ``device``, under the names given with them.

    Raises:
        CheckpointError: a file cannot be read any more, was changed since it was listed, or holds a value that is NaN,
            infinite or too large for ``dtype``.
    """
    by_file: dict[Path, list[tuple[str, Entry]]] = {}
    for name, entry in wanted:
        by_file.setdefault(entry.path, []).append((name, entry))
    for path, items in by_file.items():
        try:
            yield from _read_file(path, items, dtype=dtype, device=device)
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from error


def _read_file(
    path: Path, items: Iterable[tuple[str, Entry]], *, dtype: torch.dtype, device: torch.device
) -> Iterator[tuple[str, Tensor]]:
    budget = check_regular(path) // _PAGES
    with ExitStack() as opened:
        file, mapped = None, 0
        for name, entry in items:
            size = math.prod(entry.shape) * FLOAT_BYTES[entry.dtype]
            if file is None or mapped + size > budget:
                opened.close()
                file, mapped = opened.enter_context(safe_open(path, framework="pt")), 0
            mapped += size
            stored = file.get_tensor(entry.key)
            if tuple(stored.shape) != entry.shape or not stored.is_floating_point():
                raise CheckpointError(f"{path}: was changed while it was read: try again")
            value = stored.to(device=device, dtype=dtype, copy=True)
            if not _is_finite(value):
                raise _not_finite(entry, stored, dtype)
            yield name, value


def _is_finite(value: Tensor) -> bool:
    """Whether no value is NaN or infinite: one pass without a copy, unlike ``isfinite().all()``."""
    return all(math.isfinite(float(end)) for end in value.aminmax())  # both ends are NaN if any value is


def _not_finite(entry: Entry, stored: Tensor, dtype: torch.dtype) -> CheckpointError:
    if not _is_finite(stored):
        fix = "the weights are damaged, download them again or take others"
        return CheckpointError(f"{entry.path}: {shown_name(entry.key)} holds NaN or infinity: {fix}")
    largest = max(abs(float(end)) for end in stored.aminmax())
    kind = str(dtype).removeprefix("torch.")
    narrow = dtype == torch.float16 and largest < torch.finfo(torch.bfloat16).max
    fix = "take `dtype` bf16 or fp32" if narrow else "no type that the networks run in can, take other weights"
    return CheckpointError(f"{entry.path}: {shown_name(entry.key)} holds {largest:.4g}, too large for {kind}: {fix}")


def _damaged(path: Path, error: Exception) -> CheckpointError:
    if isinstance(error, OSError) and error.strerror:
        return CheckpointError(f"{path}: cannot be read ({error.strerror}): check its permissions and the disk")
    detail = shown_name(" ".join(str(error).split()))
    return CheckpointError(f"{path}: damaged or cut short ({detail}): download it again")
