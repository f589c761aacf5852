"""Training and export of the demonstration weights, on configurations of toy size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from torch import Tensor

from dataset.tissue import draw_tissue
from demo.data import CAPTIONS, Dataset
from demo.export import export
from demo.latents import Latents, encode_turns, fold_normalisation, moments, paint
from demo.losses import opponent_colours, psnr, reconstruction_loss
from demo.train_unet import Batch, Networks, Rehearsal, UNetTraining, denoising_loss, draw_batch
from demo.train_vae import crops
from demo.training import Clock, Worker, learning_rate, load_checkpoint, save_checkpoint, to_tensor
from model import load
from model.config import TextConfig, UNetConfig, VAEConfig
from model.tokenizer import Tokenizer
from model.unet import Prediction
from model.vae import VAE
from sampler.schedule import cumulative_alphas

CPU = Worker(rank=0, count=1, device=torch.device("cpu"))
TINY_VAE = VAEConfig(block_out_channels=(8, 8, 16, 16), layers_per_block=1, groups=4)
TINY_UNET = UNetConfig(
    block_out_channels=(16, 16, 16, 16), layers_per_block=1, num_heads=2, cross_attention_dim=16, groups=8
)
TINY_TEXT = TextConfig(width=16, mlp_width=32, layers=1, num_heads=2)


@pytest.fixture(scope="module")
def tissue() -> Dataset:
    images, labels = zip(*(draw_tissue(np.random.default_rng(seed), 64) for seed in range(6)), strict=True)
    return Dataset(np.stack(images), np.stack(labels), ("membrane",) * 4 + ("mask",) * 2)


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
    assert latents.values.shape == (6, 2, 2, 4, 8, 8)
    assert latents.maps.shape == (6, 2, 4, 8, 8)
    with torch.no_grad():
        straight = vae.encode(to_tensor(tissue.images, CPU.device))
    torch.testing.assert_close(latents.values[:, 0, 0], straight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(latents.maps[4:, 0], straight[4:], rtol=1e-4, atol=1e-5)
    assert (latents.values[:4, :, 0] - latents.values[:4, :, 1]).abs().amax((2, 3, 4)).min() > 1e-3
    changed = Latents(latents.values.clone(), latents.maps, latents.kinds)
    changed.values[4:] += 100.0
    torch.testing.assert_close(moments(changed), moments(latents))


def test_a_map_is_painted_as_the_method_paints_it() -> None:
    labels = np.kron(np.arange(3, dtype=np.uint8).reshape(1, 3), np.ones((16, 16), np.uint8))
    tones = []
    for seed in range(60):
        levels = (paint(labels, np.random.default_rng(seed))[0].mean(dim=(0, 1)).reshape(3, 16).mean(1) + 1) / 2
        tones.append(levels.tolist())
    assert {tuple(round(level, 1) for level in found) for found in tones} == {(0.1, 0.3, 0.5), (0.5, 0.3, 0.1)}


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
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(images, 2, 2, 4, 16, 16, generator=generator)
    return Latents(values, torch.randn(images, 2, 4, 16, 16, generator=generator), ("membrane",) * images)


RUN = UNetTraining(minutes=1.0)


def _batch_and_states(networks: Networks, task: Rehearsal) -> tuple[Batch, Tensor, Tensor]:
    batch = draw_batch(np.random.default_rng(0), _random_latents(), 4, 8, RUN, task)
    states = networks.text_encoder(Tokenizer()(list(CAPTIONS)))
    noise = torch.randn(2, *batch.clean.shape, generator=torch.Generator().manual_seed(1))
    return batch, states, noise


@pytest.mark.parametrize("contrast", [1.0, 1.67])
@pytest.mark.parametrize("task", get_args(Rehearsal))
def test_a_few_steps_of_denoising_reduce_the_loss(task: Rehearsal, contrast: float) -> None:
    torch.manual_seed(0)
    networks = Networks(TINY_UNET, TINY_TEXT)
    optimizer = torch.optim.AdamW(networks.trained(), 3e-3)
    losses = []
    for _ in range(12):
        batch, states, noise = _batch_and_states(networks, task)
        loss = denoising_loss(networks.unet, states, batch, noise, task, contrast=contrast, snr_limit=4.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("task", get_args(Rehearsal))
def test_only_who_borrows_sees_the_partner(task: Rehearsal) -> None:
    torch.manual_seed(0)
    networks = Networks(TINY_UNET, TINY_TEXT)
    batch, states, noise = _batch_and_states(networks, task)
    pair = Batch(batch.clean[:2], batch.mixed[:2], batch.t[:2], batch.captions[:2])
    partners = (torch.cat([tensor[:1], tensor[3:4]]) for tensor in (batch.clean, batch.mixed))
    stranger = Batch(*partners, pair.t, pair.captions)
    predictions: list[Tensor] = []
    handle = networks.unet.conv_out.register_forward_hook(
        lambda _module, _inputs, out: predictions.append(out[0].detach())
    )
    for each in (pair, stranger):
        denoising_loss(networks.unet, states, each, noise[:, :2], task, contrast=1.0, snr_limit=4.0)
    handle.remove()
    difference = float((predictions[0] - predictions[1]).abs().max())
    # A batch's rows may be summed in another order: rounding is not influence.
    assert difference > 1e-4 if task == "borrowing" else difference < 1e-5


@pytest.mark.parametrize("task", get_args(Rehearsal))
def test_the_wanted_noise_leads_from_the_input_to_the_image(task: Rehearsal) -> None:
    batch, states, noise = _batch_and_states(Networks(TINY_UNET, TINY_TEXT), task)
    seen: list[Tensor] = []

    def predict(noisy: Tensor, cond: object, kv_source: object) -> Prediction:
        # The true answer: the input less the image, by the schedule.
        alpha_bar = cumulative_alphas()[batch.t][:, None, None, None]
        seen.append(noisy)
        return Prediction((noisy - alpha_bar.sqrt() * batch.clean) / (1 - alpha_bar).sqrt(), {})

    unet = MagicMock(side_effect=predict)
    unet.features.return_value = {}
    loss = denoising_loss(unet, states, batch, noise, task, contrast=1.0, snr_limit=4.0)
    assert float(loss) < 1e-10
    alpha_bar = cumulative_alphas()[batch.t][:, None, None, None]
    clean = batch.clean if task == "plain" else batch.mixed
    torch.testing.assert_close(seen[0], alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise[0])


def test_mixtures_lie_between_image_and_map() -> None:
    latents = _random_latents()
    run = replace(RUN, map_from=1.0, map_alone=0.0)
    whole = draw_batch(np.random.default_rng(3), latents, 5, 16, run, "borrowing")
    assert all(any(torch.equal(mixed, of) for of in latents.maps.flatten(0, 1)) for mixed in whole.mixed)
    run = replace(RUN, map_from=0.0, map_alone=0.0, other_stain=0.0)
    drawn = draw_batch(np.random.default_rng(3), latents, 5, 16, run, "borrowing")
    for mixed, clean in zip(drawn.mixed, drawn.clean, strict=True):
        index = next(i for i, of in enumerate(latents.values.flatten(0, 2)) if torch.equal(clean, of))
        drift = mixed - clean
        towards = latents.maps.flatten(0, 1)[index // 2] - clean
        share = float((drift * towards).sum() / towards.square().sum())
        assert 0.0 <= share <= 1.0
        torch.testing.assert_close(drift, share * towards, rtol=1e-4, atol=1e-5)


def test_pairs_share_their_timestep() -> None:
    batch = draw_batch(np.random.default_rng(3), _random_latents(), 5, 8, RUN, "plain")
    assert torch.equal(batch.t[0::2], batch.t[1::2])
    assert len(batch.t.unique()) > 1
    rehearsed = draw_batch(np.random.default_rng(3), _random_latents(), 400, 8, RUN, "borrowing").t
    assert RUN.times[0] <= int(rehearsed.min()) < int(rehearsed.max()) < RUN.times[1]


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
