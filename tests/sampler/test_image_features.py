"""Diffusion features: what diffusers' decoder sees before its self-attention, averaged."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sampler.execution import Execution
from sampler.image_features import ImageFeatures
from sampler.schedule import cumulative_alphas

SEED = 5


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)


@pytest.mark.parametrize("t", [0, 250, 999])
def test_they_are_the_means_of_what_the_decoders_self_attention_looks_at(tiny_pair, image, t: int) -> None:
    ours, theirs = tiny_pair(torch.float64)
    features = ImageFeatures.of(ours, t, SEED, Execution())
    seen: list[torch.Tensor] = []
    for block in theirs.unet.up_blocks:
        for attention in getattr(block, "attentions", []):
            norm = attention.transformer_blocks[0].norm1
            norm.register_forward_hook(lambda module, inputs, output: seen.append(output))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].double() / 127.5 - 1
    with torch.inference_mode():
        clean = theirs.vae.encode(pixels).latent_dist.mean * 0.18215
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(SEED)).double()
        alpha_bar = cumulative_alphas()[t].double()
        tokens = ours.tokenizer([""])
        text = theirs.text_encoder(tokens).last_hidden_state
        theirs.unet(alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise, t, text)
    expected = torch.cat([each[0].mean(dim=0) for each in seen])
    found = features(image)
    assert found.dtype == np.float32
    assert found.shape == (features.width,)
    # Pixels come to the networks in float32, 2^-24 of 1, and so do the results.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_they_depend_on_image_noise_level_and_seed_alone(tiny, image) -> None:
    first = ImageFeatures.of(tiny, 250, SEED, Execution())
    base = first(image)
    np.testing.assert_array_equal(first(image), base)
    np.testing.assert_array_equal(ImageFeatures.of(tiny, 250, SEED, Execution())(image), base)
    others = [ImageFeatures.of(tiny, 251, SEED, Execution())(image), first(255 - image)]
    others.append(ImageFeatures.of(tiny, 250, SEED + 1, Execution())(image))
    assert all(np.abs(other - base).max() > 1e-4 for other in others)


def test_sides_that_the_networks_cannot_take_are_refused(tiny, image) -> None:
    features = ImageFeatures.of(tiny, 250, SEED, Execution())
    assert features.multiple == 64
    with pytest.raises(ValueError, match="multiples of"):
        features(image[:60])
