"""The UNet's training set: latents of every image in several turns, and the normalised autoencoder behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from demo.data import Dataset, Kind
from demo.real import Labels, dihedral
from demo.stains import other_stains, restain, slight_change
from demo.training import Worker, cpu_state, log, to_tensor
from model.vae import VAE
from sampler.masks import structure_image


@dataclass(frozen=True)
class Latents:
    """Scaled latents of N images in pairs, T turns of each, in two stains: as the image is, and in others.

    ``values`` [N, T, 2, 4, h, w]; ``maps`` [N, T, 4, h, w] are those of the images' painted label maps (of mask images,
    which have none, their own); ``kinds`` one per image. A pair shares its stains.
    """

    values: Tensor
    maps: Tensor
    kinds: tuple[Kind, ...]


@torch.no_grad()
def encode_turns(vae: VAE, data: Dataset, turns: int, seed: int, worker: Worker, scratch: Path) -> Latents:
    """Encode ``turns`` different flips or rotations of every image; the workers share the images.

    What a worker encoded goes through a file in ``scratch``.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    mine = [
        torch.stack([vae.encode(view).cpu() for view in _views(data, index, turns, seed, worker)])
        for index in range(worker.rank, len(data.images), worker.count)
    ]
    save_file({"values": torch.stack(mine).contiguous()}, scratch / f"part_{worker.rank}.safetensors")
    if worker.count > 1:
        torch.distributed.barrier()
    values = torch.empty(len(data.images), *mine[0].shape)  # [N, T, 3, 4, h, w]
    for rank in range(worker.count):
        values[rank :: worker.count] = load_file(scratch / f"part_{rank}.safetensors")["values"]
    if worker.count > 1:
        torch.distributed.barrier()
    return Latents(values[:, :, :2], values[:, :, 2], data.kinds)


def _views(data: Dataset, index: int, turns: int, seed: int, worker: Worker) -> Iterator[Tensor]:
    """For each turn: the image, the image in other stains and its painted label map, [3, 3, S, S]."""
    own, shared = np.random.default_rng((seed, index)), np.random.default_rng((seed, index // 2, 1))
    numbers = own.permutation(8)[:turns]
    numbers[0] = 0
    for number in numbers:
        change = slight_change(shared) if shared.random() < 0.35 else other_stains(shared)
        image = dihedral(data.images[index], int(number))
        if data.kinds[index] == "mask":
            yield to_tensor(np.stack([image] * 3), worker.device)
            continue
        seen = to_tensor(np.stack([image, restain(image, change)]), worker.device)
        painted = paint(dihedral(data.labels[index], int(number)), own)
        yield torch.cat([seen, painted.to(worker.device)])


def paint(labels: Labels, rng: np.random.Generator) -> Tensor:
    """A label map [S, S] as the method paints it, [1, 3, S, S]; in a tenth of the cases with the tones reversed."""
    classes = max(2, int(labels.max()) + 1)
    intensities = list(np.linspace(0.1, 0.5, classes))
    if rng.random() < 0.1:
        intensities.reverse()
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    return structure_image(torch.from_numpy(labels.astype(np.int64)), intensities, 1e-4, generator)


def moments(latents: Latents) -> tuple[Tensor, Tensor]:
    """Mean and deviation [4] of each channel over the tissue images (mask images are not tissue)."""
    tissue = torch.tensor([kind != "mask" for kind in latents.kinds])
    values = latents.values[tissue].movedim(3, 0).flatten(1)  # [4, …]
    return values.mean(dim=1), values.std(dim=1)


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
) -> tuple[VAE, tuple[Latents, Latents]]:
    """Normalise the autoencoder's latents and encode both sets; read from ``folder`` where that is done already."""
    done = folder / "latents.safetensors"
    if not done.exists():
        encoded = [
            encode_turns(vae, data, count, 0, worker, folder / "scratch")
            for data, count in ((small, turns), (large, 1))
        ]
        mean, deviation = moments(encoded[0])
        fold_normalisation(vae, mean, deviation)
        if worker.first:
            log(folder, "unet", f"latents had mean {mean.tolist()} and deviation {deviation.tolist()}")
            save_file(cpu_state(vae), folder / "vae_normalised.safetensors")
            normal = {
                f"{name} {part}": ((tensor - mean[:, None, None]) / deviation[:, None, None]).contiguous()
                for name, latents in zip(("small", "large"), encoded, strict=True)
                for part, tensor in (("values", latents.values), ("maps", latents.maps))
            }
            save_file(normal, done)
        if worker.count > 1:
            torch.distributed.barrier()
    vae.load_state_dict(load_file(folder / "vae_normalised.safetensors"))
    tensors = load_file(done)
    return vae, (
        Latents(tensors["small values"], tensors["small maps"], small.kinds),
        Latents(tensors["large values"], tensors["large maps"], large.kinds),
    )
