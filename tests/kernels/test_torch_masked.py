"""``impl="torch"`` by masks, as on a GPU, held to what its tests ask of the CPU's way: here on the CPU."""

from __future__ import annotations

import pytest
import torch

from kernels import cross_image_attention
from kernels.cross_image_attention import torch_masked
from tests.kernels import test_adain_features, test_cross_image_attention
from tests.kernels.cases import LABEL_PATTERNS, Case, attention_input, doubles, labels
from tests.tolerances import assert_as_accurate

pytestmark = pytest.mark.usefixtures("masked", "poisoned")


@pytest.fixture
def masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_masked, "is_wanted", lambda x: True)


@pytest.mark.parametrize("within_class", [False, True])
@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize("patterns", LABEL_PATTERNS, ids=lambda p: f"{p[0]} to {p[1]}")
def test_labels_give_statistics_and_restriction(patterns, contrast, within_class):
    test_cross_image_attention.test_labels_give_statistics_and_restriction(patterns, contrast, within_class, "torch")


@pytest.mark.parametrize("dtype", test_cross_image_attention.DTYPES, ids=str)
@pytest.mark.parametrize("contrast", test_cross_image_attention.CONTRASTS)
def test_keys_that_are_not_seen_may_hold_anything(contrast, dtype):
    test_cross_image_attention.test_keys_that_are_not_seen_may_hold_anything(contrast, dtype, "torch")
    test_cross_image_attention.test_restriction_never_mixes_in_keys_of_another_class("torch")


def test_output_is_laid_out_for_the_projection():
    test_cross_image_attention.test_output_is_laid_out_for_the_projection("torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 50, 131])
def test_blocks_of_queries_change_nothing_but_rounding(rows, dtype, monkeypatch):
    q, k, v = attention_input(Case(2, 2, 131, 197, 40), dtype)
    of_query, of_key = labels("per image", 2, 131, 1), labels("per image", 2, 197, 2)
    of_query[:, ::9] = 7  # of no class: on a GPU labels are not checked
    monkeypatch.setattr(torch_masked, "_BLOCK", rows * 2 * 197 * 4)
    out = torch_masked.attention_within_class(q, k, v, 1.67, of_query, of_key, 3)
    known = torch.where(of_query == 7, 3, of_query)
    arguments = {"contrast": 1.67, "query_labels": known, "key_labels": of_key, "num_classes": 4, "within_class": True}
    exact = cross_image_attention(*doubles(q, k, v), impl="reference", **arguments).out
    same = cross_image_attention(q, k, v, impl="reference", **arguments).out
    magnitude = test_cross_image_attention.plain.terms(q, k, v, 1.67)
    assert_as_accurate(out, same, exact, per=(0, 1), magnitude=magnitude)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_features_take_the_statistics_of_the_values(dtype):
    test_adain_features.test_features_take_the_statistics_of_the_values(dtype, "torch")


def test_variance_survives_a_large_mean():
    test_adain_features.test_variance_survives_a_large_mean("torch")
