"""The attention kernel against float64: on a GPU with ``make gpu``, elsewhere in Triton's interpreter.

``test_triton_interpreter.py`` runs this file in a process of its own, since whether kernels are interpreted is
settled when they are first imported.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import AttentionResult, cross_image_attention
from kernels.cross_image_attention.tiles import Tiles
from kernels.cross_image_attention.triton import launch
from tests.kernels import plain
from tests.kernels.cases import LABEL_PATTERNS, Case, attention_input, doubles, labels
from tests.kernels.device import DEVICE, on_device
from tests.tolerances import assert_as_accurate

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

SMALL = Tiles(16, 16, 1, 2)  # so that small inputs have several tiles
WIDE = Tiles(16, 16, 1, 2, first_n=32)
TALL = Tiles(32, 16, 2, 2, first_n=32)  # with two partials of statistics to a tile
CASES = (
    Case(1, 2, 21, 27, 40),
    Case(1, 1, 17, 33, 80, "surrounded"),
    Case(2, 1, 16, 19, 160, "backwards"),
    Case(1, 1, 33, 16, 16, "fused"),
    Case(1, 1, 1, 1, 8),
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@every_dtype
@pytest.mark.parametrize("contrast", [1.0, 1.67, 0.6])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_is_as_accurate_as_plain_pytorch(case: Case, contrast: float, dtype: torch.dtype) -> None:
    q, k, v = on_device(*attention_input(case, dtype))
    out = launch(q, k, v, contrast, tiles=WIDE).result
    assert isinstance(out, Tensor)
    exact = plain.attention(*doubles(q, k, v), contrast)
    magnitude = plain.terms(q, k, v, contrast)
    assert_as_accurate(out, plain.attention(q, k, v, contrast), exact, per=(0, 1), magnitude=magnitude)
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()


@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize("patterns", LABEL_PATTERNS, ids=lambda p: f"{p[0]} to {p[1]}")
def test_labels_give_statistics_and_restriction(patterns: tuple[str, str], within_class: bool) -> None:
    case = Case(2, 1, 18, 21, 24)
    turn = LABEL_PATTERNS.index(patterns)
    contrast, dtype = (1.67, 1.0, 0.6)[turn % 3], DTYPES[(turn // 2) % 3]
    q, k, v = on_device(*attention_input(case, dtype))
    of_query, of_key = on_device(labels(patterns[0], 2, case.queries, 1), labels(patterns[1], 2, case.keys, 2))
    pair = (of_query.expand(2, -1), of_key.expand(2, -1))
    result = launch(q, k, v, contrast, pair, 3, within_class=within_class, tiles=TALL).result
    assert isinstance(result, AttentionResult)
    if within_class:
        exact = plain.restricted(*doubles(q, k, v), contrast, of_query, of_key)
        same = plain.restricted(q, k, v, contrast, of_query, of_key)
    else:
        exact, same = plain.attention(*doubles(q, k, v), contrast), plain.attention(q, k, v, contrast)
    magnitude = plain.terms(q, k, v, contrast)
    for b in range(2):
        for c in pair[0][b].unique():
            rows = pair[0][b] == c
            parts = (t[b][:, rows] for t in (result.out, same, exact))
            assert_as_accurate(*parts, per=(0,), magnitude=magnitude[b][:, rows])
    for statistics, half, true, of_class in (
        (result.query, same, exact, of_query),
        (result.key, v, v.double(), of_key),
    ):
        count, mean, variance = plain.statistics(true, of_class, 3)
        _, same_mean, same_variance = plain.statistics(half, of_class, 3)
        size = true.abs().amax((2, 3), keepdim=True)
        assert torch.equal(statistics.count, count)
        assert_as_accurate(statistics.mean, same_mean, mean, per=(0, 1, 2), magnitude=size)
        assert_as_accurate(statistics.variance, same_variance, variance, per=(0, 1, 2), magnitude=size**2)


@pytest.mark.parametrize("within_class", [False, True])
def test_two_runs_agree_bit_for_bit(within_class: bool) -> None:
    case = Case(1, 1, 33, 40, 40)
    q, k, v = on_device(*attention_input(case, torch.float16))
    of_query, of_key = on_device(labels("mixed", 1, 33, 1), labels("mixed", 1, 40, 2))
    runs = []
    for _ in range(2 if DEVICE == "cpu" else 50):
        pair = (of_query[None], of_key[None])
        result = launch(q, k, v, 1.67, pair, 3, within_class=within_class, tiles=SMALL).result
        assert isinstance(result, AttentionResult)
        runs.append([result.out, *vars(result.query).values(), *vars(result.key).values()])
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run, strict=True))


def separated(groups: int, size: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries and keys in groups along the sequence; each group of queries finds its own keys alone."""
    g = torch.Generator().manual_seed(0)
    direction = torch.eye(width)[:groups].repeat_interleave(size, 0) * 8
    q = direction + 0.3 * torch.randn(groups * size, width, generator=g)
    k = direction + 0.3 * torch.randn(groups * size, width, generator=g)
    v = torch.randn(groups * size, width, generator=g)
    q, k, v = (t[None, None].to(DEVICE, dtype) for t in (q, k, v))
    return q, k, v


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("contrast", [1.67, 1.01])
@pytest.mark.parametrize("tiles", [SMALL, WIDE], ids=["small", "wide"])
def test_skipping_tiles_changes_no_bit(tiles: Tiles, contrast: float, dtype: torch.dtype) -> None:
    q, k, v = separated(3, 16, 16, dtype)
    skipping = launch(q, k, v, contrast, tiles=tiles, skip=True)
    whole = launch(q, k, v, contrast, tiles=tiles, skip=False)
    assert isinstance(skipping.result, Tensor)
    assert isinstance(whole.result, Tensor)
    assert torch.equal(skipping.result, whole.result)
    assert whole.visited is None
    assert skipping.visited is not None
    assert skipping.visited.tolist() == [1, 1, 1]
    exact = plain.attention(*doubles(q, k, v), contrast)
    assert_as_accurate(skipping.result, plain.attention(q, k, v, contrast), exact, magnitude=exact.abs() * 50)


def test_restriction_skips_tiles_of_other_classes() -> None:
    q, k, v = on_device(*attention_input(Case(1, 1, 32, 32, 16), torch.float32))
    of_class = torch.arange(32, device=DEVICE) // 16
    pair = (of_class[None], of_class[None])
    skipping = launch(q, k, v, 1.67, pair, 2, within_class=True, tiles=SMALL, skip=True)
    whole = launch(q, k, v, 1.67, pair, 2, within_class=True, tiles=SMALL, skip=False)
    assert skipping.visited is not None
    assert skipping.visited.tolist() == [1, 1]
    assert isinstance(skipping.result, AttentionResult)
    assert isinstance(whole.result, AttentionResult)
    assert torch.equal(skipping.result.out, whole.result.out)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("contrast", [1.0, 1.67])
def test_nan_and_infinity_stay_where_they_are(contrast: float) -> None:
    q, k, v = on_device(*attention_input(Case(1, 2, 20, 17, 16), torch.float32))
    q, v = q.clone(), v.clone()
    q[0, 0, 3, 5] = math.nan
    of_query, of_key = on_device(labels("mixed", 1, 20, 1), labels("mixed", 1, 17, 2))
    v[0, 1, of_key == 1] = math.inf
    result = launch(q, k, v, contrast, (of_query[None], of_key[None]), 3, tiles=SMALL).result
    assert isinstance(result, AttentionResult)
    lost = result.out.isnan().any(-1)
    assert lost[0, 0].nonzero()[:, 0].tolist() == [3]
    c = int(of_query[3])
    assert result.query.mean[0, 0].isnan().any(-1).nonzero()[:, 0].tolist() == [c]
    assert not result.key.mean[0, 1, 1].isfinite().any()
    assert result.key.mean[0, 1, [0, 2]].isfinite().all()
    assert result.key.mean[0, 0].isfinite().all()


@every_dtype
@pytest.mark.parametrize("contrast", [1.0, 1.67, 0.3, 1e-6, 1e6])
def test_a_single_key_gives_its_value(contrast: float, dtype: torch.dtype) -> None:
    q, k, v = on_device(*attention_input(Case(2, 1, 19, 1, 40), dtype))
    out = cross_image_attention(3 * q, k, v, contrast=contrast, impl="triton")
    assert torch.equal(out, v.expand_as(out))


@pytest.mark.parametrize("contrast", [1.67, 0.3, 1e-6, 1e6])
def test_the_only_key_of_a_class_gives_its_value(contrast: float) -> None:
    q, k, v = on_device(*attention_input(Case(1, 2, 19, 23, 40), torch.float32))
    of_query, of_key = on_device(labels("mixed", 1, 19, 1), labels("one pixel", 1, 23))
    result = cross_image_attention(
        3 * q,
        k,
        v,
        contrast=contrast,
        query_labels=of_query,
        key_labels=of_key,
        num_classes=3,
        within_class=True,
        impl="triton",
    )
    out = result.out[:, :, of_query == 2]
    assert torch.equal(out, v[:, :, of_key == 2].expand_as(out))


@pytest.mark.parametrize("contrast", [1.67, 0.3, 1e-6, 1e6])
def test_a_flat_row_stays_flat(contrast: float) -> None:
    _, k, v = on_device(*attention_input(Case(1, 2, 9, 37, 40), torch.float32))
    flat = k.new_zeros(1, 2, 9, 40)
    out = cross_image_attention(flat, k, v, contrast=contrast, impl="triton")
    exact = v.double().mean(2, keepdim=True).expand(1, 2, 9, 40)
    assert_as_accurate(out, plain.attention(flat, k, v, 1.0), exact, per=(0, 1))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("contrast", [1.0, 1.67, 0.6])
@pytest.mark.parametrize("worst", [math.nan, math.inf, -math.inf])
def test_keys_that_are_not_seen_may_hold_anything(worst: float, contrast: float) -> None:
    q, k, v = on_device(*attention_input(Case(1, 1, 20, 35, 40), torch.float32))
    of_query, of_key = on_device(labels("mixed", 1, 20, 1), labels("mixed", 1, 35, 2))
    of_query[:2] = 3  # a class without keys sees them all
    k, v = k.clone(), v.clone()
    pair = (of_query[None], of_key[None])
    before = launch(q, k, v, contrast, pair, 4, within_class=True, tiles=SMALL).result
    v[:, :, of_key == 1, 3] = worst
    values = launch(q, k, v, contrast, pair, 4, within_class=True, tiles=SMALL).result
    k[:, :, of_key == 1] = worst
    both = launch(q, k, v, contrast, pair, 4, within_class=True, tiles=SMALL).result
    assert isinstance(before, AttentionResult)
    assert isinstance(values, AttentionResult)
    assert isinstance(both, AttentionResult)
    unseen = (of_query == 0) | (of_query == 2)
    for after in (values, both):
        assert torch.equal(after.out[:, :, unseen], before.out[:, :, unseen])
        assert not after.out[0, 0, ~unseen, 3].isfinite().any()
        torch.testing.assert_close(after.key.mean[:, :, [0, 2]], before.key.mean[:, :, [0, 2]], rtol=0, atol=0)
        assert not after.key.mean[0, 0, 1, 3].isfinite()
        assert after.key.variance[0, 0, 1, 3].isnan()
        assert after.key.mean[0, 0, 1, :3].isfinite().all()
    others = [column for column in range(40) if column != 3]
    assert torch.equal(values.out[..., others], before.out[..., others])


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize(("tokens", "width"), [(4096, 40), (1024, 80), (256, 160), (4095, 40)])
def test_stable_diffusion_shapes_on_the_device(tokens: int, width: int, contrast: float, dtype: torch.dtype) -> None:
    q, k, v = on_device(*attention_input(Case(1, 8, tokens, tokens, width), dtype))
    of_query, of_key = on_device(labels("mixed", 1, tokens, 1), labels("mixed", 1, tokens, 2))
    for within_class in (False, True):
        result = cross_image_attention(
            q,
            k,
            v,
            contrast=contrast,
            query_labels=of_query,
            key_labels=of_key,
            num_classes=3,
            within_class=within_class,
            impl="triton",
        )
        for head in range(8):
            one = [t[:, head : head + 1] for t in (q, k, v)]
            if within_class:
                exact = plain.restricted(*doubles(*one), contrast, of_query, of_key)
                same = plain.restricted(*one, contrast, of_query, of_key)
            else:
                exact, same = plain.attention(*doubles(*one), contrast), plain.attention(*one, contrast)
            for c in range(3):
                parts = (t[:, :, of_query == c] for t in (result.out[:, head : head + 1], same, exact))
                assert_as_accurate(*parts)
