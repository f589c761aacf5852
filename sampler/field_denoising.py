"""Denoising a field larger than the model's size, in windows that share one origin (docs/method.md, "Windows").

The same as `sampler.denoise`, but that predictions are joined from those of windows at each step, and that nothing of
all steps is held: the structure's noise is drawn again, and its passes run beside z_out's. So memory grows with the
window, and where a run is, is said by a few latents.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import masked_adain
from model.unet_blocks import AttentionFeatures, KVSource
from sampler.conditioned_unet import Denoiser
from sampler.ddim import add_noise, ddim_step, denoise_step
from sampler.denoise import predict
from sampler.inputs import DrawnSteps, FieldNoise, TransferInputs
from sampler.latent_windows import Layout, Window
from sampler.pairs import JoinedOrigins, Origin, PairBatch, classes_of
from sampler.prepare import Pipeline, mix_noise
from sampler.settings import Settings


@dataclass(frozen=True)
class Reached:
    """Where a field's run is, all that it takes to go on from there.

    ``done`` counts its finished steps. ``tensors`` are latents [4, h', w'] by name: ``clean``, those of the painted
    mask; ``z``, that is z_out; ``x.I``, the structure's x_I, where it is not drawn.
    """

    done: int
    tensors: Mapping[str, Tensor]

    def on(self, device: torch.device, dtype: torch.dtype) -> Reached:
        """The same, elsewhere."""
        return Reached(self.done, {name: each.to(device, dtype) for name, each in self.tensors.items()})


@dataclass(frozen=True)
class Field:
    """A target mask's painted image as `denoise_field` reads it: clean latents [4, h', w'], noise by step, labels.

    ``noise`` is that of its trajectory, ``fresh`` that of z_out's steps where some is asked for; ``labels`` are
    [h', w'] by level of the UNet.
    """

    clean: Tensor
    noise: DrawnSteps
    fresh: DrawnSteps | None
    labels: Mapping[int, Tensor]
    layout: Layout

    @staticmethod
    def of(pipeline: Pipeline, clean: Tensor, inputs: TransferInputs, noise: FieldNoise) -> Field:
        """From ``clean`` latents [4, h', w'] of the painted mask of ``inputs``."""
        labels = pipeline.labels(inputs.target_labels, inputs.num_classes)
        layout = layout_of(pipeline.settings, inputs.target_labels.shape, pipeline.model.config.vae.factor)
        if layout is None:
            raise ValueError("this target goes through as a whole")
        return Field(clean, noise.structure, noise.fresh, labels, layout)


def layout_of(settings: Settings, shape: tuple[int, ...], factor: int) -> Layout | None:
    """The windows of a target of ``shape`` [H', W'], in latent positions of ``factor`` px; None if it needs none."""
    size = settings.window_for(shape)
    if size is None:
        return None
    height, width = (side // factor for side in shape)
    return Layout.of(height, width, size // factor, settings.window_overlap // factor)


@dataclass(frozen=True)
class FieldSteps:
    """The steps i in which a field's windows run: first of DDIM inversion, downwards, then of denoising.

    ``computed`` are those of z_out; before them only the structure is denoised again, where that is asked for.
    """

    inverted: range
    denoised: range
    computed: range

    @staticmethod
    def of(settings: Settings) -> FieldSteps:
        """As ``settings`` ask for."""
        computed = settings.computed_steps
        denoised = range(settings.start_step, settings.steps) if settings.redenoise else computed
        inverted = range(settings.steps - 1, denoised.start - 1, -1) if settings.inversion == "ddim" else range(0)
        return FieldSteps(inverted, denoised, computed)

    def __len__(self) -> int:
        return len(self.inverted) + len(self.denoised)


def denoise_field(
    pipeline: Pipeline, origin: Origin | JoinedOrigins, field: Field, num_classes: int, reached: Reached | None
) -> Generator[Reached | None, None, Tensor]:
    """z_out [1, 4, h', w'] of ``field``. Yields after each group of windows, and at the end of a step what is reached.

    With ``reached``, of an earlier run of the same, it goes on from there. The origin's features are computed once a
    step, for all windows.
    """
    walk = _Walk(pipeline, origin, field, num_classes)
    steps = FieldSteps.of(pipeline.settings)
    state = {"clean": field.clean} if reached is None else {**reached.tensors}
    done = 0 if reached is None else reached.done
    order = [(walk.invert, i) for i in steps.inverted] + [(walk.denoise, i) for i in steps.denoised]
    for work, i in order[done:]:
        state = yield from work(i, state)
        done += 1
        yield Reached(done, state)
    return state["z"][None]


class _Walk:
    """The steps of one field. Each takes the state that it begins with and returns the next; windows tick between."""

    def __init__(self, pipeline: Pipeline, origin: Origin | JoinedOrigins, field: Field, num_classes: int) -> None:
        self.pipeline, self.settings, self.schedule = pipeline, pipeline.settings, pipeline.schedule
        self.field, self.layout, self.num_classes = field, field.layout, num_classes
        self.weights = field.layout.weights(field.clean)
        self.steps = FieldSteps.of(self.settings)
        self.origin = PairBatch([origin], [], [0])
        self.of_origin = self.origin.origin_features(
            pipeline.text, self.schedule, self.settings.origin_features(), pipeline.execution.batch
        )
        labels = (field.labels[0][None], self.origin.origin_labels(0))
        as_one = self.settings.adain == "global"
        self.latent_labels = tuple((each == num_classes).long() for each in labels) if as_one else labels
        self.adain_labels = 2 if as_one else num_classes + 1

    def invert(self, i: int, state: Mapping[str, Tensor]) -> Generator[None, None, dict[str, Tensor]]:
        """DDIM inversion to x_i. Kept is what denoising reads of it."""
        z = state["clean" if i == self.steps.inverted.start else f"x.{i + 1}"]
        eps = yield from self._joined(self.pipeline.inverting, z, i)
        step = self.schedule[i]
        read = {self.steps.denoised.start}
        if not self.settings.redenoise:
            read |= {each for each in self.settings.structure_features() if each in self.steps.computed}
        kept = {name: x for name, x in state.items() if name != f"x.{i + 1}" or i + 1 in read}
        return {**kept, f"x.{i}": ddim_step(z, eps, step.alpha_bar_prev, step.alpha_bar)}

    def denoise(self, i: int, state: Mapping[str, Tensor]) -> Generator[None, None, dict[str, Tensor]]:
        """Step i of z_out, and of the structure where it is denoised again."""
        settings, step, j = self.settings, self.schedule[i], i - self.settings.start_step
        again, computing = settings.redenoise, i in self.steps.computed
        stochastic = settings.inversion == "ddpm" and i < len(self.schedule) - 1
        from_maps = stochastic and (again or settings.fresh_noise < 1.0)
        shown = settings.structure_features().get(i, ()) if computing else ()
        drawn = self._drawn(i) if settings.inversion == "ddpm" else None
        x = state.get(f"x.{i}", drawn)  # the structure's: denoised again, inverted, or drawn
        z = state.get("z", x)
        if z is None or (x is None and (again or shown)):
            raise ValueError(f"a run cannot go on at step {i} from {sorted(state)}")

        of_origin = self.of_origin.at(i) if computing else {}
        eps: dict[Window, Tensor] = {}
        eps_inverted: dict[Window, Tensor] = {}
        eps_again: dict[Window, Tensor] = {}
        for group in self.layout.groups(self.pipeline.execution.batch):
            features: AttentionFeatures = of_origin
            if from_maps:
                assert drawn is not None
                inverted = self.pipeline.inverting(_cut(drawn, group), step.t, capture=() if again else shown)
                eps_inverted |= zip(group, inverted.eps, strict=True)
                features = inverted.features or features
            if again and x is not None:
                predicted = self.pipeline.text(_cut(x, group), step.t, capture=shown)
                eps_again |= zip(group, predicted.eps, strict=True)
                features = predicted.features or features
            elif shown and not from_maps and x is not None:
                features = self.pipeline.text.features(_cut(x, group), step.t, shown)
            if computing:
                source = self._source(group, features, from_structure=bool(shown))
                eps |= zip(group, predict(self.pipeline.text, _cut(z, group), step.t, source, settings, j), strict=True)
            yield

        noise = None
        if from_maps:
            assert drawn is not None
            mean = ddim_step(drawn, self._join(eps_inverted), step.alpha_bar, step.alpha_bar_prev, step.sigma)
            noise = (self._drawn(i + 1) - mean) / step.sigma
        # What is read again of the structure: not what a step behind had.
        after = {name: each for name, each in state.items() if name != f"x.{i}"}
        if again and x is not None:
            after[f"x.{i + 1}"] = denoise_step(x, self._join(eps_again), step, noise)
        if not computing:
            return after
        if stochastic and self.field.fresh is not None:
            fresh = self.field.fresh.at(i).to(z.device, z.dtype)
            noise = mix_noise(noise, fresh, settings.fresh_noise)
        z = denoise_step(z, self._join(eps), step, noise)[None]
        matched = settings.adain_classes(j, self.num_classes)
        if matched:
            target, of_the_origin = self.latent_labels
            z = masked_adain(
                z,
                self.origin.origin_latents(i + 1),
                target,
                of_the_origin,
                classes=matched,
                num_classes=self.adain_labels,
                impl=self.pipeline.execution.impl,
            )
        return {**after, "z": z[0]}

    def _drawn(self, i: int) -> Tensor:
        """x_i [4, h', w'] of the structure's own trajectory of drawn noise."""
        if i == len(self.schedule):
            return self.field.clean
        clean = self.field.clean
        noise = self.field.noise.at(i).to(clean.device, clean.dtype)
        return add_noise(clean, noise, self.schedule[i].alpha_bar)

    def _source(self, group: tuple[Window, ...], features: AttentionFeatures, *, from_structure: bool) -> KVSource:
        def target_labels(level: int) -> Tensor:
            return _cut(self.field.labels[level], group, level)

        classes = classes_of(
            target_labels,
            self.origin.origin_labels,
            self.num_classes,
            self.settings,
            features,
            from_structure=from_structure,
        )
        return KVSource(features, self.settings.contrast, self.pipeline.execution.impl, classes)

    def _joined(self, denoiser: Denoiser, z: Tensor, i: int) -> Generator[None, None, Tensor]:
        parts: dict[Window, Tensor] = {}
        for group in self.layout.groups(self.pipeline.execution.batch):
            parts |= zip(group, denoiser(_cut(z, group), self.schedule[i].t).eps, strict=True)
            yield
        return self._join(parts)

    def _join(self, parts: Mapping[Window, Tensor]) -> Tensor:
        return self.layout.join(parts, self.weights)


def _cut(field: Tensor, group: tuple[Window, ...], level: int = 0) -> Tensor:
    """The windows of ``group`` of ``field`` [..., H, W] at ``level`` of the UNet, as a batch [n, ..., h, w]."""
    return torch.stack([window.of(field, level) for window in group])
