"""What every implementation asks of its input; all reasons against a call are raised together."""

from __future__ import annotations

import numbers
import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, get_args

import torch
from torch import Tensor

from kernels.head_widths import NARROWEST, WIDEST
from kernels.results import Implementation

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Contrasts that every implementation holds in float32, with room for the products they are part of.
CONTRAST_RANGE: tuple[float, float] = (1e-6, 1e6)
# Implementations go through the classes one by one, and hold a row of statistics for each.
MOST_CLASSES = 2**16
# What is added to variances: 0, or what float32 holds with all its digits.
EPS_RANGE = (torch.finfo(torch.float32).tiny, torch.finfo(torch.float32).max)
# Of Triton's offsets within an image, and of a grid's second dimension.
MOST_ELEMENTS, MOST_PROGRAMS = 2**31, 2**16 - 1
LEAST_CAPABILITY = (8, 0)  # of GPUs that the Triton kernels run on
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class Reasons:
    """Reasons why a call of ``operation`` cannot be carried out."""

    def __init__(self, operation: str) -> None:
        self._operation = operation
        self._reasons: list[str] = []

    def __bool__(self) -> bool:
        return bool(self._reasons)

    def unless(self, holds: bool, reason: str) -> bool:
        """Note ``reason`` where ``holds`` is false; gives ``holds`` back."""
        if not holds:
            self._reasons.append(reason)
        return holds

    def throw(self) -> None:
        """Raise ValueError with every reason noted, if there is one."""
        if self._reasons:
            raise ValueError(f"{self._operation}: {'; '.join(self._reasons)}")


def shape(tensor: Tensor) -> str:
    """The shape as messages show it."""
    return str(list(tensor.shape))


def shown(value: object) -> str:
    """Any value in one short line."""
    if isinstance(value, Tensor):
        return "a tensor"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # an integer of thousands of digits, or an object that cannot be written
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_integer(value: object) -> bool:
    """Whether it is an integer, NumPy's among them; True and False are not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_impl(reasons: Reasons, impl: object) -> bool:
    """``impl`` is one of the three names; gives whether it can be compared with them."""
    names = get_args(Implementation)
    is_name = isinstance(impl, str)
    reasons.unless(is_name and impl in names, f"impl must be one of {', '.join(names)}, not {shown(impl)}")
    return is_name


def check_tensors(reasons: Reasons, values: Mapping[str, object]) -> bool:
    """Each value is a tensor with strides, what every other check of tensors asks first."""
    fine = True
    for name, value in values.items():
        if not isinstance(value, Tensor):
            fine = reasons.unless(False, f"{name} must be a tensor, is {shown(value)}")
        elif value.is_nested or value.layout != torch.strided or value.is_quantized:
            fine = reasons.unless(False, f"{name} must be a dense tensor, neither sparse, nested nor quantised")
    return fine


def check_flag(reasons: Reasons, name: str, value: object) -> None:
    """True or False and nothing else."""
    reasons.unless(isinstance(value, bool), f"{name} must be True or False, is {shown(value)}")


def _within(value: Any, low: float, high: float) -> bool:
    # Compared, not converted: an integer may be larger than any float.
    is_real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_real and bool(low <= value <= high)


def check_eps(reasons: Reasons, eps: object) -> None:
    """0, or a number within ``EPS_RANGE``."""
    low, high = EPS_RANGE
    fits = _within(eps, 0, 0) or _within(eps, low, high)
    reasons.unless(fits, f"eps must be 0 or a number from {low:.3g} to {high:.3g}, is {shown(eps)}")


def check_heads(reasons: Reasons, q: Tensor, k: Tensor, v: Tensor) -> None:
    """q [B, H, Nq, D] against k and v [B, H, Nk, D]: shapes, dtypes, devices."""
    for name, t in (("q", q), ("k", k), ("v", v)):
        reasons.unless(t.ndim == 4, f"{name} must be [B, H, N, D], is {shape(t)}")
    if q.ndim == k.ndim == v.ndim == 4:
        reasons.unless(k.shape == v.shape, f"k {shape(k)} and v {shape(v)} differ in shape")
        alike = q.shape[:2] == k.shape[:2] and q.shape[3] == k.shape[3]
        reasons.unless(alike, f"q {shape(q)} and k {shape(k)} differ in batch, heads or width")
        reasons.unless(min(*q.shape, *k.shape, *v.shape) > 0, "every side of q, k and v must be at least 1")
    check_alike(reasons, {"q": q, "k": k, "v": v})


def check_alike(reasons: Reasons, tensors: dict[str, Tensor]) -> None:
    """One floating dtype and one device for all."""
    dtypes = {t.dtype for t in tensors.values()}
    devices = {t.device for t in tensors.values()}
    names = " and ".join(tensors)
    reasons.unless(len(dtypes) == 1, f"{names} differ in dtype: {', '.join(sorted(map(str, dtypes)))}")
    reasons.unless(dtypes <= set(FLOATS), f"{names} must be float16, bfloat16, float32 or float64")
    reasons.unless(len(devices) == 1, f"{names} are on several devices: {', '.join(sorted(map(str, devices)))}")


def check_contrast(reasons: Reasons, contrast: object) -> bool:
    """The contrast is a number in ``CONTRAST_RANGE``."""
    low, high = CONTRAST_RANGE
    return reasons.unless(
        _within(contrast, low, high), f"contrast must be a number from {low:g} to {high:g}, is {shown(contrast)}"
    )


def check_labels(
    reasons: Reasons,
    name: str,
    labels: Tensor,
    shapes: tuple[tuple[int, ...], ...],
    num_classes: int | None,
    device: torch.device,
) -> None:
    """Integer labels of one of ``shapes``; on the CPU also their values.

    Reading values back from a GPU would stall it, so there a label outside 0..C-1 is not refused: such a
    position belongs to no class.
    """
    allowed = " or ".join(str(list(s)) for s in dict.fromkeys(shapes))
    reasons.unless(tuple(labels.shape) in shapes, f"{name} must be {allowed}, is {shape(labels)}")
    integral = reasons.unless(labels.dtype in INTEGERS, f"{name} must be integers, is {labels.dtype}")
    reasons.unless(labels.device == device, f"{name} is on {labels.device}, the data on {device}")
    if integral and labels.device.type == "cpu" and labels.numel() > 0:
        low, high = int(labels.min()), int(labels.max())
        most = MOST_CLASSES if num_classes is None else num_classes
        reasons.unless(low >= 0 and high < most, f"{name} has labels {low}..{high}, outside 0..{most - 1}")


def check_num_classes(reasons: Reasons, num_classes: object) -> bool:
    """A number of classes."""
    return reasons.unless(
        is_integer(num_classes) and _within(num_classes, 1, MOST_CLASSES),
        f"num_classes must be at least 1 and at most {MOST_CLASSES}, an integer, is {shown(num_classes)}",
    )


def comparable(labels: Tensor, num_classes: int) -> Tensor:
    """The labels in a type that holds every class: PyTorch takes 300 for 44 beside uint8."""
    return labels if num_classes <= torch.iinfo(torch.int8).max else labels.long()


def check_triton(reasons: Reasons, impl: str, x: Tensor, width: int | None = None) -> None:
    """What the Triton kernels ask beside: a GPU of compute capability 8.0 or more, no float64, a head width.

    Triton's interpreter (TRITON_INTERPRET=1) runs them on the CPU, for tests.
    """
    if impl != "triton":
        return
    reasons.unless(find_spec("triton") is not None, "impl='triton' needs the package triton, which is not installed")
    reasons.unless(x.dtype != torch.float64, "impl='triton' has no float64; impl='torch' has")
    if width is not None:
        reasons.unless(
            NARROWEST <= width <= WIDEST, f"impl='triton' takes head widths {NARROWEST}..{WIDEST}, not {width}"
        )
    if x.device.type == "cuda":
        capability = torch.cuda.get_device_capability(x.device)
        has = f"{capability[0]}.{capability[1]}"
        reasons.unless(capability >= LEAST_CAPABILITY, f"impl='triton' needs compute capability 8.0, the GPU has {has}")
    else:
        interpreted = x.device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"
        reasons.unless(interpreted, f"impl='triton' needs a CUDA device, the data is on {x.device}")


def check_reach(reasons: Reasons, impl: str, tensors: dict[str, Tensor], programs: int = 1) -> None:
    """What the Triton kernels reach: images by 64-bit offsets, all of one by 32-bit ones; ``programs`` side by side."""
    if impl != "triton":
        return
    for name, t in tensors.items():
        extent = sum((size - 1) * abs(stride) for size, stride in zip(t.shape[1:], t.stride()[1:], strict=True))
        reasons.unless(
            extent < MOST_ELEMENTS, f"impl='triton' reaches 2**31 elements of an image, {name} spans {extent + 1}"
        )
    reasons.unless(
        programs <= MOST_PROGRAMS, f"impl='triton' takes at most {MOST_PROGRAMS} images times heads, not {programs}"
    )


def check_no_gradient(reasons: Reasons, impl: str, tensors: dict[str, Tensor]) -> None:
    """In-place and fused paths keep nothing for a backward pass, so they refuse to be differentiated."""
    if impl != "reference" and torch.is_grad_enabled():
        wanting = [name for name, t in tensors.items() if t.requires_grad]
        reasons.unless(not wanting, f"{' and '.join(wanting)} want gradients, which only impl='reference' gives here")
