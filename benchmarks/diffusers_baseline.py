"""The method as a competent user of diffusers would write it today: what our times are compared with.

It does what the public code of Alaluf et al. (arXiv 2311.03335) does, without it: every attention layer holds its map,
and every step makes two passes, self and cross, over a batch of three images. The optimised variant holds a map
only where there is a contrast to apply. As in the ``winter`` preset, and not in the public code, inversion takes no
guidance, and the latents of origin and structure are the stored ones. Nothing of our networks, kernels or sampler is
used but the settings that say which step does what.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.diffusers_modules import ORIGIN, OUTPUT, STRUCTURE, Swap, SwappingProcessor, Theirs, from_ours
from benchmarks.inputs import refuse_beyond_preset
from model import StableDiffusion
from sampler.inputs import TransferInputs
from sampler.settings import Settings


@dataclass(frozen=True)
class Step:
    """Timestep ``t`` as a tensor on the device, noise levels, and the noise's standard deviation."""

    t: Tensor
    alpha_bar: float
    alpha_bar_prev: float
    sigma: float

    def noised(self, clean: Tensor, noise: Tensor) -> Tensor:
        """Latents of this step's noise level."""
        return math.sqrt(self.alpha_bar) * clean + math.sqrt(1 - self.alpha_bar) * noise

    def mean(self, x: Tensor, eps: Tensor) -> Tensor:
        """Where the step leads without noise (Song et al., arXiv 2010.02502, equation 12)."""
        clean = (x - math.sqrt(1 - self.alpha_bar) * eps) / math.sqrt(self.alpha_bar)
        return math.sqrt(self.alpha_bar_prev) * clean + math.sqrt(1 - self.alpha_bar_prev - self.sigma**2) * eps


def _schedule(count: int, device: torch.device) -> list[Step]:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alpha_bar = torch.cumprod(1 - betas, 0).float().tolist()
    delta = 1000 // count
    times = [(count - 1 - i) * delta + 1 for i in range(count)]
    steps = []
    for t, on_device in zip(times, torch.tensor(times, device=device), strict=True):
        previous = alpha_bar[t - delta] if t >= delta else alpha_bar[0]
        sigma = math.sqrt((1 - previous) / (1 - alpha_bar[t]) * (1 - alpha_bar[t] / previous))
        steps.append(Step(on_device, alpha_bar[t], previous, sigma))
    return steps


def _draw(
    patch: TransferInputs, settings: Settings, seed: int, networks: Theirs
) -> tuple[Tensor, list[Tensor], Tensor | None]:
    """The structure image [3, H, W] in [-1, 1], noise [T, 4, h, w] of origin and structure, and fresh or None."""
    generator = torch.Generator().manual_seed(seed)
    greys = torch.tensor(settings.class_intensities(patch.num_classes))
    painted = greys[torch.from_numpy(patch.target_labels)].expand(3, -1, -1)
    painted = painted + settings.mask_noise**0.5 * torch.randn(painted.shape, generator=generator)
    height, width = (side // networks.factor for side in patch.target_labels.shape)
    shape = (settings.steps, networks.vae.config["latent_channels"], height, width)
    trajectories = [torch.randn(shape, generator=generator) for _ in range(2)]
    fresh = torch.randn(shape, generator=generator) if settings.fresh_noise > 0 else None
    return painted.clamp(0, 1) * 2 - 1, trajectories, fresh


class Baseline:
    """The ``winter`` preset and its options on diffusers' modules that hold the tensors of ``model``.

    ``optimised`` takes PyTorch's fused attention wherever no contrast is needed, and the channels-last layout (for
    which it copies the convolutions' weights). ``compile`` compiles the UNet. Half precision is the modules' own type.
    """

    def __init__(self, model: StableDiffusion, *, optimised: bool = False, compile: bool = False) -> None:
        self.networks = networks = from_ours(model)
        self._swap = Swap()
        blocks = networks.unet.up_blocks
        plain: Any = SwappingProcessor(None, self._swap, optimised=optimised)
        networks.unet.set_attn_processor(plain)
        for number, block in enumerate(blocks):
            for transformer in getattr(block, "attentions", ()):
                processor = SwappingProcessor(len(blocks) - 1 - number, self._swap, optimised=optimised)
                transformer.transformer_blocks[0].attn1.set_processor(processor)
        if optimised:
            networks.lay_out_channels_last()
        self._unet: Callable[..., Any] = networks.unet
        if compile:
            # One graph for each kind of pass: two batch sizes, and who looks at whom at which levels.
            self._unet = torch.compile(networks.unet, fullgraph=True, dynamic=False)

    @torch.inference_mode()
    def run(self, patch: TransferInputs, settings: Settings, seed: int) -> tuple[Tensor, NDArray[np.uint8]]:
        """One image: its latents [1, 4, h, w], float32 (as on the way), and its pixels, uint8 RGB [H, W, 3].

        Raises ValueError if origin and target differ in size, or ``settings`` ask for what this does not do.
        """
        refuse_beyond_preset(settings, "the diffusers baseline")
        assert patch.origin_labels is not None
        sizes = {patch.origin.shape[:2], patch.origin_labels.shape, patch.target_labels.shape}
        if len(sizes) > 1:
            raise ValueError(f"the diffusers baseline batches origin and target: they need one size, not {sizes}")
        context = self.networks.encode_text([settings.prompt])
        painted, noise, fresh = _draw(patch, settings, seed, self.networks)
        clean = self._encode(patch, painted)
        steps = _schedule(settings.steps, clean.device)
        origin, structure = (
            [*(step.noised(z, n) for step, n in zip(steps, drawn.to(clean), strict=True)), z]
            for z, drawn in zip(clean, noise, strict=True)
        )
        maps = []
        for i, step in enumerate(steps[:-1]):
            eps = self._predict(structure[i][None], step.t, context)[0]
            maps.append((structure[i + 1] - step.mean(structure[i], eps)) / step.sigma)
        if fresh is not None:
            share = settings.fresh_noise
            pairs = zip(maps, fresh[:-1].to(clean), strict=True)
            maps = [(1 - share) ** 0.5 * w + share**0.5 * new for w, new in pairs]
        maps.append(torch.zeros_like(clean[0]))
        z = self._denoise(steps, origin, structure, maps, patch, settings, context)
        return z[None].float().cpu(), self._decode(z)

    def _encode(self, patch: TransferInputs, painted: Tensor) -> Tensor:
        """Clean latents [2, 4, h, w] of the origin and the ``painted`` structure [3, H, W], in their own type."""
        vae = self.networks.vae
        origin = torch.from_numpy(patch.origin).permute(2, 0, 1).float() / 127.5 - 1
        pair = torch.stack([origin, painted]).to(vae.device, vae.dtype)
        latents: Tensor = vae.encode(pair).latent_dist.mode()
        wide = torch.float64 if vae.dtype == torch.float64 else torch.float32
        return latents.to(wide) * vae.config["scaling_factor"]

    def _denoise(
        self,
        steps: Sequence[Step],
        origin: Sequence[Tensor],
        structure: Sequence[Tensor],
        maps: Sequence[Tensor],
        patch: TransferInputs,
        settings: Settings,
        context: Tensor,
    ) -> Tensor:
        """z_out [4, h, w] after the last step, of x_0 … x_T of origin and structure and each step's noise map."""
        num_classes = 1 if settings.adain == "global" else patch.num_classes
        assert patch.origin_labels is not None
        here, there = (
            _places(labels, num_classes, self.networks.factor, context.device)
            for labels in (patch.target_labels, patch.origin_labels)
        )
        context = context.expand(3, -1, -1)
        first = settings.start_step
        z = structure[first]
        for i, step in enumerate(steps[first:], start=first):
            j = i - first
            batch = torch.stack([z, origin[i], structure[i]])
            eps_self = self._predict(batch, step.t, context)[OUTPUT]
            shown = STRUCTURE if settings.swaps_in_structure(j) else ORIGIN
            swap = Swap(settings.swapped_levels(j), shown, settings.contrast)
            eps = self._predict(batch, step.t, context, swap)[OUTPUT]
            alpha = settings.swap_guidance(j)
            if alpha is not None:
                eps = eps_self + alpha * (eps - eps_self)
            z = step.mean(z, eps) + step.sigma * maps[i]
            for c in settings.adain_classes(j, num_classes):
                if min(len(here[c]), len(there[c])) >= 2:
                    z = _match(z, origin[i + 1], here[c], there[c])
        return z

    def _decode(self, z: Tensor) -> NDArray[np.uint8]:
        """Latents [4, h, w] -> pixels [H, W, 3]."""
        vae = self.networks.vae
        decoded: Tensor = vae.decode((z[None] / vae.config["scaling_factor"]).to(vae.dtype)).sample[0]
        scaled = ((decoded.float() + 1) * 127.5).round().clamp(0, 255)
        pixels: NDArray[np.uint8] = scaled.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        return pixels

    def _predict(self, z: Tensor, t: Tensor, context: Tensor, swap: Swap | None = None) -> Tensor:
        """Noise prediction [B, 4, h, w] in the type of ``z``; with ``swap`` of the cross pass."""
        vars(self._swap).update(vars(Swap() if swap is None else swap))
        eps: Tensor = self._unet(z.to(context.dtype), t, encoder_hidden_states=context, return_dict=False)[0]
        return eps.to(z.dtype)


def forwards(settings: Settings) -> int:
    """UNet forwards for one image, each image of a batch counted."""
    return settings.steps - 1 + settings.num_denoising_steps * 2 * 3


def _places(labels: NDArray[np.int64], num_classes: int, factor: int, device: torch.device) -> Sequence[Tensor]:
    """For each class the flat latent positions where it has the largest share of the ``factor`` × ``factor`` pixels."""
    capped = torch.from_numpy(labels).clamp_max(num_classes - 1)
    one_hot = F.one_hot(capped, num_classes).permute(2, 0, 1).float()
    largest = F.avg_pool2d(one_hot[None], factor)[0].numpy().argmax(0)  # numpy's takes the first of equals
    return [torch.from_numpy(np.flatnonzero(largest == c)).to(device) for c in range(num_classes)]


def _match(z: Tensor, source: Tensor, here: Tensor, there: Tensor) -> Tensor:
    """AdaIN of [C, h, w] latents at flat positions ``here`` to those of ``source`` at ``there``."""
    flat, mine, wanted = z.flatten(1), z.flatten(1)[:, here], source.flatten(1)[:, there]
    (variance, mean), (to, towards) = (torch.var_mean(x, dim=1, keepdim=True) for x in (mine, wanted))  # each [C, 1]
    matched = (mine - mean) / (variance + 1e-5).sqrt() * (to + 1e-5).sqrt() + towards
    return flat.index_copy(1, here, matched).view_as(z)
