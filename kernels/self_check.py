"""Whether the Triton kernels are right on a device: small random inputs against float64 on the CPU.

Compilers, drivers and chips differ, and a wrong kernel paints a plausible image. So before a device's first run each
kernel is held to what plain PyTorch reaches there, in the number type of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.adain_features.api import adain_features
from kernels.cross_image_attention.api import cross_image_attention
from kernels.geglu.api import geglu
from kernels.group_norm.api import group_norm
from kernels.masked_adain.api import masked_adain
from kernels.results import AttentionResult, Implementation

# Of plain PyTorch's error; and of a rounding of the largest value, for what is summed in another order.
_FACTOR = 3.0
_ROUNDINGS = {"largest": 3.0, "mean": 0.3}
_CLASSES = 3
HEAD_WIDTHS = (40, 16, 80, 160)
"""Those of SD-1.x, and one that is held whole; the kernel holds other widths in the same ways."""


class Failure(NamedTuple):
    """A kernel that must not be used: its name with the case, and what went wrong, in one line each."""

    kernel: str
    reason: str


class _Case(NamedTuple):
    """``run`` gives what ``impl`` makes of the inputs; ``per`` are the dimensions whose every index is judged apart."""

    kernel: str
    inputs: dict[str, Tensor]
    run: Callable[[dict[str, Tensor], Implementation], Iterable[Tensor]]
    per: tuple[int, ...] = (0, 1)


def self_check(device: torch.device, dtype: torch.dtype, head_widths: Iterable[int] = HEAD_WIDTHS) -> list[Failure]:
    """The kernels that fail on ``device``, none if all is well. A kernel that cannot be compiled or launched fails too.

    Args:
        device: a GPU; the CPU under Triton's interpreter.
        dtype: float16, bfloat16 or float32, the type of the run.
        head_widths: of attention; the first goes through every form of it.
    """
    failures = []
    for case in _cases(head_widths):
        try:
            _check(case, device, dtype)
        except Exception as error:  # whatever a compiler, a driver or a kernel raises
            text = " ".join(str(error).split())
            failures.append(Failure(case.kernel, f"{type(error).__name__}: {text[:200]}" if text else repr(error)))
    return failures


def _check(case: _Case, device: torch.device, dtype: torch.dtype) -> None:
    rounded = {n: x.to(dtype) if x.is_floating_point() else x for n, x in case.inputs.items()}
    exact = case.run({n: x.double() if x.is_floating_point() else x for n, x in rounded.items()}, "reference")
    moved = {n: _laid_out(n, x.to(device)) for n, x in rounded.items()}
    for triton, plain, wanted in zip(case.run(moved, "triton"), case.run(moved, "torch"), exact, strict=True):
        error = _errors(triton.cpu().double(), wanted, case.per)
        allowed = _errors(plain.cpu().double(), wanted, case.per)
        size = wanted.abs().amax().clamp_min(1e-30) * torch.finfo(triton.dtype).eps
        for name, found in error.items():
            most = allowed[name]
            worst = float((found - (_FACTOR * most + _ROUNDINGS[name] * size)).max())
            if not worst <= 0:
                raise ArithmeticError(f"{name} error {float(found.max()):.3g}, plain PyTorch's {float(most.max()):.3g}")


def _laid_out(name: str, x: Tensor) -> Tensor:
    """The same values in the layout of the networks: heads within a position, [B, N, H, D]; grids channels last."""
    if name in ("q", "k", "v"):
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x.to(memory_format=torch.channels_last) if name == "x" else x


def _errors(found: Tensor, wanted: Tensor, per: tuple[int, ...]) -> dict[str, Tensor]:
    """Largest and root-mean-square error in each slice; what is not a number is infinitely wrong."""
    if found.shape != wanted.shape:
        raise ArithmeticError(f"shape {list(found.shape)} instead of {list(wanted.shape)}")
    error = (found - wanted).abs().nan_to_num(nan=torch.inf)
    rest = tuple(d for d in range(error.ndim) if d not in per)
    return {"largest": error.amax(rest), "mean": error.square().mean(rest).sqrt()}


def _cases(head_widths: Iterable[int]) -> Iterator[_Case]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def labels(*shape: int) -> Tensor:
        return torch.randint(_CLASSES, shape, generator=generator)

    for number, width in enumerate(head_widths):
        # Odd numbers of queries and keys, more than a tile of each; scores far from flat.
        heads = {"q": 2.0 * normal(2, 2, 147, width), "k": normal(2, 2, 205, width), "v": normal(2, 2, 205, width)}
        name = f"cross_image_attention at head width {width}"
        labelled = heads | {"query_labels": labels(2, 147), "key_labels": labels(2, 205)}
        yield _Case(f"{name} with contrast", heads, _attention(1.67))
        yield _Case(f"{name} with classes", labelled, _statistics(within_class=False))
        if number > 0:
            continue
        yield _Case(name, heads, _attention(1.0))
        yield _Case(f"{name} within classes", labelled, _statistics(within_class=True))
        yield _Case(f"adain_features at head width {width}", labelled, _features)
    latents = {"z": normal(2, 4, 9, 13), "source": 2.0 * normal(1, 4, 11, 7) + 1.0}
    latents |= {"z_labels": labels(9, 13), "source_labels": labels(11, 7)}
    yield _Case("masked_adain", latents, _latents)
    grids = {"x": 3.0 * normal(2, 24, 9, 13) + 1.0, "weight": normal(24), "bias": normal(24)}
    yield _Case("group_norm", grids, _norm(silu=False))
    yield _Case("group_norm with SiLU", grids, _norm(silu=True))
    gates = {"projected": 2.0 * normal(3, 37, 2 * 72)}
    yield _Case("geglu", gates, lambda x, impl: [geglu(x["projected"], impl=impl)], per=(0,))


def _attention(contrast: float) -> Callable[[dict[str, Tensor], Implementation], Iterable[Tensor]]:
    return lambda x, impl: [cross_image_attention(x["q"], x["k"], x["v"], contrast=contrast, impl=impl)]


def _labelled(x: dict[str, Tensor], impl: Implementation, *, within_class: bool) -> AttentionResult:
    return cross_image_attention(
        x["q"],
        x["k"],
        x["v"],
        contrast=1.67,
        query_labels=x["query_labels"],
        key_labels=x["key_labels"],
        num_classes=_CLASSES,
        within_class=within_class,
        impl=impl,
    )


def _statistics(*, within_class: bool) -> Callable[[dict[str, Tensor], Implementation], Iterable[Tensor]]:
    def run(x: dict[str, Tensor], impl: Implementation) -> Iterable[Tensor]:
        result = _labelled(x, impl, within_class=within_class)
        yield result.out
        for side in (result.query, result.key):
            yield side.count[:, None].to(side.mean.dtype)
            yield side.mean
            yield side.variance

    return run


def _features(x: dict[str, Tensor], impl: Implementation) -> Iterable[Tensor]:
    # From the same attention for every implementation, so that its error is not counted here.
    result = _labelled(x, "reference" if x["q"].dtype == torch.float64 else "torch", within_class=False)
    yield adain_features(result, x["query_labels"], impl=impl)


def _norm(*, silu: bool) -> Callable[[dict[str, Tensor], Implementation], Iterable[Tensor]]:
    return lambda x, impl: [group_norm(x["x"], 8, x["weight"], x["bias"], eps=1e-5, silu=silu, impl=impl)]


def _latents(x: dict[str, Tensor], impl: Implementation) -> Iterable[Tensor]:
    yield masked_adain(
        x["z"], x["source"], x["z_labels"], x["source_labels"], classes=(0, 2), num_classes=_CLASSES, impl=impl
    )
