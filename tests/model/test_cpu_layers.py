"""Networks packed for the CPU: the same numbers to rounding, in layouts of oneDNN."""

from __future__ import annotations

import copy
import platform

import pytest
import torch

import model.transformer
from model.cpu_layers import Conv2d, pack_convolutions
from model.transformer import FeedForward
from model.unet_blocks import KVSource
from tests.conftest import build_tiny

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64" or not torch.backends.mkldnn.is_available(), reason="no oneDNN here"
)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolutions(network: torch.nn.Module) -> list[Conv2d]:
    return [layer for layer in network.modules() if isinstance(layer, Conv2d)]


@torch.no_grad()
def test_a_packed_unet_predicts_the_same():
    unet = build_tiny(torch.float32).unet
    packed, exact = copy.deepcopy(unet), copy.deepcopy(unet).double()
    pack_convolutions(packed)
    assert all((layer.packed is None) == (layer.kernel_size == (1, 1)) for layer in convolutions(packed))
    z, context = drawn(1, 2, 4, 16, 8), drawn(2, 1, 77, 12)
    features = exact.features(z.double().flip(0), exact.condition(context.double(), 300), (0, 1))
    narrow = {layer: tokens.float() for layer, tokens in features.items()}
    for source, same in ((None, None), (KVSource(features, 1.67, "torch"), KVSource(narrow, 1.67, "torch"))):
        expected = exact(z.double(), 300, context.double(), kv_source=source)
        ours, theirs = (
            (network(z, 300, context, kv_source=same).double() - expected).norm() for network in (packed, unet)
        )
        assert expected.std() > 1e-3
        assert ours <= 2 * theirs + torch.finfo(torch.float32).eps * expected.norm()


@pytest.mark.parametrize("chunk", [None, 500])
@torch.no_grad()
def test_a_packed_autoencoder_gives_the_same(chunk):
    vae = build_tiny(torch.float32).vae
    packed, exact = copy.deepcopy(vae), copy.deepcopy(vae).double()
    pack_convolutions(packed)
    latents, image = drawn(3, 1, 4, 6, 9), drawn(4, 1, 3, 48, 72)
    for name, x in (("decode", latents), ("encode", image)):
        expected = getattr(exact, name)(x.double())
        ours, theirs = (
            (getattr(network, name)(x, chunk=chunk).double() - expected).norm() for network in (packed, vae)
        )
        assert ours <= 2 * theirs + torch.finfo(torch.float32).eps * expected.norm()


def test_packing_leaves_no_second_copy_and_other_types_alone():
    loaded = build_tiny(torch.float32)
    loaded.prepack()
    loaded.prepack()
    for network in (loaded.unet, loaded.vae):
        spatial = [layer for layer in convolutions(network) if layer.kernel_size != (1, 1)]
        assert spatial
        assert all(layer.weight is None and layer.packed is not None for layer in spatial)
    wide = build_tiny(torch.float64)
    before = {name: tensor.clone() for name, tensor in wide.unet.state_dict().items()}
    wide.prepack()
    after = wide.unet.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@torch.no_grad()
def test_tokens_go_through_a_feed_forward_layer_in_blocks(monkeypatch):
    torch.manual_seed(0)
    layer = FeedForward(24).double()
    x = drawn(5, 2, 50, 24).double()
    expected = layer(x, "torch")
    monkeypatch.setattr(model.transformer, "CPU_ROWS", 7)
    torch.testing.assert_close(layer(x, "torch"), expected, rtol=1e-12, atol=1e-12)
    assert layer(x, "torch").shape == x.shape
    error = (layer.float()(x.float(), "torch").double() - expected).norm() / expected.norm()
    assert error < 8 * torch.finfo(torch.float32).eps
