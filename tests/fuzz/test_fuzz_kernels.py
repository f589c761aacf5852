"""Kernels with any shapes, types, strides, labels and contrasts, against float64; and with arguments of any type."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

import kernels
from kernels import CONTRAST_RANGE, Implementation
from sampler.settings import CONTRASTS
from tests.fuzz.mutations import seeds
from tests.kernels import plain
from tests.tolerances import assert_as_accurate

IMPLEMENTATIONS: tuple[Implementation, ...] = ("reference", "torch")
COUNTS = (1, 2, 3, 7, 16, 33, 64, 77, 131, 256, 300, 1025)


def attention_input(rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """q [B, H, Nq, D], k and v [B, H, Nk, D] of any strides, with scores from flat to one-hot."""
    g = torch.Generator().manual_seed(rng.randrange(2**31))
    batch, heads, width = rng.choice((1, 2)), rng.choice((1, 2, 3)), rng.choice((8, 16, 40, 80, 160))
    scale = rng.choice((0.0, 0.01, 1.0, 1.0, 5.0))
    dtype = rng.choice((torch.float32, torch.float32, torch.bfloat16, torch.float16))
    made = []
    for count, size in ((rng.choice(COUNTS), scale), (keys := rng.choice(COUNTS), 1.0), (keys, 1.0)):
        order = rng.choice(((0, 1, 2, 3), (0, 2, 1, 3), (3, 2, 1, 0)))
        sides = (batch, heads, count, width)
        back = [order.index(d) for d in range(4)]
        made.append((torch.randn([sides[d] for d in order], generator=g) * size).to(dtype).permute(back))
    q, k, v = made
    return q, k, v


@pytest.mark.parametrize("seed", seeds(60))
def test_attention_is_as_accurate_as_plain_pytorch(seed: int) -> None:
    rng = random.Random(seed)
    q, k, v = attention_input(rng)
    contrast = rng.choice((1.0, 1.67, 0.3, 0.6, 3.0, 30.0))
    exact = plain.attention(q.double(), k.double(), v.double(), contrast)
    magnitude = plain.terms(q, k, v, contrast)
    for impl in IMPLEMENTATIONS:
        out = kernels.cross_image_attention(q, k, v, contrast=contrast, impl=impl)
        assert_as_accurate(out, plain.attention(q, k, v, contrast), exact, per=(0, 1), magnitude=magnitude)


@pytest.mark.parametrize("seed", seeds(30))
def test_restricted_attention_with_any_labels_is_as_accurate_as_plain_pytorch(seed: int) -> None:
    rng = random.Random(seed)
    q, k, v = attention_input(rng)
    contrast, classes = rng.choice((1.0, 1.67, 0.5)), rng.choice((1, 2, 3, 9))
    g = torch.Generator().manual_seed(seed)
    of_query, of_key = (torch.randint(classes, (t.shape[2],), generator=g) for t in (q, k))
    exact = plain.restricted(q.double(), k.double(), v.double(), contrast, of_query, of_key)
    same = plain.restricted(q, k, v, contrast, of_query, of_key)
    magnitude = plain.terms(q, k, v, contrast) + plain.restricted(
        q.double(), k.double(), v.double().abs(), 1.0, of_query, of_key
    )
    for impl in IMPLEMENTATIONS:
        result = kernels.cross_image_attention(
            q,
            k,
            v,
            contrast=contrast,
            query_labels=of_query,
            key_labels=of_key,
            num_classes=classes,
            within_class=True,
            impl=impl,
        )
        for c in of_query.unique():
            rows = of_query == c
            parts = (t[:, :, rows] for t in (result.out, same, exact))
            assert_as_accurate(*parts, per=(0, 1), magnitude=magnitude.amax((2, 3), keepdim=True))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("keys", [1, 2, 64, 1025])
@pytest.mark.parametrize("contrast", CONTRAST_RANGE)
def test_both_ends_of_the_contrast_hold(contrast: float, keys: int, dtype: torch.dtype, impl: Implementation) -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 40, generator=g).to(dtype) for n in (33, keys, keys))
    out = kernels.cross_image_attention(q, k, v, contrast=contrast, impl=impl)
    exact = plain.attention(q.double(), k.double(), v.double(), contrast)
    p = torch.softmax(torch.einsum("bhqd,bhkd->bhqk", q.double(), k.double()) / math.sqrt(40), -1)
    # A probability within a rounding of 1/N may fall to either side of it, which a large contrast makes all or nothing.
    unsure = ((p - 1 / keys).abs() < 1e-5 / keys + 2 / contrast * (contrast > 1)).any(-1, keepdim=True) & (contrast > 1)
    sure = ~unsure.expand_as(exact)
    if keys == 1:
        torch.testing.assert_close(out, v.expand_as(out), rtol=0, atol=0)
    assert out.isfinite().all()
    allowed = (keys + 4) * torch.finfo(dtype).eps * v.double().abs().sum(2, keepdim=True).expand_as(exact)
    assert bool(((out.double() - exact).abs() <= allowed)[sure].all())


def test_the_command_line_states_the_range_that_the_kernels_hold() -> None:
    assert CONTRASTS == CONTRAST_RANGE


HOSTILE: tuple[Any, ...] = (
    "1.67",
    None,
    True,
    1j,
    [],
    {},
    torch.ones(2),
    torch.ones(()),
    10**400,
    -(10**400),
    math.nan,
    math.inf,
    -1,
    object(),
)
Q = torch.randn(1, 2, 5, 8)
LABELS = torch.zeros(5, dtype=torch.int64)
GRID = torch.randn(1, 4, 3, 3)
GRID_LABELS = torch.zeros(3, 3, dtype=torch.int64)
WEIGHT = torch.ones(4)
BAD_TENSORS: tuple[Any, ...] = (
    None,
    "q",
    3,
    [[1.0]],
    torch.ones(()),
    torch.ones(0),
    torch.eye(4).to_sparse(),
    torch.ones(1, 2, 5, 8, dtype=torch.complex64),
    torch.ones(1, 2, 5, 8, dtype=torch.bool),
    torch.quantize_per_tensor(torch.ones(1, 2, 5, 8), 0.1, 0, torch.qint8),
)
RESULT = kernels.cross_image_attention(Q, Q, Q, query_labels=LABELS, key_labels=LABELS, num_classes=1)
CALLS: dict[str, tuple[Any, dict[str, Any], dict[str, tuple[Any, ...]]]] = {
    "cross_image_attention": (
        kernels.cross_image_attention,
        {"q": Q, "k": Q, "v": Q, "query_labels": LABELS, "key_labels": LABELS, "num_classes": 1},
        {
            "contrast": (*HOSTILE, 0, 0.0, 1e300, 1e-300, 1e7),
            "num_classes": HOSTILE,
            "within_class": tuple(value for value in HOSTILE if value is not True),
            "impl": (*HOSTILE, "cuda"),
            "q": BAD_TENSORS,
            "v": BAD_TENSORS,
            "key_labels": BAD_TENSORS,
        },
    ),
    "masked_adain": (
        kernels.masked_adain,
        {
            "z": GRID,
            "source": GRID,
            "z_labels": GRID_LABELS,
            "source_labels": GRID_LABELS,
            "classes": (0,),
            "num_classes": 1,
        },
        {
            "classes": (*(value for value in HOSTILE if value not in ([], {})), (0, "1"), (5,), (True,), "", b"\0"),
            "num_classes": HOSTILE,
            "eps": (*HOSTILE, 1e-45),
            "impl": HOSTILE,
            "z": BAD_TENSORS,
            "source_labels": BAD_TENSORS,
        },
    ),
    "adain_features": (
        kernels.adain_features,
        {"result": RESULT, "query_labels": LABELS},
        {"result": (*BAD_TENSORS, *HOSTILE), "query_labels": BAD_TENSORS, "eps": (*HOSTILE, 1e-45), "impl": HOSTILE},
    ),
    "group_norm": (
        kernels.group_norm,
        {"x": GRID, "groups": 2, "weight": WEIGHT, "bias": WEIGHT, "eps": 1e-5, "silu": False},
        {
            "groups": HOSTILE,
            "eps": (*HOSTILE, 1e-45),
            "silu": tuple(value for value in HOSTILE if value is not True),
            "impl": HOSTILE,
            "x": BAD_TENSORS,
            "weight": BAD_TENSORS,
        },
    ),
    "geglu": (kernels.geglu, {"projected": GRID}, {"projected": BAD_TENSORS[:-2], "impl": HOSTILE}),
}


@pytest.mark.parametrize(
    ("name", "argument"), [(name, argument) for name, (_, _, bad) in CALLS.items() for argument in bad]
)
def test_arguments_of_other_types_are_refused_with_a_reason(name: str, argument: str) -> None:
    function, good, bad = CALLS[name]
    for value in bad[argument]:
        with pytest.raises(ValueError, match=f"^{name}: ") as refusal:
            _call(function, {**good, argument: value})
        assert "\n" not in str(refusal.value)


def _call(function: Any, arguments: dict[str, Any]) -> Any:
    return function(**arguments)
