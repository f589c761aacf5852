"""AdaIN of attention features, and the statistics it takes, by ``reference`` and ``torch`` against float64."""

from __future__ import annotations

import pytest
import torch

from kernels import Implementation, adain_features, cross_image_attention
from kernels.cross_image_attention import reference
from kernels.cross_image_attention import torch as torch_impl
from tests.kernels import plain
from tests.kernels.cases import CASES, attention_input, labels

CLASS_STATISTICS = {"reference": reference.class_statistics, "torch": torch_impl.class_statistics}

every_implementation = pytest.mark.parametrize("impl", ["reference", "torch"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@every_implementation
def test_variance_survives_a_large_mean(impl: Implementation) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 500, 8, generator=g) + 3000
    of_class = labels("mixed", 1, 500)
    _, mean, variance = plain.statistics(x.double(), of_class, 3)
    statistics = CLASS_STATISTICS[impl](x, of_class[None], 3)
    torch.testing.assert_close(statistics.mean.double(), mean, rtol=1e-6, atol=0)
    # The input's own rounding is exact here; a sum of squares would lose all but two digits.
    torch.testing.assert_close(statistics.variance.double(), variance, rtol=1e-5, atol=0)


@every_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_features_take_the_statistics_of_the_values(dtype: torch.dtype, impl: Implementation) -> None:
    case = CASES[1]
    q, k, v = attention_input(case, dtype)
    of_query, of_key = labels("mixed", 2, case.queries, 1), labels("one pixel", 2, case.keys, 2)
    result = cross_image_attention(
        q, k, v, contrast=1.67, query_labels=of_query, key_labels=of_key, num_classes=3, impl=impl
    )
    out = adain_features(result, of_query, impl=impl)
    assert out.dtype == dtype
    assert out.transpose(1, 2).flatten(2).data_ptr() == out.data_ptr()
    for c in (1, 2):
        assert torch.equal(out[:, :, of_query == c], result.out[:, :, of_query == c])
    members = result.out[:, :, of_query == 0].double()
    normal = (members - members.mean(2, keepdim=True)) / (members.var(2, keepdim=True) + 1e-5).sqrt()
    origin = v[:, :, of_key == 0].double()
    wanted = normal * (origin.var(2, keepdim=True) + 1e-5).sqrt() + origin.mean(2, keepdim=True)
    # The output's rounding, magnified by the ratio of the deviations.
    scale = ((origin.var(2) + 1e-5) / (members.var(2) + 1e-5)).sqrt().max()
    rounding = torch.finfo(dtype).eps * (wanted.abs().max() + scale * members.abs().max())
    assert (out[:, :, of_query == 0].double() - wanted).abs().max() <= 4 * rounding
