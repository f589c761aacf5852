"""What the product saves over `sampler.reference`, one exact optimization after another: for the ablation and tests.

Networks, formulas and features are the product's; the order of the work is the method's, one latent at a time. With no
optimization three whole passes make an executed step: z_out, z_out with another image's keys and values, that image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.inputs import refuse_beyond_preset
from kernels import Implementation, masked_adain
from model import StableDiffusion
from model.unet import Conditioning, Prediction, UNet
from model.unet_blocks import AttentionFeatures, KVSource, Wanted
from sampler.conditioned_unet import Times
from sampler.ddim import denoise_step
from sampler.execution import Execution
from sampler.feature_cache import in_place
from sampler.inputs import TransferInputs, draw_noise, to_unit_range
from sampler.inversion import ddpm_trajectory, noise_maps
from sampler.masks import latent_labels
from sampler.prepare import mix_noise
from sampler.schedule import steps
from sampler.series import Result, decode
from sampler.settings import Settings
from sampler.ticks import result_of


@dataclass(frozen=True)
class Optimizations:
    """What is saved. None of it changes a result beyond rounding."""

    constants: bool = False
    one_pass: bool = False
    inversion_features: bool = False
    short_features: bool = False
    shared_start: bool = False
    needed_noise: bool = False
    known_steps: bool = False
    blockwise: bool = False
    fused: bool = False


NOTHING = "nothing saved"
ORDER = {
    "constants": "text keys and values and time shifts once a run",
    "one_pass": "one pass where nothing is swapped",
    "inversion_features": "the structure's features from its inversion",
    "short_features": "passes for features end at the last layer that has them",
    "shared_start": "one pass up to the first swapped layer",
    "needed_noise": "noise maps of executed steps alone",
    "known_steps": "known first steps left out",
    "blockwise": "attention without its map",
    "fused": "norms and gates in one kernel each",
}
"""What each optimization says of itself, in the order in which `cumulative` switches them on."""


def cumulative() -> dict[str, Optimizations]:
    """Nothing saved, then each optimization added to those before it, by what it says."""
    prefixes, optimizations = {NOTHING: Optimizations()}, Optimizations()
    for name, says in ORDER.items():
        optimizations = replace(optimizations, **{name: True})
        prefixes[says] = optimizations
    return prefixes


@dataclass(frozen=True)
class _Network:
    """The UNet under one text as `TextConditionedUNet` is, with no more than the ``switches`` saved.

    ``constants`` is the conditioning with a row for each of ``times``; None makes it again in every call.
    """

    unet: UNet
    context: Tensor
    times: Sequence[int]
    constants: Conditioning | None
    impl: Implementation
    switches: Optimizations

    def _cond(self, t: Times) -> Conditioning:
        (time,) = [t] if isinstance(t, int) else t
        if self.constants is None:
            return self.unet.condition(self.context, time, impl=self.impl)
        row = self.times.index(time)
        return self.constants.rows(row, row)

    def __call__(
        self, z: Tensor, t: Times, *, kv_source: KVSource | None = None, capture: Iterable[Wanted] = ()
    ) -> Prediction:
        predicted: Prediction = self.unet(z.to(self.context.dtype), self._cond(t), kv_source=kv_source, capture=capture)
        return Prediction(predicted.eps.to(z.dtype), predicted.features)

    def features(self, z: Tensor, t: Times, levels: Sequence[int]) -> AttentionFeatures:
        if self.switches.short_features:
            return self.unet.features(z.to(self.context.dtype), self._cond(t), levels)
        return self(z, t, capture=levels).features

    def self_and_cross(self, z: Tensor, t: Times, kv_source: KVSource) -> tuple[Tensor, Tensor]:
        if not (self.switches.shared_start and kv_source.features):
            return self(z, t).eps, self(z, t, kv_source=kv_source).eps
        own, cross = self.unet.self_and_cross(z.to(self.context.dtype), self._cond(t), kv_source)
        return own.to(z.dtype), cross.to(z.dtype)


@torch.inference_mode()
def transfer_with(
    optimizations: Optimizations,
    model: StableDiffusion,
    inputs: TransferInputs,
    settings: Settings,
    *,
    seed: int,
    execution: Execution,
) -> Result:
    """One image as `sampler.series` makes it, with no more than ``optimizations``.

    Of ``execution`` only the implementation is used, where ``optimizations`` say so; attention whose map is held is the
    reference, in float32 at least. Raises ValueError for settings outside the ``winter`` preset's family.
    """
    refuse_beyond_preset(settings, "the ablation")
    parameter = next(model.unet.parameters())
    device, dtype = parameter.device, parameter.dtype
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    impl: Implementation = execution.impl if optimizations.blockwise else "reference"
    elementwise: Implementation = execution.impl if optimizations.fused else "torch"
    factor, schedule, last = model.config.vae.factor, steps(settings.steps), settings.steps - 1
    start = settings.computed_steps.start if optimizations.known_steps else settings.start_step
    context = model.text_encoder(model.tokenizer([settings.prompt]).to(device)).to(dtype)
    times = [step.t for step in schedule]
    constants = None
    if optimizations.constants:
        constants = model.unet.condition(context, torch.tensor(times, device=device), impl=elementwise)
    network = _Network(model.unet, context, times, constants, elementwise, optimizations)

    noise = draw_noise(seed, inputs, settings, model.config.vae.latent_channels, factor)
    images = ((to_unit_range(inputs.origin), noise.origin), (noise.structure_image, noise.structure))
    origin, structure = (
        ddpm_trajectory(
            model.vae.encode(image.to(device, dtype), impl=elementwise).to(exact)[0], drawn.to(device, exact), schedule
        )
        for image, drawn in images
    )
    num_classes = 1 if settings.adain == "global" else inputs.num_classes
    origin_labels, target_labels = (
        latent_labels(torch.from_numpy(labels).clamp(max=num_classes - 1), num_classes, factor).to(device)
        for labels in (inputs.origin_labels, inputs.target_labels)
    )
    capture = settings.structure_features() if optimizations.inversion_features else {}
    wanted = range(start if optimizations.needed_noise else 0, last)
    maps, cached = result_of(noise_maps(network, structure, schedule, wanted, capture, 1, in_place))
    if noise.fresh is not None:
        maps = mix_noise(maps, noise.fresh.to(maps), settings.fresh_noise)

    z = structure[start][None]
    for i in range(start, settings.steps):
        j, step = i - settings.start_step, schedule[i]
        levels, guidance = settings.swapped_levels(j), settings.swap_guidance(j)
        if optimizations.one_pass and not levels:
            eps = network(z, step.t).eps
        else:
            shown = structure if settings.swaps_in_structure(j) else origin
            features = cached[i].fetch(device) if i in cached else network.features(shown[i][None], step.t, levels)
            own, eps = network.self_and_cross(z, step.t, KVSource(features, settings.contrast, impl))
            if guidance is not None:
                eps = own + guidance * (eps - own)
        z = denoise_step(z, eps, step, maps[i] if i < last else None)
        matched, labels = settings.adain_classes(j, num_classes), (target_labels, origin_labels)
        if matched:
            z = masked_adain(z, origin[i + 1][None], *labels, classes=matched, num_classes=num_classes, impl=impl)
    return Result(decode(model, z, elementwise), z.float().cpu())
