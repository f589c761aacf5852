"""The autoencoder in bands: the image is the same, and its widest features are held nowhere."""

from __future__ import annotations

import pytest
import torch

from model import vae as vae_module
from model.config import VAEConfig
from model.vae import VAE
from model.vae_rows import Statistics
from tests.allocations import peak_extra_bytes
from tests.conftest import build_tiny


def randn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("held", [0, 100_000, 300_000], ids=["nothing", "half", "all but the widest"])
@pytest.mark.parametrize("band", [300, 5000])
@torch.no_grad()
def test_an_image_in_bands_is_the_one_as_a_whole(held, band, monkeypatch):
    vae, latents, image = build_tiny(torch.float64).vae, randn(4, 2, 4, 5, 9), randn(5, 2, 3, 40, 72)
    expected, kept = (vae.decode(latents), vae.encode(image)), (latents.clone(), image.clone())
    monkeypatch.setattr(vae_module, "LARGEST_HELD", held)
    monkeypatch.setattr(vae_module, "BAND", band)
    monkeypatch.setattr(vae_module.UpStage, "forward", None)  # the way without bands would not do
    monkeypatch.setattr(vae_module.DownStage, "forward", None)
    torch.testing.assert_close(vae.decode(latents), expected[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(vae.encode(image), expected[1], rtol=1e-9, atol=1e-9)
    assert torch.equal(latents, kept[0])
    assert torch.equal(image, kept[1])


@torch.no_grad()
def test_bands_of_a_packed_autoencoder_round_as_the_whole_does(monkeypatch):
    exact, packed = build_tiny(torch.float64), build_tiny(torch.float32)
    packed.prepack()
    latents = randn(6, 1, 4, 12, 8)
    truth = exact.vae.decode(latents)
    whole = (packed.vae.decode(latents.float()) - truth).norm()
    monkeypatch.setattr(vae_module, "LARGEST_HELD", 0)
    monkeypatch.setattr(vae_module, "BAND", 5000)
    assert (packed.vae.decode(latents.float()) - truth).norm() <= 2 * whole


def test_fields_go_in_bands_and_other_images_do_not(monkeypatch):
    vae, banded = build_tiny(torch.float32).vae, []
    for part in (vae_module.Encoder, vae_module.Decoder):
        monkeypatch.setattr(part, "_in_bands", lambda self, x: banded.append(True) or x)
        monkeypatch.setattr(part, "conv_out", lambda self, x: x, raising=False)
    monkeypatch.setattr(vae_module, "LARGEST_HELD", 4 * 8 * 64 * 64)
    for side, expected in ((8, False), (16, True)):
        with torch.no_grad():
            vae.decode(torch.zeros(1, 4, side, side))
        assert bool(banded) == expected
        banded.clear()


@torch.no_grad()
def test_what_is_held_does_not_grow_with_the_image(monkeypatch):
    torch.manual_seed(0)
    vae = VAE(VAEConfig(block_out_channels=(16, 32, 32, 32), groups=4)).eval()

    # Its blocks of scores are as large as all the rest of so small an image.
    monkeypatch.setattr(vae_module.GridAttention, "forward", lambda self, x, impl: x)

    def peaks(height: int) -> list[int]:
        latents, image = torch.zeros(1, 4, height, 8), torch.zeros(1, 3, 8 * height, 64)
        return [peak_extra_bytes(lambda: vae.decode(latents)), peak_extra_bytes(lambda: vae.encode(image))]

    whole = peaks(96)
    monkeypatch.setattr(vae_module, "BAND", 32 * 64 * 64)
    monkeypatch.setattr(vae_module, "LARGEST_HELD", 4 * 32 * 96 * 16)
    small, large = peaks(48), peaks(96)
    for some, more, all_held in zip(small, large, whole, strict=True):
        assert more < 1.4 * some, (small, large)
        assert more < all_held / 2, (large, whole)


def test_statistics_of_no_rows_are_refused():
    with pytest.raises(ValueError, match="no rows"):
        Statistics(4).result()
