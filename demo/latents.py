"""The UNet's training set: latents of every image in several turns, and the normalised autoencoder behind them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.data import Dataset, Kind, dihedral
from demo.training import Worker, cpu_state, log, to_tensor
from model.vae import VAE


@dataclass(frozen=True)
class Latents:
    """``values`` [N, V, 4, h, w] scaled latents of N images in pairs, V turns of each; ``kinds`` one per image."""

    values: Tensor
    kinds: tuple[Kind, ...]


@torch.no_grad()
def encode_turns(vae: VAE, data: Dataset, turns: int, seed: int, worker: Worker, scratch: Path) -> Latents:
    """Encode ``turns`` different flips or rotations of every image; the workers share the images.

    What a worker encoded goes through a file in ``scratch``.
    """
    rng = np.random.default_rng(seed)
    numbers = np.stack([rng.permutation(8)[:turns] for _ in data.images])
    numbers[:, 0] = 0
    scratch.mkdir(parents=True, exist_ok=True)
    mine = []
    for index in range(worker.rank, len(data.images), worker.count):
        stack = np.stack([dihedral(data.images[index], int(number)) for number in numbers[index]])
        mine.append(vae.encode(to_tensor(stack, worker.device)).cpu())
    save_file({"values": torch.stack(mine).contiguous()}, scratch / f"part_{worker.rank}.safetensors")
    if worker.count > 1:
        torch.distributed.barrier()
    values = torch.empty(len(data.images), *mine[0].shape)
    for rank in range(worker.count):
        values[rank :: worker.count] = load_file(scratch / f"part_{rank}.safetensors")["values"]
    if worker.count > 1:
        torch.distributed.barrier()
    return Latents(values, data.kinds)


def moments(latents: Latents) -> tuple[Tensor, Tensor]:
    """Mean and deviation [4] of each channel over the tissue images (mask images are not tissue)."""
    tissue = torch.tensor([kind != "mask" for kind in latents.kinds])
    values = latents.values[tissue]
    return values.mean(dim=(0, 1, 3, 4)), values.std(dim=(0, 1, 3, 4))


@torch.no_grad()
def fold_normalisation(vae: VAE, mean: Tensor, deviation: Tensor) -> None:
    """Fold a per-channel normalisation of the latents into the 1×1 convolutions around them, in place.

    ``mean`` and ``deviation`` [4] are those of what `VAE.encode` gives now. Afterwards it gives zero mean and unit
    deviation over the same images, and `VAE.decode` undoes it exactly.
    """
    channels, scaling = vae.config.latent_channels, vae.config.scaling
    mean, deviation = mean.to(vae.quant_conv.weight), deviation.to(vae.quant_conv.weight)
    quant, post = vae.quant_conv, vae.post_quant_conv
    assert quant.bias is not None
    assert post.bias is not None
    # In unscaled latents: new = (old - mean / scaling) / deviation.
    post.bias += post.weight[:, :, 0, 0] @ (mean / scaling)
    post.weight *= deviation[None, :, None, None]
    quant.weight[:channels] /= deviation[:, None, None, None]
    quant.bias[:channels] = (quant.bias[:channels] - mean / scaling) / deviation
    quant.bias[channels:] -= 2.0 * deviation.log()


def prepare(
    vae: VAE, small: Dataset, large: Dataset, turns: int, folder: Path, worker: Worker
) -> tuple[VAE, Latents, Latents]:
    """Normalise the autoencoder's latents and encode both sets; read from ``folder`` where that is done already."""
    done = folder / "latents.safetensors"
    if not done.exists():
        first = encode_turns(vae, small, turns, 0, worker, folder / "scratch")
        second = encode_turns(vae, large, 1, 0, worker, folder / "scratch")
        mean, deviation = moments(first)
        fold_normalisation(vae, mean, deviation)
        normal = [((part.values - mean[:, None, None]) / deviation[:, None, None]) for part in (first, second)]
        if worker.first:
            log(folder, "unet", f"latents had mean {mean.tolist()} and deviation {deviation.tolist()}")
            save_file(cpu_state(vae), folder / "vae_normalised.safetensors")
            save_file({"small": normal[0].contiguous(), "large": normal[1].contiguous()}, done)
        if worker.count > 1:
            torch.distributed.barrier()
    vae.load_state_dict(load_file(folder / "vae_normalised.safetensors"))
    tensors = load_file(done)
    return vae, Latents(tensors["small"], small.kinds), Latents(tensors["large"], large.kinds)
