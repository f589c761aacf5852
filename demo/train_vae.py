"""Train the demonstration autoencoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from demo.data import Dataset
from demo.losses import (
    PatchDiscriminator,
    discriminator_loss,
    feature_distance,
    kl_divergence,
    psnr,
    reconstruction_loss,
)
from demo.real import dihedral
from demo.stains import other_stains, restain, slight_change
from demo.training import (
    Clock,
    Worker,
    average_gradients,
    contact_sheet,
    cpu_state,
    learning_rate,
    load_checkpoint,
    log,
    save_checkpoint,
    set_learning_rate,
    to_tensor,
    with_prefix,
)
from model.config import VAEConfig
from model.vae import VAE

DEMO_VAE = VAEConfig(block_out_channels=(16, 32, 64, 96), groups=8)


@dataclass(frozen=True)
class VAETraining:
    """The settings of one run; every number of the recipe."""

    minutes: float
    rate: float = 1.5e-3
    discriminator_rate: float = 4e-4
    discriminator_from: float = 0.8
    adversarial: float = 0.004
    features: float = 0.04
    divergence: float = 2e-5
    report_every: int = 100
    picture_every: int = 1000


@dataclass(frozen=True)
class DecoderTraining:
    """The settings of the decoder's own training, which leaves the latents as they are."""

    minutes: float
    rate: float = 5e-4
    discriminator_rate: float = 2e-4
    adversarial: float = 0.006
    features: float = 0.06
    jitter: float = 0.12
    report_every: int = 50


def train_vae(vae: VAE, run: VAETraining, train: Dataset, held_out: Dataset, folder: Path, worker: Worker) -> VAE:
    """Train until the minutes are spent, from ``folder/vae.safetensors`` if there is one; returns the network.

    The result's latents are not normalised yet: see `demo.latents`.
    """
    torch.manual_seed(0)
    discriminator = PatchDiscriminator().to(worker.device)
    checkpoint = folder / "vae.safetensors"
    clock, step = Clock(run.minutes * 60.0), 0
    if checkpoint.exists():
        tensors, clock.spent, step = load_checkpoint(checkpoint)
        vae.load_state_dict(with_prefix(tensors, "vae."))
        discriminator.load_state_dict(with_prefix(tensors, "discriminator."))
    optimizer = torch.optim.AdamW(vae.parameters(), run.rate, (0.9, 0.99), weight_decay=1e-3, fused=True)
    discriminator_optimizer = torch.optim.AdamW(
        discriminator.parameters(), run.discriminator_rate, (0.5, 0.9), fused=True
    )
    begun = step
    rng = np.random.default_rng((worker.rank, step))
    torch.manual_seed(1000 * step + worker.rank)

    while (fraction := clock.fraction(worker)) < 1.0:
        target = to_tensor(crops(rng, train, *_shape_of_batch(fraction, step)), worker.device)
        set_learning_rate(optimizer, learning_rate(run.rate, fraction, step - begun, warmup=200))
        with torch.autocast(worker.device.type, torch.bfloat16):
            mean, log_variance = vae.posterior(target)
            noise = torch.randn_like(mean, dtype=torch.float32)
            latents = mean + (0.5 * log_variance.float()).exp() * noise
            output = vae.decode(latents * vae.config.scaling).float()
        pixels = reconstruction_loss(output, target)
        loss = pixels + run.divergence * kl_divergence(mean.float(), log_variance.float())
        judged = 0.0
        if fraction >= run.discriminator_from:
            judged, penalty = judge(discriminator, discriminator_optimizer, output, target, run, worker)
            # The discriminator needs a few steps before its opinion is worth anything.
            loss = loss + min(1.0, (fraction - run.discriminator_from) / 0.05) * penalty
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average_gradients(vae.parameters(), worker)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if worker.first and step % run.report_every == 0:
            line = f"vae step {step} at {fraction:.3f}: pixels {pixels.item():.4f} all {loss.item():.4f}"
            log(
                folder,
                "vae",
                f"{line} discriminator {judged:.3f} {psnr(output, target):.2f} dB side {target.shape[-1]}",
            )
        if worker.first and step % run.picture_every == 0:
            report(vae, held_out, folder, step, worker)
            save_checkpoint(
                checkpoint, cpu_state(vae, "vae.") | cpu_state(discriminator, "discriminator."), clock, step
            )
    if worker.first:
        report(vae, held_out, folder, step, worker)
        save_checkpoint(checkpoint, cpu_state(vae, "vae.") | cpu_state(discriminator, "discriminator."), clock, step)
    return vae


def crops(rng: np.random.Generator, data: Dataset, count: int, side: int) -> np.ndarray:
    """Random crops [count, side, side, 3] of random images, each flipped or turned, two thirds in other stains."""
    chosen = []
    for number in rng.integers(0, len(data.images), count):
        top, left = rng.integers(0, data.images.shape[1] - side + 1, 2)
        crop = dihedral(data.images[number, top : top + side, left : left + side], int(rng.integers(8)))
        drawn = rng.random()
        if data.kinds[number] != "mask" and drawn < 0.65:
            crop = restain(crop, slight_change(rng) if drawn < 0.25 else other_stains(rng))
        chosen.append(crop)
    return np.stack(chosen)


def _shape_of_batch(fraction: float, step: int) -> tuple[int, int]:
    """Batch and side: small crops first, since they give more steps; large ones later, for the norms' sake."""
    if fraction > 0.92 and step % 2 == 0:
        return 1, 256
    if step % 4 == 0 or fraction > 0.75:
        return 3, 128
    return 8, 64


def judge(
    discriminator: PatchDiscriminator,
    optimizer: torch.optim.Optimizer,
    output: Tensor,
    target: Tensor,
    run: VAETraining | DecoderTraining,
    worker: Worker,
) -> tuple[float, Tensor]:
    """One step of the discriminator; its loss, and what it adds to the autoencoder's."""
    with torch.autocast(worker.device.type, torch.bfloat16):
        real, _ = discriminator(target)
        fake, _ = discriminator(output.detach())
        judged = discriminator_loss(real.float(), fake.float())
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(judged)
    average_gradients(discriminator.parameters(), worker)
    optimizer.step()
    for parameter in discriminator.parameters():
        parameter.requires_grad_(False)
    with torch.autocast(worker.device.type, torch.bfloat16):
        score, fake_features = discriminator(output)
        with torch.no_grad():
            _, real_features = discriminator(target)
        distance = feature_distance([f.float() for f in fake_features], [f.float() for f in real_features])
    for parameter in discriminator.parameters():
        parameter.requires_grad_(True)
    return float(judged.detach()), run.features * distance - run.adversarial * score.float().mean()


@torch.no_grad()
def quality(vae: VAE, data: Dataset, worker: Worker) -> dict[str, tuple[float, float]]:
    """Of whole images' reconstructions (posterior mean), by kind: PSNR, dB, and error of the mean colour, levels."""
    values: dict[str, list[tuple[float, float]]] = {}
    for image, kind in zip(data.images, data.kinds, strict=True):
        target = to_tensor(image[None], worker.device)
        output = vae.decode(vae.encode(target))
        drift = 127.5 * (output.clamp(-1, 1) - target).mean(dim=(2, 3)).abs().mean()
        name = kind if kind in ("mask", "field", "nuclei") else "drawn"
        values.setdefault(name, []).append((psnr(output, target), float(drift)))
    return {
        name: (float(np.mean(found, axis=0)[0]), float(np.mean(found, axis=0)[1])) for name, found in values.items()
    }


@torch.no_grad()
def report(vae: VAE, held_out: Dataset, folder: Path, step: int, worker: Worker) -> None:
    """Log the PSNR of half of the held-out images and write a sheet of some of them, rebuilt."""
    few = Dataset(held_out.images[::2], held_out.labels[::2], held_out.kinds[::2])
    found = quality(vae, few, worker)
    measured = ", ".join(f"{name} {value:.2f} dB {drift:.2f} levels" for name, (value, drift) in found.items())
    log(folder, "vae", f"vae step {step}: held out, {measured}")
    shown = to_tensor(held_out.images[0:56:7], worker.device)
    rebuilt = torch.cat([vae.decode(vae.encode(image[None])) for image in shown])
    pairs = torch.stack([shown, rebuilt], dim=1).flatten(0, 1)
    contact_sheet(folder / "pictures" / f"vae_{step:06d}.png", pairs, columns=4)
