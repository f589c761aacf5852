"""Ways of computing the same numbers faster or in less memory: fused projections, other layouts, chunks of rows."""

from __future__ import annotations

import copy

import pytest
import torch

from model.layers import ResnetBlock, Upsample, normalise
from model.unet_blocks import KVSource
from model.vae_rows import output_in_row_chunks, resnet_in_row_chunks, upsample_in_row_chunks
from tests.conftest import build_tiny


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@torch.no_grad()
def test_fused_projections_and_other_layouts_give_the_same_prediction():
    unet = build_tiny(torch.float64).unet
    z, context = randn(1, 2, 4, 16, 8), randn(2, 1, 77, 12)
    fused, last = copy.deepcopy(unet), copy.deepcopy(unet).to(memory_format=torch.channels_last)
    fused.fuse()
    features = unet.features(z.flip(0), unet.condition(context, 300), (0, 1))
    for source in (None, KVSource(features, 1.67, "torch")):
        expected = unet(z, 300, context, kv_source=source)
        assert expected.std() > 1e-3
        for other in (fused, last):
            torch.testing.assert_close(other(z, 300, context, kv_source=source), expected, rtol=1e-9, atol=1e-9)


def test_fused_projections_keep_the_parameters_and_hold_them_once():
    unet = build_tiny(torch.float32).unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    unet.fuse()
    after = unet.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    attention = unet.mid_block.attentions[0].block.attn1
    assert attention.to_v.weight.untyped_storage().data_ptr() == attention.fused.untyped_storage().data_ptr()


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
@pytest.mark.parametrize("channels", [(8, 8), (8, 16), (8, 4)])
@torch.no_grad()
def test_convolutions_in_row_chunks_are_those_of_the_whole(rows, channels):
    torch.manual_seed(0)
    block = ResnetBlock(*channels, groups=4, eps=1e-6, time_embed_dim=None).double()
    for norm in (block.norm1, block.norm2):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    x = randn(3, 2, 8, 11, 7) * 3 + 50
    expected = block(x, None, "torch")
    torch.testing.assert_close(resnet_in_row_chunks(block, x.clone(), rows), expected, rtol=1e-9, atol=1e-9)
    upsample = Upsample(8).double()
    torch.testing.assert_close(upsample_in_row_chunks(upsample, x, rows), upsample(x), rtol=1e-9, atol=1e-9)
    last = x.clone(memory_format=torch.channels_last)
    alone = last[:1].clone(memory_format=torch.channels_last)  # its memory takes the result
    torch.testing.assert_close(resnet_in_row_chunks(block, last, rows), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(resnet_in_row_chunks(block, alone, rows), expected[:1], rtol=1e-9, atol=1e-9)
    whole = block.conv1(normalise(block.norm1, x, silu=True, impl="torch"))
    torch.testing.assert_close(output_in_row_chunks(block.norm1, block.conv1, x, rows), whole, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [64, 3000])
@torch.no_grad()
def test_an_image_in_row_chunks_is_the_one_as_a_whole(chunk):
    vae, latents, image = build_tiny(torch.float64).vae, randn(4, 2, 4, 6, 9), randn(5, 2, 3, 48, 72)
    kept = latents.clone(), image.clone()
    torch.testing.assert_close(vae.decode(latents, chunk=chunk), vae.decode(latents), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(vae.encode(image, chunk=chunk), vae.encode(image), rtol=1e-9, atol=1e-9)
    assert torch.equal(latents, kept[0])
    assert torch.equal(image, kept[1])


@torch.no_grad()
def test_large_images_go_through_in_row_chunks_and_others_as_a_whole(monkeypatch):
    vae, banded = build_tiny(torch.float32).vae, []
    monkeypatch.setattr(
        "model.vae.resnet_in_row_chunks", lambda *args: banded.append(True) or resnet_in_row_chunks(*args)
    )
    for side, expected in ((32, False), (40, True)):
        vae.decode(torch.zeros(1, 4, side, side))
        assert bool(banded) == expected
        banded.clear()
        vae.encode(torch.zeros(1, 3, 8 * side, 8 * side))
        assert bool(banded) == expected
        banded.clear()
