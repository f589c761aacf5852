"""Train the demonstration UNet and its text encoder on the latents of the finished autoencoder.

Noise prediction under the schedule of SD-1.x (Ho et al., arXiv 2006.11239), weighted by a soft form of min-SNR
(Hang et al., arXiv 2303.09556). The method starts from a painted label map and relies on the swap for all that the map
does not say; a network of this size does not learn that by itself. So most steps rehearse it: the input is a mixture of
the image and its own painted map, the decoder attends to another image of the slide, and the wanted noise is the one
that leads to the image.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from demo.data import CAPTIONS, caption_number
from demo.export import export
from demo.latents import Latents
from demo.sampling import picture_samples
from demo.training import (
    Clock,
    Worker,
    average_gradients,
    cpu_state,
    learning_rate,
    load_checkpoint,
    log,
    save_checkpoint,
    set_learning_rate,
    with_prefix,
)
from model.clip import TextEncoder
from model.config import TextConfig, UNetConfig
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.unet_blocks import KVSource
from model.vae import VAE
from sampler.schedule import cumulative_alphas

DEMO_UNET = UNetConfig(
    block_out_channels=(64, 96, 128, 128), layers_per_block=1, num_heads=4, cross_attention_dim=64, groups=32
)
DEMO_TEXT = TextConfig(width=64, mlp_width=256, layers=2, num_heads=4)


Rehearsal = Literal["plain", "alone", "borrowing"]
_TASKS: tuple[Rehearsal, ...] = get_args(Rehearsal)
"""A step's task: to denoise an image; a mixture of image and map; the mixture with a partner's keys and values."""


@dataclass(frozen=True)
class UNetTraining:
    """The settings of one run; every number of the recipe. Batches are per worker."""

    minutes: float
    rate: float = 5e-4
    ema: float = 0.999
    snr_limit: float = 4.0
    shares: tuple[float, float, float] = (0.3, 0.1, 0.6)  # of plain, alone, borrowing
    map_from: float = 0.3
    map_alone: float = 0.25
    other_stain: float = 0.4
    times: tuple[int, int] = (120, 900)
    contrast: float = 1.67
    report_every: int = 100
    export_minutes: float = 8.0


class Batch(NamedTuple):
    """Latents [B, 4, h, w] in pairs of one slide, timesteps [B] equal within a pair, caption numbers [B].

    ``clean`` are the images, ``mixed`` what is noised in their place where a step rehearses the method.
    """

    clean: Tensor
    mixed: Tensor
    t: Tensor
    captions: Tensor


class Networks(nn.Module):
    """What is trained together."""

    def __init__(self, unet: UNetConfig, text: TextConfig) -> None:
        super().__init__()
        self.unet = UNet(unet)
        self.text_encoder = TextEncoder(text)
        # A caption set this small cannot train a vocabulary: the tokens keep their random vectors.
        self.text_encoder.embeddings.token_embedding.weight.requires_grad_(False)

    def trained(self) -> list[Tensor]:
        """The parameters that the optimiser sees."""
        return [p for p in self.parameters() if p.requires_grad]


def draw_batch(
    rng: np.random.Generator, data: Latents, pairs: int, side: int, run: UNetTraining, task: Rehearsal
) -> Batch:
    """Random square crops of ``pairs`` random pairs of images, on the CPU."""
    _, turns, _, _, height, width = data.values.shape
    clean, mixed, captions = [], [], []
    for pair in rng.integers(0, len(data.kinds) // 2, pairs):
        turn, stain = rng.integers(turns), int(rng.random() < 0.4)
        for index in (2 * pair, 2 * pair + 1):
            top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
            part = (slice(None), slice(top, top + side), slice(left, left + side))
            share = 1.0 if rng.random() < run.map_alone else rng.uniform(run.map_from, 1.0)
            beside = 1 - stain if rng.random() < run.other_stain else stain
            views = data.values[index, turn]
            clean.append(views[stain][part])
            mixed.append(share * data.maps[index, turn][part] + (1.0 - share) * views[beside][part])
            captions.append(caption_number(rng, data.kinds[index]))
    t = torch.from_numpy(rng.integers(*((0, 1000) if task == "plain" else run.times), pairs)).repeat_interleave(2)
    return Batch(torch.stack(clean), torch.stack(mixed), t, torch.tensor(captions))


def denoising_loss(
    unet: UNet, states: Tensor, batch: Batch, noise: Tensor, task: Rehearsal, *, contrast: float, snr_limit: float
) -> Tensor:
    """Weighted squared error of the predicted noise.

    Args:
        states: the captions' text states [captions, 77, W].
        noise: [2, B, 4, h, w]: the inputs' and, where images borrow, their partners'.
        task: what to rehearse. Borrowing is at levels 0 and 1 of the decoder, from the partner's features.
        contrast: of the borrowing attention.
        snr_limit: signal-to-noise ratio about which the weight turns from that of x0 to that of eps.
    """
    alpha_bar = cumulative_alphas().to(noise.device)[batch.t][:, None, None, None]
    signal, deviation = alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()
    noisy = signal * (batch.clean if task == "plain" else batch.mixed) + deviation * noise[0]
    wanted = (noisy - signal * batch.clean) / deviation
    cond = unet.condition(states[batch.captions], batch.t)
    source = None
    if task == "borrowing":
        partner = torch.arange(len(noisy), device=noisy.device) ^ 1
        seen = signal * batch.clean + deviation * noise[1]
        features = {layer: tokens[partner] for layer, tokens in unet.features(seen, cond, (0, 1)).items()}
        # The reference is differentiable at any contrast.
        source = KVSource(features, contrast=contrast, impl="torch" if contrast == 1.0 else "reference")
    error = (unet(noisy, cond, kv_source=source).eps.float() - wanted).square().mean(dim=(1, 2, 3))
    ratio = (alpha_bar / (1.0 - alpha_bar)).flatten()
    weight = snr_limit / (ratio + snr_limit)
    return (weight * error).sum() / weight.sum()


def train_unet(
    live: Networks, run: UNetTraining, latents: tuple[Latents, Latents], vae: VAE, folder: Path, worker: Worker
) -> None:
    """Train until the minutes are spent, from ``folder/unet.safetensors`` if there is one; exports into ``folder``.

    ``latents`` are those of small and of large images.
    """
    average = copy.deepcopy(live)
    checkpoint = folder / "unet.safetensors"
    clock, step = Clock(run.minutes * 60.0), 0
    if checkpoint.exists():
        tensors, clock.spent, step = load_checkpoint(checkpoint)
        live.load_state_dict(with_prefix(tensors, "live."))
        average.load_state_dict(with_prefix(tensors, "average."))
    parameters = live.trained()
    optimizer = torch.optim.AdamW(parameters, run.rate, (0.9, 0.98), weight_decay=1e-3, fused=True)
    begun = step
    rng = np.random.default_rng((worker.rank, step, 7))
    torch.manual_seed(1000 * step + worker.rank)
    ids = Tokenizer()(list(CAPTIONS)).to(worker.device)
    sums: dict[str, list[float]] = {}
    next_export = clock.seconds() + 60.0 * run.export_minutes

    while (fraction := clock.fraction(worker)) < 1.0:
        pairs, side = _shape_of_batch(fraction, step)
        # Drawn from the step's number, so that all workers agree.
        drawn = np.random.default_rng(step)
        task: Rehearsal = _TASKS[int(drawn.choice(3, p=run.shares))]
        # Maps of all queries against all keys are small enough on small grids alone.
        contrast = run.contrast if side == 16 and drawn.random() < 0.4 else 1.0
        drawn_batch = draw_batch(rng, latents[int(side > 32)], pairs, side, run, task)
        batch = Batch(*(tensor.to(worker.device) for tensor in drawn_batch))
        set_learning_rate(optimizer, learning_rate(run.rate, fraction, step - begun, warmup=100))
        noise = torch.randn(2, *batch.clean.shape, device=worker.device)
        with torch.autocast(worker.device.type, torch.bfloat16):
            states = live.text_encoder(ids)
            loss = denoising_loss(live.unet, states, batch, noise, task, contrast=contrast, snr_limit=run.snr_limit)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(parameters, worker)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(run.ema, (1.0 + step) / (10.0 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average.trained(), parameters, 1.0 - decay)
        step += 1
        sums.setdefault(f"{side} {task}", []).append(loss.item())
        if worker.first and step % run.report_every == 0:
            means = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in sorted(sums.items()))
            log(folder, "unet", f"unet step {step} at {fraction:.3f}: {means}")
            sums.clear()
        if worker.first and clock.seconds() >= next_export:
            next_export = clock.seconds() + 60.0 * run.export_minutes
            _keep(live, average, vae, folder, clock, step)
    if worker.first:
        _keep(live, average, vae, folder, clock, step)


def _shape_of_batch(fraction: float, step: int) -> tuple[int, int]:
    """Pairs and side: small grids first, since they give more steps, then larger ones for the wide layout."""
    if fraction < 0.35:
        return (8, 16) if step % 3 else (3, 32)
    if step % 24 == 0:
        return 1, 64
    return (3, 32) if step % 3 else (8, 16)


@torch.no_grad()
def _keep(live: Networks, average: Networks, vae: VAE, folder: Path, clock: Clock, step: int) -> None:
    """Checkpoint, export of the averaged weights, and a sheet of samples."""
    tensors = cpu_state(live, "live.") | cpu_state(average, "average.")
    save_checkpoint(folder / "unet.safetensors", tensors, clock, step)
    export(folder / "export", average.unet, vae, average.text_encoder)
    path = folder / "pictures" / f"unet_{step:06d}.png"
    picture_samples(path, average.unet, average.text_encoder, vae)
    log(folder, "unet", f"unet step {step}: exported, samples in {path.name}")
