"""Cross-image attention by ``reference`` and ``torch`` against float64, head by head and class by class."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kernels import AttentionResult, Implementation, cross_image_attention
from kernels.cross_image_attention import torch as torch_attention
from tests.kernels import plain
from tests.kernels.cases import CASES, LABEL_PATTERNS, Case, attention_input, doubles, labels
from tests.tolerances import assert_as_accurate

IMPLEMENTATIONS: tuple[Implementation, ...] = ("reference", "torch")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CONTRASTS = (1.0, 1.67, 0.6, 30.0)

every_implementation = pytest.mark.parametrize("impl", IMPLEMENTATIONS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def assert_per_head_and_class(actual: Tensor, same: Tensor, exact: Tensor, of_class: Tensor, magnitude: Tensor) -> None:
    of_class = of_class.expand(len(actual), -1)
    for b in range(len(actual)):
        for c in of_class[b].unique():
            rows = of_class[b] == c
            parts = (t[b][:, rows] for t in (actual, same, exact))
            assert_as_accurate(*parts, per=(0,), magnitude=magnitude[b][:, rows])


@every_implementation
@every_dtype
@pytest.mark.parametrize("contrast", CONTRASTS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.usefixtures("poisoned")
def test_attention_is_as_accurate_as_plain_pytorch(
    case: Case, contrast: float, dtype: torch.dtype, impl: Implementation
) -> None:
    q, k, v = attention_input(case, dtype)
    out = cross_image_attention(q, k, v, contrast=contrast, impl=impl)
    exact = plain.attention(*doubles(q, k, v), contrast)
    magnitude = plain.terms(q, k, v, contrast)
    assert_as_accurate(out, plain.attention(q, k, v, contrast), exact, per=(0, 1), magnitude=magnitude)


@every_implementation
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_float64_input_is_computed_in_float64(contrast: float, impl: Implementation) -> None:
    q, k, v = attention_input(CASES[1], torch.float64)
    out = cross_image_attention(q, k, v, contrast=contrast, impl=impl)
    torch.testing.assert_close(out, plain.attention(q, k, v, contrast), rtol=1e-12, atol=1e-14)


def test_the_inputs_reach_both_clips() -> None:
    q, k, _ = attention_input(CASES[0], torch.float64)
    p = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(40), -1)
    low = (p < (1 - 1 / 1.67) / 256).double().mean()
    high = 1.67 * (p - 1 / 256) + 1 / 256 > 1
    assert 0.1 < low < 0.9
    assert high.any()


@every_implementation
@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize("patterns", LABEL_PATTERNS, ids=lambda p: f"{p[0]} to {p[1]}")
@pytest.mark.usefixtures("poisoned")
def test_labels_give_statistics_and_restriction(
    patterns: tuple[str, str], contrast: float, within_class: bool, impl: Implementation
) -> None:
    case = CASES[1]
    for dtype in (torch.float32, torch.float16):
        q, k, v = attention_input(case, dtype)
        of_query = labels(patterns[0], case.batch, case.queries, 1)
        of_key = labels(patterns[1], case.batch, case.keys, 2)
        result = cross_image_attention(
            q,
            k,
            v,
            contrast=contrast,
            query_labels=of_query,
            key_labels=of_key,
            num_classes=3,
            within_class=within_class,
            impl=impl,
        )
        assert isinstance(result, AttentionResult)
        if within_class:
            exact = plain.restricted(*doubles(q, k, v), contrast, of_query, of_key)
            same = plain.restricted(q, k, v, contrast, of_query, of_key)
        else:
            exact = plain.attention(*doubles(q, k, v), contrast)
            same = plain.attention(q, k, v, contrast)
        assert_per_head_and_class(result.out, same, exact, of_query, plain.terms(q, k, v, contrast))
        for statistics, half, true, of_class in (
            (result.query, same, exact, of_query),
            (result.key, v, v.double(), of_key),
        ):
            count, mean, variance = plain.statistics(true, of_class, 3)
            _, same_mean, same_variance = plain.statistics(half, of_class, 3)
            assert torch.equal(statistics.count, count)
            size = true.abs().amax((2, 3), keepdim=True)  # the mean's terms cancel
            assert_as_accurate(statistics.mean, same_mean, mean, per=(0, 1, 2), magnitude=size)
            assert_as_accurate(statistics.variance, same_variance, variance, per=(0, 1, 2), magnitude=size**2)


@every_implementation
def test_output_is_laid_out_for_the_projection(impl: Implementation) -> None:
    q, k, v = attention_input(CASES[1], torch.float32)
    of_query, of_key = labels("mixed", 2, 131), labels("mixed", 2, 197)
    for contrast in (1.0, 1.67):
        out = cross_image_attention(q, k, v, contrast=contrast, impl=impl)
        kept_apart = cross_image_attention(
            q,
            k,
            v,
            contrast=contrast,
            query_labels=of_query,
            key_labels=of_key,
            num_classes=3,
            within_class=True,
            impl=impl,
        ).out
        for result in (out, kept_apart):
            assert result.transpose(1, 2).flatten(2).data_ptr() == result.data_ptr()


def test_labels_need_the_number_of_classes() -> None:
    q, k, v = attention_input(CASES[0], torch.float32)
    of_all = labels("mixed", 1, 256)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        cross_image_attention(q, k, v, query_labels=of_all, key_labels=of_all)  # type: ignore[call-overload]


@every_implementation
def test_restriction_never_mixes_in_keys_of_another_class(impl: Implementation) -> None:
    q, k, v = attention_input(CASES[0], torch.float32)
    of_query, of_key = labels("mixed", 1, 256, 1), labels("mixed", 1, 256, 2)
    v[:, :, of_key == 1] = math.inf
    result = cross_image_attention(
        q, k, v, contrast=1.67, query_labels=of_query, key_labels=of_key, num_classes=3, within_class=True, impl=impl
    )
    assert result.out[:, :, of_query != 1].isfinite().all()
    assert not result.out[:, :, of_query == 1].isfinite().any()
    assert result.key.mean[:, :, [0, 2]].isfinite().all()


@every_implementation
@every_dtype
@pytest.mark.parametrize("contrast", CONTRASTS)
def test_keys_that_are_not_seen_may_hold_anything(contrast: float, dtype: torch.dtype, impl: Implementation) -> None:
    q, k, v = attention_input(CASES[1], dtype)
    of_query, of_key = labels("per image", 2, 131, 1), labels("per image", 2, 197, 2)
    of_query[:, :5] = 3  # a class without keys sees them all
    ours, theirs = of_query == 0, of_key != 0
    k, v = k.clone(), v.clone()
    results = []
    for worst in (0.0, math.nan, math.inf, -math.inf):
        for t in (k, v):
            t.masked_fill_(theirs[:, None, :, None], worst)
        results.append(
            cross_image_attention(
                q,
                k,
                v,
                contrast=contrast,
                query_labels=of_query,
                key_labels=of_key,
                num_classes=4,
                within_class=True,
                impl=impl,
            ).out.transpose(1, 2)[ours]
        )
        assert torch.equal(results[0], results[-1])
    assert results[0].isfinite().all()


@pytest.mark.parametrize("path", ["reference", "oneDNN", "blocks"])
@every_dtype
@pytest.mark.parametrize("contrast", [1.0, 1.67, 0.3, 1e-6, 1e6])
def test_a_single_key_gives_its_value(
    contrast: float, dtype: torch.dtype, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "blocks":
        monkeypatch.setattr(torch_attention, "is_supported", lambda *_: False)
    impl: Implementation = "reference" if path == "reference" else "torch"
    q, k, v = attention_input(Case(2, 3, 50, 1, 40), dtype)
    out = cross_image_attention(3 * q, k, v, contrast=contrast, impl=impl)
    assert torch.equal(out, v.expand_as(out))


@pytest.mark.parametrize("path", ["reference", "oneDNN", "blocks"])
@pytest.mark.parametrize("queries", [1, 3, 5])
def test_scores_of_few_queries_err_no_more_than_plain_pytorchs(
    queries: int, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if path == "blocks":
        monkeypatch.setattr(torch_attention, "is_supported", lambda *_: False)
    impl: Implementation = "reference" if path == "reference" else "torch"
    errors = []
    for seed in range(20):
        q, k, v = attention_input(Case(1, 4, queries, 7, 160, "heads"), torch.float32, seed)
        q = 8 * q  # scores whose rounding is most of the error
        exact = plain.attention(*doubles(q, k, v), 1.01)
        out = cross_image_attention(q, k, v, contrast=1.01, impl=impl)
        errors.append([float((t.double() - exact).square().mean()) for t in (out, plain.attention(q, k, v, 1.01))])
    ours, plains = torch.tensor(errors).mean(0).sqrt()
    assert ours <= 2 * plains


@every_implementation
@pytest.mark.parametrize("contrast", [1.67, 0.3, 1e-6, 1e6])
def test_a_flat_row_stays_flat(contrast: float, impl: Implementation) -> None:
    _, k, v = attention_input(Case(1, 2, 9, 37, 40), torch.float32)
    flat = k.new_zeros(1, 2, 9, 40)
    out = cross_image_attention(flat, k, v, contrast=contrast, impl=impl)
    exact = v.double().mean(2, keepdim=True).expand(1, 2, 9, 40)
    assert_as_accurate(out, plain.attention(flat, k, v, 1.0), exact, per=(0, 1))


@every_implementation
def test_every_reason_is_named_at_once(impl: Implementation) -> None:
    q, k, v = attention_input(CASES[0], torch.float32)
    with pytest.raises(ValueError, match=r"^cross_image_attention: ") as refusal:
        cross_image_attention(q, k[..., :8], v.half(), contrast=0, within_class=True, impl=impl)
    for part in (
        "k [1, 2, 256, 8] and v",
        "differ in batch, heads or width",
        "dtype",
        "contrast",
        "within_class",
    ):
        assert part in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_bad_labels_are_refused() -> None:
    q, k, v = attention_input(CASES[0], torch.float32)
    good = labels("mixed", 1, 256)
    bad = {
        "together": None,
        "must be [256] or [1, 256]": good[:5],
        "must be integers": good.float(),
        "labels 0..9, outside 0..2": good.index_fill(0, torch.tensor([0]), 9),
    }
    for message, of_key in bad.items():
        with pytest.raises(ValueError, match=r"^cross_image_attention: ") as refusal:
            cross_image_attention(q, k, v, query_labels=good, key_labels=of_key, num_classes=3)  # type: ignore[call-overload]
        assert message in str(refusal.value)


def test_unknown_implementation_is_refused() -> None:
    q, k, v = attention_input(CASES[0], torch.float32)
    with pytest.raises(ValueError, match="impl must be one of reference, torch, triton, not 'cuda'"):
        cross_image_attention(q, k, v, impl="cuda")  # type: ignore[call-overload]


def test_gradients_are_refused_where_they_would_be_lost() -> None:
    q, k, v = attention_input(CASES[0], torch.float32)
    q.requires_grad_()
    with pytest.raises(ValueError, match="q want gradients"):
        cross_image_attention(q, k, v, contrast=1.67)
    cross_image_attention(q, k, v).sum().backward()
    assert q.grad is not None
    cross_image_attention(q, k, v, contrast=1.67, impl="reference").sum().backward()


@pytest.mark.parametrize(
    ("shape", "strides", "said"),
    [
        ((1, 1, 2, 8), (2**32, 2**32, 2**31, 1), "reaches 2\\*\\*31 elements of an image, k spans"),
        ((1, 3, 2, 8), (2**32, 2**30, 8, 1), "reaches 2\\*\\*31 elements of an image, k spans"),
        ((2**13, 8, 1, 8), (64, 8, 8, 1), "at most 65535 images times heads, not 65536"),
    ],
)
def test_what_triton_cannot_reach_is_refused(
    shape: tuple[int, ...], strides: tuple[int, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    q = torch.empty(shape, device="meta")
    k = torch.empty_strided(shape, strides, device="meta")
    with pytest.raises(ValueError, match=said):
        cross_image_attention(q, k, k, impl="triton")


def test_more_partial_statistics_than_triton_reaches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    of_all = torch.zeros(1, dtype=torch.int64).expand(2**20)
    q = torch.zeros(1, 1, 1, 8).expand(2, 8, 2**20, 8)
    with pytest.raises(ValueError, match="fewer classes of so many positions"):
        cross_image_attention(q, q, q, query_labels=of_all, key_labels=of_all, num_classes=2**10, impl="triton")
