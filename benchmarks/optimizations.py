"""The method in the order in which it is written down, each exact saving a switch: what results and costs are held to.

Networks and formulas are the product's, the order of the work is not: one latent goes through the UNet at a time, and
with nothing saved three of them in every executed step, whole: z_out, z_out with borrowed keys, and who lends them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kernels import Implementation, masked_adain
from model import StableDiffusion
from model.unet import AttentionFeatures, Conditioning, KVSource, UNet
from sampler.ddim import add_noise, ddim_step, denoise_step
from sampler.denoise import mix_noise
from sampler.execution import Execution
from sampler.inputs import TransferInputs, draw_noise, to_pixels, to_unit_range
from sampler.masks import latent_labels
from sampler.schedule import Step, steps
from sampler.series import Result
from sampler.settings import Settings


@dataclass(frozen=True)
class Savings:
    """What is saved. None of it changes a result beyond rounding."""

    constants: bool = False
    one_pass: bool = False
    inversion_lends: bool = False
    short_lending: bool = False
    shared_start: bool = False
    needed_noise: bool = False
    known_steps: bool = False
    blockwise: bool = False
    fused: bool = False


NOTHING = "nothing saved"
ORDER = {
    "constants": "text keys and values and time shifts once a run",
    "one_pass": "one pass where nothing is swapped",
    "inversion_lends": "the structure's tokens from its inversion",
    "short_lending": "lending ends at the last layer that lends",
    "shared_start": "one pass up to the first swapped layer",
    "needed_noise": "noise maps of executed steps alone",
    "known_steps": "known first steps left out",
    "blockwise": "attention without its map",
    "fused": "norms and gates in one kernel each",
}
"""What each saving says of itself, in the order in which `cumulative` switches them on."""


def cumulative() -> dict[str, Savings]:
    """Nothing saved, then each saving added to those before it, by what it says."""
    prefixes, savings = {NOTHING: Savings()}, Savings()
    for name, says in ORDER.items():
        savings = replace(savings, **{name: True})
        prefixes[says] = savings
    return prefixes


@dataclass(frozen=True)
class _Network:
    """The UNet under one text, called with latents [1, 4, h, w] at step i.

    ``constants`` is the condition with a row for each step; None makes it again in every call.
    """

    unet: UNet
    context: Tensor
    schedule: Sequence[Step]
    constants: Conditioning | None
    impl: Implementation

    def _condition(self, i: int) -> Conditioning:
        if self.constants is not None:
            return self.constants.rows(i, i)
        return self.unet.condition(self.context, self.schedule[i].t, impl=self.impl)

    def predict(self, x: Tensor, i: int, source: KVSource | None = None) -> Tensor:
        """Noise prediction, with the keys and values of ``source`` where it lends any."""
        return self.unet.predict(x.to(self.context.dtype), self._condition(i), source=source).to(x.dtype)

    def record(self, x: Tensor, i: int, levels: Sequence[int]) -> tuple[Tensor, AttentionFeatures]:
        """Noise prediction, and what ``levels`` lend."""
        eps, lent = self.unet.record(x.to(self.context.dtype), self._condition(i), levels)
        return eps.to(x.dtype), lent

    def lend(self, x: Tensor, i: int, levels: Sequence[int]) -> AttentionFeatures:
        """What ``levels`` lend, from a pass that ends there."""
        return self.unet.lend(x.to(self.context.dtype), self._condition(i), levels)

    def both(self, x: Tensor, i: int, source: KVSource) -> tuple[Tensor, Tensor]:
        """Noise predictions with own keys and with those of ``source``, from a pass that parts where they differ."""
        condition = self._condition(i)
        state = self.unet.encode(x.to(self.context.dtype), condition)
        state = self.unet.advance(state, condition, until=source.first)
        own, swapped = (self.unet.decode(state, condition, source=given) for given in (None, source))
        return own.to(x.dtype), swapped.to(x.dtype)


@torch.inference_mode()
def unsaved(
    model: StableDiffusion,
    patch: TransferInputs,
    settings: Settings,
    *,
    seed: int,
    savings: Savings,
    execution: Execution,
) -> Result:
    """One image as `sampler.series` makes it, with no more than ``savings`` saved.

    Of ``execution`` only the implementations are used, and these only where ``savings`` say so; attention whose map is
    held is the reference, in float32 at least. Raises ValueError for settings outside the ``winter`` preset's family.
    """
    _refuse(settings)
    parameter = next(model.unet.parameters())
    device, dtype = parameter.device, parameter.dtype
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    impl: Implementation = execution.impl if savings.blockwise else "reference"
    elementwise: Implementation = execution.elementwise if savings.fused else "torch"
    factor, schedule = model.config.vae.factor, steps(settings.steps)
    first, last = settings.start_step, settings.steps - 1
    start = first + (settings.num_known_steps if savings.known_steps else 0)
    context = model.text_encoder(model.tokenizer([settings.prompt]).to(device)).to(dtype)
    times = torch.tensor([step.t for step in schedule], device=device)
    constants = model.unet.condition(context, times, impl=elementwise) if savings.constants else None
    network = _Network(model.unet, context, schedule, constants, elementwise)

    # Trajectories x_0 … x_T of both images, and their labels.
    noise = draw_noise(seed, patch, settings, model.config.vae.latent_channels, factor)
    origin, structure = (
        _trajectory(model.vae.encode(image.to(device, dtype), impl=elementwise).to(exact), drawn, schedule)
        for image, drawn in ((to_unit_range(patch.origin), noise.origin), (noise.structure, noise.target))
    )
    num_classes = 1 if settings.adain == "global" else patch.num_classes
    there, here = (
        latent_labels(torch.from_numpy(np.minimum(labels, num_classes - 1)), num_classes, factor).to(device)
        for labels in (patch.origin_labels, patch.target_labels)
    )

    # The structure's noise maps.
    maps: dict[int, Tensor] = {}
    kept: dict[int, AttentionFeatures] = {}
    lending = settings.structure_lending() if savings.inversion_lends else {}
    for i in range(start if savings.needed_noise else 0, last):
        step = schedule[i]
        eps, lent = network.record(structure[i], i, lending.get(i, ()))
        maps[i] = (
            structure[i + 1] - ddim_step(structure[i], eps, step.alpha_bar, step.alpha_bar_prev, step.sigma)
        ) / step.sigma
        if noise.fresh is not None:
            maps[i] = mix_noise(maps[i], noise.fresh[i : i + 1].to(maps[i]), settings.fresh_noise)
        if lent:
            kept[i] = lent

    # z_out.
    z = structure[start]
    for i in range(start, settings.steps):
        j, step = i - first, schedule[i]
        levels, alpha = settings.swapped_levels(j), settings.swap_guidance(j)
        if savings.one_pass and not levels:
            eps = network.predict(z, i)
        else:
            x = structure[i] if settings.borrows_from_structure(j) else origin[i]
            if i in kept:
                lent = kept.pop(i)
            elif savings.short_lending:
                lent = network.lend(x, i, levels)
            else:
                lent = network.record(x, i, levels)[1]
            source = KVSource(lent, settings.contrast, impl)
            if savings.shared_start and levels:
                own, eps = network.both(z, i, source)
            else:
                own, eps = network.predict(z, i), network.predict(z, i, source)
            if alpha is not None:
                eps = own + alpha * (eps - own)
        z = denoise_step(z, eps, step, maps[i] if i < last else None)
        classes = settings.adain_classes(j, num_classes)
        if classes:
            z = masked_adain(z, origin[i + 1], here, there, classes=classes, num_classes=num_classes, impl=impl)
    return Result(to_pixels(model.vae.decode(z.to(dtype), impl=elementwise)), z.float().cpu())


def _refuse(settings: Settings) -> None:
    asked = {
        "inversion": settings.inversion != "ddpm",
        "inversion_guidance": settings.inversion_guidance != 1.0,
        "restrict_attention": settings.restrict_attention,
        "adain_features": settings.adain_features,
        "redenoise": settings.redenoise,
        "free_u": settings.free_u,
    }
    refused = [name for name, wanted in asked.items() if wanted]
    if refused:
        raise ValueError(f"the unsaved path does not do these settings: {', '.join(refused)}")


def _trajectory(clean: Tensor, noise: Tensor, schedule: Sequence[Step]) -> list[Tensor]:
    """x_0 … x_T, each [1, 4, h, w], of the ``clean`` latents [1, 4, h, w] with the drawn ``noise`` [T, 4, h, w]."""
    drawn = noise.to(clean)[:, None]
    return [*(add_noise(clean, n, step.alpha_bar) for n, step in zip(drawn, schedule, strict=True)), clean]
