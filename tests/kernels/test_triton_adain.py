"""AdaIN of latents and of features by Triton against float64: on a GPU with ``make gpu``, elsewhere interpreted.

``test_triton_interpreter.py`` runs this file in a process of its own.
"""

from __future__ import annotations

import pytest
import torch

from kernels import adain_features, cross_image_attention, masked_adain
from tests.kernels import plain
from tests.kernels.cases import Case, attention_input, doubles, labels
from tests.kernels.device import DEVICE, on_device
from tests.tolerances import assert_as_accurate

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@every_dtype
def test_public_function_and_features_agree_with_the_reference(dtype: torch.dtype) -> None:
    q, k, v = on_device(*attention_input(Case(1, 1, 70, 66, 40), dtype))
    of_query, of_key = on_device(labels("mixed", 1, 70, 1), labels("one pixel", 1, 66, 2))
    result = cross_image_attention(
        q, k, v, contrast=1.67, query_labels=of_query, key_labels=of_key, num_classes=3, impl="triton"
    )
    exact, same = plain.attention(*doubles(q, k, v), 1.67), plain.attention(q, k, v, 1.67)
    assert_as_accurate(result.out, same, exact, per=(0, 1), magnitude=plain.terms(q, k, v, 1.67))
    actual = adain_features(result, of_query, impl="triton")
    wanted = adain_features(result, of_query, impl="reference")
    torch.testing.assert_close(actual, wanted)
    unchanged = of_query != 0  # the only class with two keys is 0
    assert torch.equal(actual[:, :, unchanged], result.out[:, :, unchanged])
    assert not torch.equal(actual[:, :, ~unchanged], result.out[:, :, ~unchanged])
    assert actual.transpose(1, 2).flatten(2).data_ptr() == actual.data_ptr()


@every_dtype
@pytest.mark.parametrize("classes", [[1], [0, 2], []], ids=str)
def test_masked_adain_is_as_accurate_as_plain_pytorch(classes: list[int], dtype: torch.dtype) -> None:
    g = torch.Generator().manual_seed(0)
    z = (torch.randn(2, 4, 9, 7, generator=g) * 3 + 5).to(dtype).transpose(2, 3).to(DEVICE)
    source = (torch.randn(1, 4, 40, 31, generator=g) - 7).to(dtype).to(DEVICE)
    z_labels = labels("per image", 2, 63, 1).view(2, 7, 9).to(DEVICE, torch.uint8)
    source_labels = labels("mixed", 1, 1240, 2).view(40, 31).to(DEVICE)
    before = z.clone()
    out = masked_adain(z, source, z_labels, source_labels, classes=classes, num_classes=3, impl="triton")
    exact = plain.adain(z.double(), source.double(), z_labels, source_labels, classes)
    same = plain.adain(z, source, z_labels, source_labels, classes)
    assert torch.equal(z, before)
    for b in range(2):
        for c in range(3):
            part = z_labels[b] == c
            size = exact[b][:, part].abs().amax(1, keepdim=True)
            parts = (t[b][:, part] for t in (out, same, exact))
            assert_as_accurate(*parts, per=(0,), magnitude=size)
            if c not in classes:
                assert torch.equal(out[b][:, part], z[b][:, part])


def test_masked_adain_takes_many_classes_and_leaves_lonely_positions() -> None:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(1, 2, 8, 8, generator=g).to(DEVICE)
    source = torch.randn(1, 2, 8, 8, generator=g).to(DEVICE)
    z_labels = torch.arange(64, device=DEVICE).view(8, 8) // 2  # 32 classes of two
    source_labels = z_labels.clone()
    source_labels[0, 0] = 31  # class 0 has one position left
    out = masked_adain(z, source, z_labels, source_labels, classes=[0, 5, 31], num_classes=40, impl="triton")
    wanted = masked_adain(z, source, z_labels, source_labels, classes=[0, 5, 31], num_classes=40, impl="reference")
    torch.testing.assert_close(out, wanted)
    changed = (out != z).any(1)[0]
    assert sorted(set(z_labels[changed].tolist())) == [5, 31]
