"""Train the demonstration UNet and its text encoder on the latents of the finished autoencoder.

Noise prediction under the schedule of SD-1.x (Ho et al., arXiv 2006.11239), weighted by a soft form of min-SNR
(Hang et al., arXiv 2303.09556). In part of the steps the decoder attends to the keys and values of another image of the
same slide at the same noise level, as the method does, so that the network learns to take an appearance over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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


@dataclass(frozen=True)
class UNetTraining:
    """The settings of one run; every number of the recipe. Batches are per worker."""

    minutes: float
    rate: float = 8e-4
    ema: float = 0.999
    snr_limit: float = 4.0
    swap_share: float = 0.25
    swap_from: float = 0.12
    report_every: int = 100
    export_minutes: float = 6.0


class Batch(NamedTuple):
    """Clean latents [B, 4, h, w] in pairs of one slide, timesteps [B] equal within a pair, caption numbers [B]."""

    clean: Tensor
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


def draw_batch(rng: np.random.Generator, data: Latents, pairs: int, side: int, device: torch.device) -> Batch:
    """Random square crops of ``pairs`` random pairs of images."""
    _, turns, _, height, width = data.values.shape
    chosen, captions = [], []
    for pair in rng.integers(0, len(data.kinds) // 2, pairs):
        for index in (2 * pair, 2 * pair + 1):
            top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
            view = data.values[index, rng.integers(turns), :, top : top + side, left : left + side]
            chosen.append(view)
            captions.append(caption_number(rng, data.kinds[index]))
    t = torch.from_numpy(rng.integers(0, 1000, pairs)).repeat_interleave(2)
    return Batch(torch.stack(chosen).to(device), t.to(device), torch.tensor(captions, device=device))


def denoising_loss(
    unet: UNet, states: Tensor, batch: Batch, noise: Tensor, *, swapped: bool, snr_limit: float
) -> Tensor:
    """Weighted squared error of the predicted noise.

    Args:
        states: the captions' text states [captions, 77, W].
        noise: [B, 4, h, w].
        swapped: let every image's decoder attend at levels 0 and 1 to its partner's keys and values.
        snr_limit: signal-to-noise ratio about which the weight turns from that of x0 to that of eps.
    """
    alpha_bar = cumulative_alphas().to(noise.device)[batch.t][:, None, None, None]
    noisy = alpha_bar.sqrt() * batch.clean + (1.0 - alpha_bar).sqrt() * noise
    cond = unet.condition(states[batch.captions], batch.t)
    source = None
    if swapped:
        partner = torch.arange(len(noisy), device=noisy.device) ^ 1
        features = {layer: tokens[partner] for layer, tokens in unet.features(noisy, cond, (0, 1)).items()}
        source = KVSource(features, contrast=1.0, impl="torch")
    error = (unet(noisy, cond, kv_source=source).eps.float() - noise).square().mean(dim=(1, 2, 3))
    ratio = (alpha_bar / (1.0 - alpha_bar)).flatten()
    weight = snr_limit / (ratio + snr_limit)
    return (weight * error).sum() / weight.sum()


def train_unet(
    configs: tuple[UNetConfig, TextConfig],
    run: UNetTraining,
    small: Latents,
    large: Latents,
    vae: VAE,
    folder: Path,
    worker: Worker,
) -> None:
    """Train until the minutes are spent, from ``folder/unet.safetensors`` if there is one; exports into ``folder``."""
    torch.manual_seed(0)
    live = Networks(*configs).to(worker.device)
    average = Networks(*configs).to(worker.device)
    checkpoint = folder / "unet.safetensors"
    clock, step = Clock(run.minutes * 60.0), 0
    average.load_state_dict(live.state_dict())
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
        batch = draw_batch(rng, large if side > small.values.shape[-1] else small, pairs, side, worker.device)
        # Drawn from the step's number, so that all workers agree.
        swapped = fraction > run.swap_from and np.random.default_rng(step).random() < run.swap_share
        set_learning_rate(optimizer, learning_rate(run.rate, fraction, step - begun, warmup=100))
        # On the CPU bfloat16 gains nothing at these widths.
        with torch.autocast(worker.device.type, torch.bfloat16, enabled=worker.device.type == "cuda"):
            loss = denoising_loss(
                live.unet,
                live.text_encoder(ids),
                batch,
                torch.randn_like(batch.clean),
                swapped=swapped,
                snr_limit=run.snr_limit,
            )
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(parameters, worker)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        decay = min(run.ema, (1.0 + step) / (10.0 + step))
        with torch.no_grad():
            torch._foreach_lerp_(average.trained(), parameters, 1.0 - decay)
        step += 1
        sums.setdefault(f"{side}{' swapped' if swapped else ''}", []).append(loss.item())
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
    """Pairs and side: small grids for three quarters of the time, then larger ones for the wide layout."""
    if fraction < 0.72:
        return (8, 16) if step % 8 else (3, 32)
    if step % 12 == 0:
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
