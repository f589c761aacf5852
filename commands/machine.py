"""Device, number type and memory of a run, checked before anything is loaded."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence

import torch

from imaging.errors import InputError
from kernels.onednn import has_bfloat16
from model.config import ModelConfig
from model.files import shown, shown_name
from model.vae import BAND, LARGEST_HELD
from sampler.feature_cache import CacheBudget, feature_bytes
from sampler.settings import Settings

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TORCH_NAMES = {"float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "bfloat16": "bf16"}
MOST_IMAGES = 1024
GPU_BATCH = 16
CPU_PIXELS = 8 * 128**2
"""On a CPU as many small images go through the networks at once as have about so many pixels together."""
ASSUMED_FREE = 4 * 2**30
PIXEL_BYTES = 48
"""Of an image and its label map beside the networks: labels as read and padded, RGB in float32 and in bytes."""


def choose_device(name: str) -> torch.device:
    """``auto`` takes CUDA where there is one. Raises InputError for a device that is not there."""
    available = torch.cuda.is_available()
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"--device {shown_name(name)}: give auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name}: only cpu and cuda are supported")
    if device.type == "cuda" and not available:
        raise InputError(f"--device {name}: PyTorch sees no CUDA device here; use --device cpu")
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise InputError(f"--device {name}: there are only {torch.cuda.device_count()} CUDA devices")
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """``auto`` is fp16 on CUDA, bf16 on a CPU that multiplies it natively, else fp32.

    Raises InputError for a type that the device does badly.
    """
    if name == "auto" and device.type == "cuda":
        return torch.float16
    if name == "auto":
        return torch.bfloat16 if has_bfloat16() else torch.float32
    name = TORCH_NAMES.get(name.removeprefix("torch."), name)
    if name not in DTYPES:
        raise InputError(f"--dtype {shown_name(name)}: one of auto, {', '.join(DTYPES)}")
    if name == "fp16" and device.type == "cpu":
        raise InputError("--dtype fp16: on the CPU half precision is emulated and overflows; use fp32 or bf16")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise InputError("--dtype bf16: this GPU has no bfloat16; use fp16 or fp32")
    return DTYPES[name]


def check_graphs(wanted: bool, device: torch.device) -> None:
    """Raise InputError for CUDA graphs without a CUDA device."""
    if wanted and device.type != "cuda":
        raise InputError("--graphs: CUDA graphs need --device cuda; leave it out on the CPU")


def unet_bytes(config: ModelConfig, height: int, width: int, dtype: torch.dtype) -> int:
    """Roughly the memory that the UNet takes for each image of ``height`` × ``width`` px in a batch.

    The skip connections, of two passes that part in the decoder, and at the widest moment the feed-forward of level 0:
    its projection of eight times the tokens, the gated half, and what libraries take to lay them out.
    """
    unet, positions = config.unet, height * width // config.vae.factor**2
    skips = sum(
        (unet.layers_per_block + 1) * unet_width * positions // 4**level
        for level, unet_width in enumerate(unet.block_out_channels)
    )
    return (2 * skips + 24 * unet.block_out_channels[0] * positions) * dtype.itemsize


def read_batch_size(text: str) -> int | None:
    """A number of images, or None for ``auto``. Raises InputError for other text."""
    if text == "auto":
        return None
    if re.fullmatch(r"[0-9]{1,6}", text) is None or not 1 <= int(text) <= MOST_IMAGES:
        raise InputError(f"--batch-size {shown(text)}: must be auto or a whole number from 1 to {MOST_IMAGES}")
    return int(text)


def whole_sides(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of an image of ``shape``."""
    height, width = shape
    return height, width


def pass_sides(settings: Settings, shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of what goes through the UNet at once of a target of ``shape``: itself or a window."""
    window = settings.window_for(shape)
    return whole_sides(shape if window is None else tuple(min(side, window) for side in shape))


def choose_batch(
    config: ModelConfig, shapes: Sequence[tuple[int, int]], dtype: torch.dtype, device: torch.device
) -> int:
    """How many latents go through the UNet at once: as many as half of the free memory takes, up to a limit.

    ``shapes`` are [H, W] of all images. A CPU is as quick with one large image at a time, and its memory is better used
    so; with small ones most of its time would go into reading weights.
    """
    # Beside the UNet's work each image holds its structure's features, of six steps in the method's presets.
    factor = config.vae.factor
    each = max(
        unet_bytes(config, h, w, dtype) + 6 * feature_bytes(config.unet, h * w // factor**2, (0, 1), dtype)
        for h, w in shapes
    )
    limit = GPU_BATCH if device.type == "cuda" else CPU_PIXELS // max(h * w for h, w in shapes)
    return max(1, min(limit, free_bytes(device) // 2 // each))


def choose_budget(text: str, device: torch.device, sharers: int = 1) -> CacheBudget:
    """Room for origins' features. ``auto``: a quarter of the memory free on the device and, beside a GPU, on the host.

    Of the host's memory each of ``sharers`` processes takes its part of that. Otherwise places and sizes, such as
    ``device=2GB,host=8GB,disk=20GB``, or ``0`` to keep nothing.

    Raises:
        InputError: text that is none of these.
    """
    if text == "auto":
        host = free_bytes(torch.device("cpu")) // 4 // sharers
        if device.type == "cuda":
            return CacheBudget(device=free_bytes(device) // 4, host=host)
        return CacheBudget(device=host)
    if text == "0":
        return CacheBudget()
    places: dict[str, int] = {}
    for part in text.split(","):
        found = re.fullmatch(r"(device|host|disk)=([0-9]{1,9}(?:\.[0-9]{1,9})?)(MB|GB)", part.strip())
        if found is None or found[1] in places:
            raise InputError(
                f"--cache {shown(text)}: write auto, 0, or places and sizes such as device=2GB,host=8GB,disk=20GB"
            )
        places[found[1]] = int(float(found[2]) * {"MB": 1e6, "GB": 1e9}[found[3]])
    return CacheBudget(places.get("device", 0), places.get("host", 0), places.get("disk", 0))


def wanted_bytes(config: ModelConfig, height: int, width: int, dtype: torch.dtype, window: int | None = None) -> int:
    """Roughly the memory that one image of ``height`` × ``width`` px takes besides the weights, in windows or not.

    In the autoencoder the largest moment is the decoder's last stage: its input, the normalised copy, the convolution's
    padded copy and its output, at most ``block_out_channels[1]`` channels each, at full resolution; of a field the
    largest features that are held beside a few bands, or what the attention in the middle takes. Before and after
    them stand images in float32 and what was read, and in the UNet one image or window.
    """
    block_out_channels, factor = config.vae.block_out_channels, config.vae.factor
    widest = block_out_channels[min(1, len(block_out_channels) - 1)] * height * width * dtype.itemsize
    middle = 8 * block_out_channels[-1] * height * width // factor**2 * dtype.itemsize
    in_bands = max(LARGEST_HELD + 8 * BAND * dtype.itemsize, middle)
    vae = in_bands if widest > LARGEST_HELD else max(4 * widest, middle)
    sides = (height, width) if window is None else (min(height, window), min(width, window))
    return max(vae, unet_bytes(config, *sides, dtype)) + PIXEL_BYTES * height * width


def free_bytes(device: torch.device) -> int:
    """Memory that is free on ``device`` now.

    A host that does not say (all but Linux) is taken to have half of its memory free, or `ASSUMED_FREE` where not even
    that is known.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    with contextlib.suppress(OSError, KeyError, ValueError):
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return ASSUMED_FREE


def check_memory(
    config: ModelConfig,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: torch.device,
    name: os.PathLike[str],
    sharers: int = 1,
    window: int | None = None,
) -> None:
    """Raise InputError, saying how much memory ``name`` of ``shape`` [H, W] would want, if more than is free.

    ``window`` is the side of the windows that it goes through the UNet in, if it does. On a CPU each of ``sharers``
    processes has its part of that.
    """
    height, width = shape
    wanted, free = wanted_bytes(config, height, width, dtype, window), free_bytes(device)
    free = free // sharers if device.type == "cpu" else free
    if wanted > free:
        raise InputError(
            f"{os.fspath(name)}: {width}×{height} px would want about {wanted / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free on {device}; cut it into smaller patches, for example of 512 px"
        )
