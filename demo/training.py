"""What both trainings share: workers that average their gradients, a clock that sets the learning rate, the log."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Worker:
    """One of ``count`` processes that train together; each sees its own batches."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this worker writes the log, the pictures and the checkpoints."""
        return self.rank == 0


def start_worker(rank: int, count: int, meeting_point: Path, threads: int) -> Worker:
    """Join the other workers (gloo; one process per CPU core is faster than many threads in one process)."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if count > 1:
        # Left alone, workers that wait for each other end up sharing one core.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]} if threads == 1 else set(cores))
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{meeting_point.resolve()}", rank=rank, world_size=count
        )
    return Worker(rank, count, device)


def average_gradients(parameters: Iterable[Tensor], worker: Worker) -> None:
    """Replace every gradient by its mean over the workers; a missing one counts as zero."""
    if worker.count == 1:
        return
    owners = list(parameters)
    flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in owners])
    torch.distributed.all_reduce(flat)
    flat /= worker.count
    start = 0
    for parameter in owners:
        piece = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
        if parameter.grad is None:
            parameter.grad = piece.clone()
        else:
            parameter.grad.copy_(piece)


@dataclass
class Clock:
    """Share of the time budget that is used up, agreed between the workers; survives a restart by ``spent``."""

    budget: float  # seconds
    spent: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        """Seconds of training so far, earlier runs included."""
        return self.spent + time.monotonic() - self.started

    def fraction(self, worker: Worker) -> float:
        """Share of the budget in [0, 1], the first worker's on all."""
        share = torch.tensor(min(self.seconds() / self.budget, 1.0), dtype=torch.float64)
        if worker.count > 1:
            torch.distributed.broadcast(share, src=0)
        return float(share)


def learning_rate(peak: float, fraction: float, step: int, warmup: int) -> float:
    """Linear warm-up over ``warmup`` steps, cosine to a hundredth of ``peak`` at fraction 1.

    ``step`` counts from the start of this run, since the optimiser starts afresh in each.
    """
    cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
    return peak * min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def cpu_state(module: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """A contiguous float32 copy of the state dict on the CPU."""
    state = module.state_dict().items()
    return {prefix + name: value.detach().float().cpu().contiguous().clone() for name, value in state}


def save_checkpoint(path: Path, tensors: Mapping[str, Tensor], clock: Clock, step: int) -> None:
    """Write tensors, elapsed seconds and step count; the file appears only when complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(dict(tensors), partial, metadata={"seconds": repr(clock.seconds()), "step": str(step)})
    partial.replace(path)


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], float, int]:
    """Tensors, seconds and steps of `save_checkpoint`."""
    with safe_open(path, framework="pt") as opened:
        metadata = opened.metadata()
    return load_file(path), float(metadata["seconds"]), int(metadata["step"])


def with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``prefix``, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def log(folder: Path, name: str, line: str) -> None:
    """Append a line to ``folder/name.log`` and print it."""
    folder.mkdir(parents=True, exist_ok=True)
    stamped = f"{time.strftime('%H:%M:%S')} {line}"
    with (folder / f"{name}.log").open("a", encoding="utf-8") as file:
        file.write(stamped + "\n")
    print(stamped, flush=True)


def to_tensor(images: npt.NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 [B, H, W, 3] -> float32 [B, 3, H, W] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(images)).to(device)
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def contact_sheet(path: Path, images: Tensor, columns: int) -> None:
    """Write images [B, 3, H, W] in [-1, 1] as one PNG, ``columns`` to a row."""
    pixels = ((images.detach().float().cpu().clamp(-1, 1) + 1.0) * 127.5).round().to(torch.uint8)
    array = pixels.permute(0, 2, 3, 1).numpy()
    rows = [np.concatenate(list(array[i : i + columns]), axis=1) for i in range(0, len(array), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).save(path)
