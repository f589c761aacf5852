"""Training and export of the demonstration weights, on configurations of toy size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.tissue import draw_tissue
from demo.data import CAPTIONS, Dataset
from demo.export import export
from demo.latents import Latents, encode_turns, fold_normalisation, moments
from demo.losses import opponent_colours, psnr, reconstruction_loss
from demo.train_unet import Batch, Networks, denoising_loss, draw_batch
from demo.train_vae import crops
from demo.training import Clock, Worker, learning_rate, load_checkpoint, save_checkpoint, to_tensor
from model import load
from model.config import TextConfig, UNetConfig, VAEConfig
from model.tokenizer import Tokenizer
from model.vae import VAE

CPU = Worker(rank=0, count=1, device=torch.device("cpu"))
TINY_VAE = VAEConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, groups=4)
TINY_UNET = UNetConfig(
    block_out_channels=(16, 16, 16, 16), layers_per_block=1, num_heads=2, cross_attention_dim=16, groups=8
)
TINY_TEXT = TextConfig(width=16, mlp_width=32, layers=1, num_heads=2)


@pytest.fixture(scope="module")
def tissue() -> Dataset:
    images = np.stack([draw_tissue(np.random.default_rng(seed), 64)[0] for seed in range(6)])
    return Dataset(images, ("membrane",) * 4 + ("mask",) * 2)


def test_folding_gives_zero_mean_and_unit_deviation_and_the_same_reconstruction(tissue: Dataset) -> None:
    torch.manual_seed(0)
    vae = VAE(TINY_VAE).double()
    target = to_tensor(tissue.images, CPU.device).double()
    before_log_variance = vae.posterior(target)[1]
    before_image = vae.decode(vae.encode(target))
    latents = vae.encode(target)
    mean, deviation = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    fold_normalisation(vae, mean, deviation)
    folded = vae.encode(target)
    torch.testing.assert_close(folded.mean(dim=(0, 2, 3)), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(folded.std(dim=(0, 2, 3)), torch.ones(4, dtype=torch.float64), rtol=1e-9, atol=0)
    torch.testing.assert_close(vae.decode(folded), before_image, rtol=1e-9, atol=1e-9)
    shift = vae.posterior(target)[1] - before_log_variance
    expected = (-2.0 * deviation.log())[None, :, None, None].expand_as(shift)
    torch.testing.assert_close(shift, expected, rtol=1e-9, atol=1e-9)


def test_turns_are_encoded_in_order_and_masks_do_not_count(tissue: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = VAE(TINY_VAE)
    latents = encode_turns(vae, tissue, 2, seed=0, worker=CPU, scratch=tmp_path)
    assert latents.values.shape == (6, 2, 4, 8, 8)
    with torch.no_grad():
        straight = vae.encode(to_tensor(tissue.images, CPU.device))
    torch.testing.assert_close(latents.values[:, 0], straight, rtol=1e-4, atol=1e-5)
    changed = Latents(latents.values.clone(), latents.kinds)
    changed.values[4:] += 100.0
    torch.testing.assert_close(moments(changed), moments(latents))


def test_a_few_steps_of_autoencoding_reduce_the_loss(tissue: Dataset) -> None:
    torch.manual_seed(0)
    vae, rng = VAE(TINY_VAE), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(vae.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        target = to_tensor(crops(rng, tissue, 4, 32), CPU.device)
        loss = reconstruction_loss(vae.decode(vae.encode(target)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def _random_latents(images: int = 8) -> Latents:
    values = torch.randn(images, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    return Latents(values, ("membrane",) * images)


def _batch_and_states(networks: Networks) -> tuple[Batch, Tensor, Tensor]:
    batch = draw_batch(np.random.default_rng(0), _random_latents(), 4, 8, CPU.device)
    states = networks.text_encoder(Tokenizer()(list(CAPTIONS)))
    noise = torch.randn(batch.clean.shape, generator=torch.Generator().manual_seed(1))
    return batch, states, noise


@pytest.mark.parametrize("swapped", [False, True])
def test_a_few_steps_of_denoising_reduce_the_loss(swapped: bool) -> None:
    torch.manual_seed(0)
    networks = Networks(TINY_UNET, TINY_TEXT)
    optimizer = torch.optim.AdamW(networks.trained(), 3e-3)
    losses = []
    for _ in range(12):
        batch, states, noise = _batch_and_states(networks)
        loss = denoising_loss(networks.unet, states, batch, noise, swapped=swapped, snr_limit=4.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("swapped", [False, True])
def test_only_the_swapped_pass_sees_the_partner(swapped: bool) -> None:
    torch.manual_seed(0)
    networks = Networks(TINY_UNET, TINY_TEXT)
    batch, states, noise = _batch_and_states(networks)
    pair = Batch(batch.clean[:2], batch.t[:2], batch.captions[:2])
    stranger = Batch(torch.cat([pair.clean[:1], batch.clean[3:4]]), pair.t, pair.captions)
    predictions: list[Tensor] = []
    handle = networks.unet.conv_out.register_forward_hook(
        lambda _module, _inputs, out: predictions.append(out[0].detach())
    )
    for each in (pair, stranger):
        denoising_loss(networks.unet, states, each, noise[:2], swapped=swapped, snr_limit=4.0)
    handle.remove()
    difference = float((predictions[0] - predictions[1]).abs().max())
    # A batch's rows may be summed in another order: rounding is not influence.
    assert difference > 1e-4 if swapped else difference < 1e-5


def test_pairs_share_their_timestep() -> None:
    batch = draw_batch(np.random.default_rng(3), _random_latents(), 5, 8, CPU.device)
    assert torch.equal(batch.t[0::2], batch.t[1::2])
    assert len(batch.t.unique()) > 1


def test_token_vectors_are_not_trained() -> None:
    networks = Networks(TINY_UNET, TINY_TEXT)
    token = networks.text_encoder.embeddings.token_embedding.weight
    assert all(parameter is not token for parameter in networks.trained())


def test_grey_has_no_opponent_colour_and_hue_drift_costs() -> None:
    grey = torch.full((1, 3, 16, 16), 0.2)
    assert float(opponent_colours(grey).abs().max()) == 0.0
    brown = torch.tensor([0.2, -0.3, -0.7])[None, :, None, None].expand(1, 3, 16, 16)
    olive = brown.roll(1, dims=1)
    assert float(reconstruction_loss(olive, brown)) > float(reconstruction_loss(brown * 0.99, brown))
    assert psnr(brown, brown) == pytest.approx(100.0)


def test_learning_rate_warms_up_and_ends_near_zero() -> None:
    assert learning_rate(1.0, 0.0, 0, 100) == pytest.approx(0.01)
    assert learning_rate(1.0, 0.0, 99, 100) == pytest.approx(1.0)
    assert learning_rate(1.0, 1.0, 10**6, 100) == pytest.approx(0.01)


def test_checkpoint_keeps_tensors_seconds_and_steps(tmp_path: Path) -> None:
    clock = Clock(budget=100.0, spent=40.0)
    save_checkpoint(tmp_path / "a.safetensors", {"x": torch.arange(3.0)}, clock, 17)
    tensors, seconds, step = load_checkpoint(tmp_path / "a.safetensors")
    assert torch.equal(tensors["x"], torch.arange(3.0))
    assert 40.0 <= seconds < 100.0
    assert step == 17
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_exported_folder_is_read_back_by_the_loader(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks, vae = Networks(TINY_UNET, TINY_TEXT), VAE(TINY_VAE)
    size = export(tmp_path / "weights", networks.unet, vae, networks.text_encoder)
    files = sum(path.stat().st_size for path in (tmp_path / "weights").rglob("*.safetensors"))
    assert size == files
    loaded = load(tmp_path / "weights")
    assert loaded.config.unet == TINY_UNET
    assert loaded.config.vae == TINY_VAE
    assert loaded.config.text == TINY_TEXT
    for original, read in ((networks.unet, loaded.unet), (vae, loaded.vae)):
        for (name, value), (other, found) in zip(original.state_dict().items(), read.state_dict().items(), strict=True):
            assert name == other
            torch.testing.assert_close(found, value.half().float(), rtol=0, atol=0)


def test_a_weight_beyond_float16_is_refused(tmp_path: Path) -> None:
    networks, vae = Networks(TINY_UNET, TINY_TEXT), VAE(TINY_VAE)
    with torch.no_grad():
        networks.unet.conv_in.weight[0, 0, 0, 0] = 1e6
    with pytest.raises(ValueError, match="float16"):
        export(tmp_path, networks.unet, vae, networks.text_encoder)
