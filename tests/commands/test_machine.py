"""Batch size and room from free memory."""

from __future__ import annotations

import pytest
import torch

from commands import machine
from commands.machine import choose_batch, choose_budget, choose_dtype, read_batch_size, unet_bytes
from imaging.errors import InputError
from model import transformer
from model.config import SD15, ModelConfig, UNetConfig
from model.unet import UNet
from model.unet_blocks import KVSource
from sampler.feature_cache import feature_bytes
from tests.allocations import peak_extra_bytes

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def test_the_unets_memory_is_estimated_within_a_factor_of_two(monkeypatch):
    # As on a GPU: float64 keeps oneDNN out, and no feed-forward layer takes its tokens in blocks.
    monkeypatch.setattr(transformer, "CPU_ROWS", 10**9)
    config = ModelConfig(unet=UNetConfig(block_out_channels=(64, 128, 256, 256), cross_attention_dim=32))
    unet, context = UNet(config.unet).double().requires_grad_(False), torch.randn(1, 77, 32).double()
    condition = unet.condition(context, 500)

    def both_passes(batch: int) -> float:
        z = torch.randn(batch, 4, 32, 32).double()
        with torch.inference_mode():
            source = KVSource(unet.features(z, condition, (0, 1)), 1.67, "torch")

            return peak_extra_bytes(lambda: unet.self_and_cross(z, condition, source))

    each = (both_passes(6) - both_passes(2)) / 4
    ratio = unet_bytes(config, 256, 256, torch.float64) / each
    assert 0.5 <= ratio <= 2.0, ratio


def test_a_batch_fits_in_half_of_the_free_memory(monkeypatch):
    for free, expected in ((80 * 10**9, 16), (3 * 10**9, 9), (10**9, 3), (10**6, 1)):
        monkeypatch.setattr(machine, "free_bytes", lambda device, free=free: free)
        batch = choose_batch(SD15, [(512, 512)], torch.float16, GPU)
        assert batch == expected
        each = unet_bytes(SD15, 512, 512, torch.float16) + 6 * feature_bytes(SD15.unet, 4096, (0, 1), torch.float16)
        assert batch == 1 or batch * each <= free / 2
    assert choose_batch(SD15, [(512, 512), (1024, 1024)], torch.float16, GPU) == 1


def test_sd15s_features_at_512_px_are_a_half_of_its_keys_and_values():
    # 23.6 MB of keys and values a step in half precision, 1.2 GB in 50 steps; their inputs are half as much.
    assert feature_bytes(SD15.unet, 4096, (0, 1), torch.float16) == pytest.approx(23.6e6 / 2, rel=1e-2)


def test_room_is_read_from_text_or_from_free_memory(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda device: 8 * 10**9)
    assert choose_budget("0", CPU).device == 0
    assert choose_budget("auto", CPU).device == 2 * 10**9
    assert (choose_budget("auto", GPU).device, choose_budget("auto", GPU).host) == (2 * 10**9, 2 * 10**9)
    parsed = choose_budget("device=1.5GB, disk=20GB", CPU)
    assert (parsed.device, parsed.host, parsed.disk) == (1_500_000_000, 0, 20 * 10**9)
    for text in ("1GB", "device=1", "device=1GB,device=2GB", "attic=1GB", "device=-1GB", ""):
        with pytest.raises(InputError, match="--cache"):
            choose_budget(text, CPU)


def test_a_batch_size_is_auto_or_a_number():
    assert read_batch_size("auto") is None
    assert read_batch_size("7") == 7
    for text in ("0", "-1", "1.5", "many", ""):
        with pytest.raises(InputError, match="--batch-size"):
            read_batch_size(text)


@pytest.mark.parametrize(("capability", "expected"), [("avx512_bf16", torch.bfloat16), ("avx2", torch.float32)])
def test_bfloat16_is_the_default_of_processors_that_multiply_it(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    assert choose_dtype("auto", CPU) == expected
    assert choose_dtype("auto", GPU) == torch.float16
