"""What a run of the method can be told, the two presets, and which step does what (method.md, "Denoising")."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from imaging.errors import InputError
from model.files import shown, shown_name

Inversion = Literal["ddpm", "ddim"]
AdaIN = Literal["alternating", "all", "global", "foreground", "none"]
INVERSIONS: tuple[Inversion, ...] = ("ddpm", "ddim")
ADAIN_MODES: tuple[AdaIN, ...] = ("alternating", "all", "global", "foreground", "none")
DDPM_SKIP_STEPS = 32
SPANS = ("cross_attn_64", "cross_attn_32", "adain_range")
MOST_STEPS = 999
CONTRASTS = (1e-6, 1e6)
"""What contrast may be, both included: within it every implementation of attention holds in float32."""
LARGEST_GUIDANCE = 1000.0
"""Of either sign. Far beyond any use; a hundred steps of more would leave float32's range."""


@dataclass(frozen=True)
class Span:
    """Half-open range of executed steps [start, stop)."""

    start: int
    stop: int

    @staticmethod
    def parse(text: str) -> Span:
        """``"10:90"`` -> Span(10, 90). Raises InputError for anything but two numbers A < B."""
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*:\s*([0-9]{1,9})\s*", text)
        if found is None:
            raise InputError(f"range {shown(text)}: write it as A:B with whole numbers, for example 10:90")
        span = Span(int(found[1]), int(found[2]))
        if span.start >= span.stop:
            kind = "empty" if span.start == span.stop else "reversed"
            raise InputError(f"range {text!r} is {kind}: A must be less than B (the step B is not in it)")
        return span

    def __contains__(self, j: object) -> bool:
        return isinstance(j, int) and self.start <= j < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


@dataclass(frozen=True)
class Settings:
    """All that decides the result besides the inputs, the weights and the seed. Defaults: the ``winter`` preset.

    ``skip_steps`` None means 32 for ``ddpm`` and 0 for ``ddim``. ``guidance`` is a of alpha_j, ``contrast`` beta. A
    ``cross_attn`` of None swaps nothing at that level. ``counter_lag`` is subtracted from j where swaps and
    structure steps are tested. Extensions: with ``restrict_attention``, swapped attention sees the query's class
    alone; with ``adain_features`` its output takes the origin's values' statistics, class by class.
    ``structure_every`` 0 never takes the structure's keys.
    """

    prompt: str = "an immunohistochemistry image of epithelium and stroma"
    steps: int = 100
    skip_steps: int | None = None
    inversion: Inversion = "ddpm"
    inversion_guidance: float = 1.0
    cross_attn_64: Span | None = Span(10, 90)
    cross_attn_32: Span | None = Span(10, 70)
    adain_range: Span = Span(20, 100)
    adain: AdaIN = "alternating"
    guidance: float = 3.5
    contrast: float = 1.67
    structure_every: int = 5
    structure_until: int = 40
    class_values: tuple[float, ...] | None = None
    mask_noise: float = 1e-4
    fresh_noise: float = 0.0
    restrict_attention: bool = False
    adain_features: bool = False
    redenoise: bool = False
    counter_lag: int = 0
    free_u: bool = False

    @property
    def start_step(self) -> int:
        """S of method.md: the index of the first executed step."""
        if self.skip_steps is not None:
            return self.skip_steps
        return DDPM_SKIP_STEPS if self.inversion == "ddpm" else 0

    @property
    def num_denoising_steps(self) -> int:
        """J of method.md: the number of executed steps."""
        return self.steps - self.start_step

    def check(self) -> None:
        """Raise InputError, in one line and naming the option, for a value that makes no sense."""
        guidances = f"from {-LARGEST_GUIDANCE:g} to {LARGEST_GUIDANCE:g}"
        problems = [
            (not 1 <= self.steps <= MOST_STEPS, f"--steps {self.steps}: must be from 1 to {MOST_STEPS}"),
            (self.start_step < 0, f"--skip-steps {self.start_step}: must not be negative"),
            (
                self.start_step >= self.steps,
                f"--skip-steps {self.start_step} leaves none of {self.steps} steps: give fewer, or more --steps",
            ),
            (
                self.inversion not in INVERSIONS,
                f"--inversion {shown_name(self.inversion)}: one of {', '.join(INVERSIONS)}",
            ),
            (self.adain not in ADAIN_MODES, f"--adain {shown_name(self.adain)}: one of {', '.join(ADAIN_MODES)}"),
            (self.structure_every < 0, f"--structure-every {self.structure_every}: must be 0 (off) or more"),
            (self.structure_until < 0, f"--structure-until {self.structure_until}: must not be negative"),
            (not 0.0 <= self.fresh_noise <= 1.0, f"--fresh-noise {self.fresh_noise}: must be from 0 to 1"),
            (not 0.0 <= self.mask_noise <= 1.0, f"--mask-noise {self.mask_noise}: a variance from 0 to 1"),
            (
                not CONTRASTS[0] <= self.contrast <= CONTRASTS[1],
                f"--contrast {self.contrast}: must be from {CONTRASTS[0]:g} to {CONTRASTS[1]:g} (1 is off)",
            ),
            (not abs(self.guidance) <= LARGEST_GUIDANCE, f"--guidance {self.guidance}: must be {guidances}"),
            (
                not abs(self.inversion_guidance) <= LARGEST_GUIDANCE,
                f"--inversion-guidance {self.inversion_guidance}: must be {guidances}",
            ),
            (
                self.class_values is not None and not all(0.0 <= v <= 1.0 for v in self.class_values),
                "--class-values: greys must be from 0 (black) to 1 (white)",
            ),
        ]
        for wrong, message in problems:
            if wrong:
                raise InputError(message)

    def swapped_levels(self, j: int) -> tuple[int, ...]:
        """Decoder levels whose self-attention borrows keys and values in executed step ``j`` (step 2)."""
        counter = j - self.counter_lag
        spans = ((1, self.cross_attn_32), (0, self.cross_attn_64))
        return tuple(level for level, span in spans if span is not None and counter in span)

    def borrows_from_structure(self, j: int) -> bool:
        """Whether the swap of step ``j`` takes the structure's keys and values instead of the origin's."""
        counter = j - self.counter_lag
        return self.structure_every > 0 and counter < self.structure_until and counter % self.structure_every == 0

    def structure_lending(self) -> dict[int, tuple[int, ...]]:
        """The levels at which the structure lends keys and values, by step i, in the steps that take them from it."""
        return self._lending(structure=True)

    def origin_lending(self) -> dict[int, tuple[int, ...]]:
        """The levels at which the origin lends keys and values, by step i, in the steps that take them from it."""
        return self._lending(structure=False)

    def _lending(self, *, structure: bool) -> dict[int, tuple[int, ...]]:
        steps = (j for j in range(self.num_denoising_steps) if self.borrows_from_structure(j) == structure)
        lending = {self.start_step + j: self.swapped_levels(j) for j in steps}
        return {i: levels for i, levels in lending.items() if levels}

    @property
    def num_known_steps(self) -> int:
        """Executed steps, from the first, that need no computing: z_out is still a trajectory that is known.

        So it is up to the first swap or AdaIN, if the structure's own noise alone drives it and the inversion used the
        prediction that denoising uses (method.md, "What is exact and may be saved"). The last step takes no noise,
        which the known trajectory does, and is always computed.
        """
        followed = self.redenoise or (self.inversion == "ddpm" and self.inversion_guidance == 1.0)
        if not followed or self.fresh_noise > 0.0:
            return 0
        touching = (j for j in range(self.num_denoising_steps) if self.swapped_levels(j) or self.adain_classes(j, 1))
        return min(next(touching, self.num_denoising_steps), self.num_denoising_steps - 1)

    def swap_guidance(self, j: int) -> float | None:
        """alpha_j of step 4, or None outside the guided steps.

        These go from the first start of the swap's ranges to the last stop, both included (10 to 90 by default).
        """
        spans = [span for span in (self.cross_attn_64, self.cross_attn_32) if span is not None]
        if not spans or not min(s.start for s in spans) <= j <= max(s.stop for s in spans):
            return None
        end = max(self.guidance / 2.0, 1.0)
        if self.num_denoising_steps == 1:
            return self.guidance
        return self.guidance + (end - self.guidance) * j / (self.num_denoising_steps - 1)

    def adain_classes(self, j: int, num_classes: int) -> tuple[int, ...]:
        """The classes whose statistics step ``j`` matches (steps 6 and 7); ``global`` counts as the one class 0."""
        if j not in self.adain_range or self.adain == "none":
            return ()
        if self.adain == "alternating":
            return (j % num_classes,)
        return tuple(range(num_classes)) if self.adain == "all" else (0,)

    def greys(self, num_classes: int) -> tuple[float, ...]:
        """v_c of the structure image. Raises InputError if ``class_values`` has another number of classes."""
        if self.class_values is not None:
            if len(self.class_values) != num_classes:
                raise InputError(
                    f"--class-values has {len(self.class_values)} values, but there are {num_classes} classes"
                )
            return self.class_values
        if num_classes == 1:
            return (0.1,)
        return tuple(0.1 + 0.4 * c / (num_classes - 1) for c in range(num_classes))


PRESETS: Mapping[str, Settings] = {
    "winter": Settings(),
    "alaluf": Settings(adain="foreground", inversion_guidance=3.5, redenoise=True, counter_lag=1, free_u=True),
}


def in_proportion(settings: Settings, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """What ``overrides`` leave to be scaled where they change the number of steps: values by field name.

    That is the skipped steps, the ranges and the last structure step of ``settings``, as far as ``overrides`` do not
    give them. Rounded to whole steps; a range keeps one at least.
    """
    others = {name: value for name, value in overrides.items() if name != "steps"}
    old, steps = replace(settings, **others), overrides.get("steps", settings.steps)
    if steps == old.steps or not 1 <= steps <= MOST_STEPS:
        return {}

    def scaled(count: int) -> int:
        return math.floor(count * steps / old.steps + 0.5)

    values: dict[str, Any] = {
        "skip_steps": min(scaled(old.start_step), steps - 1),
        "structure_until": scaled(old.structure_until),
    }
    for name in SPANS:
        span = getattr(old, name)
        if span is not None:
            start = scaled(span.start)
            values[name] = Span(start, max(start + 1, scaled(span.stop)))
    return {name: value for name, value in values.items() if name not in overrides and value != getattr(old, name)}


def choose(preset: str, overrides: Mapping[str, Any]) -> Settings:
    """The ``preset`` with ``overrides`` by field name, checked. Raises InputError."""
    if preset not in PRESETS:
        raise InputError(f"--preset {shown_name(preset)}: one of {', '.join(PRESETS)}")
    settings = replace(PRESETS[preset], **overrides)
    settings.check()
    return settings
