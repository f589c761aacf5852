"""Train the decoder on, with encoder and latents fixed, so that a UNet trained on these latents stays valid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from demo.data import Dataset
from demo.losses import PatchDiscriminator, psnr, reconstruction_loss
from demo.train_vae import DecoderTraining, crops, judge, report
from demo.training import (
    Clock,
    Worker,
    average_gradients,
    cpu_state,
    learning_rate,
    log,
    set_learning_rate,
    to_tensor,
)
from model.vae import VAE

_SHAPES = ((8, 64), (3, 128), (8, 64), (3, 128), (1, 256))


def train_decoder(
    vae: VAE,
    discriminator: PatchDiscriminator,
    run: DecoderTraining,
    train: Dataset,
    held_out: Dataset,
    folder: Path,
    worker: Worker,
) -> None:
    """Train ``vae``'s decoder in place until the minutes are spent; writes ``folder/vae_polished.safetensors``."""
    for frozen in (vae.encoder, vae.quant_conv, vae.post_quant_conv):
        frozen.requires_grad_(False)
    parameters = list(vae.decoder.parameters())
    optimizer = torch.optim.AdamW(parameters, run.rate, (0.9, 0.99), weight_decay=1e-3, fused=True)
    discriminator_optimizer = torch.optim.AdamW(
        discriminator.parameters(), run.discriminator_rate, (0.5, 0.9), fused=True
    )
    rng = np.random.default_rng((worker.rank, 11))
    clock, step = Clock(run.minutes * 60.0), 0
    if worker.first:
        report(vae, held_out, folder, step, worker)
    while (fraction := clock.fraction(worker)) < 1.0:
        target = to_tensor(crops(rng, train, *_SHAPES[step % len(_SHAPES)]), worker.device)
        set_learning_rate(optimizer, learning_rate(run.rate, fraction, step, warmup=30))
        with torch.autocast(worker.device.type, torch.bfloat16):
            with torch.no_grad():
                latents = vae.encode(target).float()
                # What a UNet paints lies a little beside what the encoder gives.
                latents += run.jitter * float(rng.random()) * torch.randn_like(latents)
            output = vae.decode(latents).float()
        pixels = reconstruction_loss(output, target)
        judged, penalty = judge(discriminator, discriminator_optimizer, output, target, run, worker)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(pixels + penalty)
        average_gradients(parameters, worker)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        if worker.first and step % run.report_every == 0:
            line = f"decoder step {step} at {fraction:.3f}: pixels {pixels.item():.4f} discriminator {judged:.3f}"
            log(folder, "vae", f"{line} {psnr(output.detach(), target):.2f} dB side {target.shape[-1]}")
    if worker.first:
        save_file(cpu_state(vae), folder / "vae_polished.safetensors")
        report(vae, held_out, folder, step, worker)
