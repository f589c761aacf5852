"""Device, number type and memory of a run, checked before anything is loaded."""

from __future__ import annotations

import os

import torch

from kernels import Implementation
from model.config import ModelConfig
from model.errors import InputError

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
IMPLS: dict[str, Implementation] = {"auto": "torch", "reference": "reference", "torch": "torch", "triton": "triton"}


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one. Raises InputError for a device that is not there."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"--device {name}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and not available:
        raise InputError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is fp16 on CUDA and fp32 on the CPU. Raises InputError for a type that the device does badly."""
    if name == "auto":
        return torch.float16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise InputError(f"--dtype {name}: one of auto, {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise InputError("--dtype fp16: on the CPU half precision is emulated and overflows; use fp32 or bf16")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("--dtype bf16: this GPU has no bfloat16; use fp16 or fp32")
    return DTYPES[name]


def choose_impl(name: str, device: torch.device) -> Implementation:
    """``auto`` is the blockwise PyTorch implementation. Raises InputError for Triton without a GPU."""
    if name not in IMPLS:
        raise InputError(f"--impl {name}: one of {', '.join(IMPLS)}")
    if name == "triton" and device.type != "cuda":
        raise InputError("--impl triton: the Triton kernels need --device cuda; use --impl torch on the CPU")
    return IMPLS[name]


def wanted_bytes(config: ModelConfig, height: int, width: int, dtype: torch.dtype) -> int:
    """Roughly the memory that one image of ``height`` × ``width`` px takes besides the weights.

    The largest moment is the decoder's last stage: its input, the normalised copy, the convolution's padded copy
    and its output, at most ``widths[1]`` channels each, at full resolution.
    """
    widths = config.vae.widths
    return 4 * widths[min(1, len(widths) - 1)] * height * width * dtype.itemsize


def free_bytes(device: torch.device) -> int:
    """Memory that is free on ``device`` now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with open("/proc/meminfo", encoding="ascii") as lines:
        fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def check_memory(
    config: ModelConfig, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, name: os.PathLike[str]
) -> None:
    """Raise InputError, saying how much memory ``name`` of ``shape`` [H, W] would want, if more than is free."""
    height, width = shape
    wanted, free = wanted_bytes(config, height, width, dtype), free_bytes(device)
    if wanted > free:
        raise InputError(
            f"{os.fspath(name)}: {width}×{height} px would want about {wanted / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free on {device}; cut it into smaller patches, for example of 512 px"
        )
