"""Masked AdaIN of latents by ``reference`` and ``torch`` against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels import Implementation, masked_adain
from tests.kernels import plain
from tests.kernels.cases import labels
from tests.tolerances import assert_as_accurate

every_implementation = pytest.mark.parametrize("impl", ["reference", "torch"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def latents(batch: int, height: int, width: int, dtype: torch.dtype, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    offset = torch.tensor([0.0, 3.0, -20.0, 0.1])[:, None, None]
    scale = torch.tensor([1.0, 0.1, 5.0, 2.0])[:, None, None]
    return (torch.randn(batch, 4, height, width, generator=g) * scale + offset).to(dtype)


def label_map(batch: int, height: int, width: int, pattern: str, seed: int) -> Tensor:
    flat = labels(pattern, batch, height * width, seed)
    return flat.view(*flat.shape[:-1], height, width)


@every_implementation
@every_dtype
@pytest.mark.parametrize("classes", [[0], [1, 2], [0, 1, 2], []], ids=str)
@pytest.mark.parametrize("source_batch", [1, 2])
def test_masked_adain_is_as_accurate_as_plain_pytorch(
    source_batch: int, classes: list[int], dtype: torch.dtype, impl: Implementation
) -> None:
    z, source = latents(2, 9, 7, dtype, 1), latents(source_batch, 8, 11, dtype, 2)
    z_labels = label_map(2, 9, 7, "per image", 3)
    source_labels = label_map(source_batch, 8, 11, "per image", 4)
    out = masked_adain(z, source, z_labels, source_labels, classes=classes, num_classes=3, impl=impl)
    exact = plain.adain(z.double(), source.double(), z_labels, source_labels, classes)
    same = plain.adain(z, source, z_labels, source_labels, classes)
    for b in range(2):
        for c in range(3):
            part = z_labels[b] == c
            assert_as_accurate(out[b][:, part], same[b][:, part], exact[b][:, part], per=(0,))
            if c not in classes:
                assert torch.equal(out[b][:, part], z[b][:, part])


@every_implementation
@pytest.mark.parametrize(
    ("z_pattern", "source_pattern", "changed"),
    [
        ("without 0", "mixed", [1, 2]),
        ("mixed", "without 0", [1, 2]),
        ("one pixel", "mixed", [0]),
        ("mixed", "one pixel", [0]),
        ("all in one", "without 0", [1]),
    ],
)
def test_class_with_fewer_than_two_positions_is_left_unchanged(
    z_pattern: str, source_pattern: str, changed: list[int], impl: Implementation
) -> None:
    z, source = latents(1, 6, 6, torch.float32, 1), latents(1, 6, 6, torch.float32, 2)
    of_z, of_source = label_map(1, 6, 6, z_pattern, 1), label_map(1, 6, 6, source_pattern, 2)
    out = masked_adain(z, source, of_z, of_source, classes=range(3), num_classes=3, impl=impl)
    for c in range(3):
        part = of_z == c
        if c in changed:
            _, mean, variance = plain.statistics(out.flatten(2)[:, None].transpose(2, 3), of_z.flatten(), 3)
            _, wanted, wanted_variance = plain.statistics(
                source.flatten(2)[:, None].transpose(2, 3), of_source.flatten(), 3
            )
            torch.testing.assert_close(mean[:, :, c], wanted[:, :, c], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(variance[:, :, c], wanted_variance[:, :, c], rtol=1e-2, atol=2e-5)
        else:
            assert torch.equal(out[:, :, part], z[:, :, part])


@every_implementation
def test_input_is_kept_and_strides_do_not_matter(impl: Implementation) -> None:
    z = latents(2, 7, 5, torch.float32, 1).transpose(2, 3).contiguous().transpose(2, 3)
    source = latents(1, 5, 7, torch.float32, 2).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    z_labels, source_labels = label_map(1, 7, 5, "mixed", 1), label_map(1, 5, 7, "mixed", 2)
    before = z.clone()
    out = masked_adain(z, source, z_labels, source_labels, classes=[0, 1, 2], num_classes=3, impl=impl)
    assert torch.equal(z, before)
    again = masked_adain(
        z.contiguous(), source.contiguous(), z_labels, source_labels, classes=[0, 1, 2], num_classes=3, impl=impl
    )
    torch.testing.assert_close(out, again)


def test_every_reason_against_masked_adain_is_named_at_once() -> None:
    z = latents(2, 6, 6, torch.float32, 1)
    with pytest.raises(ValueError, match=r"^masked_adain: ") as refusal:
        masked_adain(
            z,
            latents(3, 4, 4, torch.float16, 2),
            label_map(1, 6, 5, "mixed", 1),
            label_map(1, 4, 4, "mixed", 2),
            classes=[0, 7],
            num_classes=2,
            eps=-1.0,
        )
    for part in (
        "dtype",
        "eps",
        "classes [7]",
        "batch must be 1 or 2",
        "z_labels must be",
        "0..2, outside 0..1",
    ):
        assert part in str(refusal.value)
