"""What a run of the method can be told, and which step does what (docs/method.md, "Denoising")."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Literal, get_args

from sampler.errors import SettingError
from sampler.option import at_least, between, check_options, none_or, one_of, option

Inversion = Literal["ddpm", "ddim"]
AdaIN = Literal["alternating", "all", "global", "foreground", "none"]
DDPM_SKIP_STEPS = 32
MOST_STEPS = 999
MOST_NOUNS = 32
LONGEST_NOUN = 64
CONTRASTS = (1e-6, 1e6)
"""What contrast may be, both included: within it every implementation of attention holds in float32."""
WINDOW = 512
"""Side of a window in px, where none is given: SD-1.x's own size."""
LARGEST_WHOLE = 768
"""Side in px up to which a target is denoised as a whole, where no window is given: beyond it SD-1.x repeats itself."""
MULTIPLE = 64
"""Sides of what the UNet takes are multiples of it, in px."""
LARGEST_GUIDANCE = 1000.0
"""Of either sign. Far beyond any use; a hundred steps of more would leave float32's range."""


@dataclass(frozen=True)
class Span:
    """Half-open range of executed steps [start, stop)."""

    start: int
    stop: int

    @staticmethod
    def parse(text: str) -> Span:
        """``"10:90"`` -> Span(10, 90). Raises ValueError for anything but two numbers A < B."""
        found = re.fullmatch(r"\s*([0-9]{1,9})\s*:\s*([0-9]{1,9})\s*", text)
        if found is None:
            raise ValueError("must be a range A:B of whole numbers, for example 10:90")
        span = Span(int(found[1]), int(found[2]))
        if span.start >= span.stop:
            kind = "empty" if span.start == span.stop else "reversed"
            raise ValueError(f"the range is {kind}: A must be less than B (the step B is not in it)")
        return span

    def __contains__(self, j: object) -> bool:
        return isinstance(j, int) and self.start <= j < self.stop

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}"


def _intensities(values: tuple[float, ...]) -> str | None:
    within = 0 < len(values) <= 256 and all(0.0 <= value <= 1.0 for value in values)
    return None if within else "must be intensities from 0 (black) to 1 (white)"


def _words(*words: str) -> str | None:
    composed = [unicodedata.normalize("NFC", word) for word in words]
    fine = 0 < len(words) <= MOST_NOUNS and all(word.isalpha() and len(word) <= LONGEST_NOUN for word in composed)
    return None if fine and len(set(words)) == len(words) else f"must be one word of letters, {LONGEST_NOUN} at most"


def _nouns(words: tuple[str, ...]) -> str | None:
    return None if _words(*words) is None else f"must be different words of letters with commas, {MOST_NOUNS} at most"


def _window(side: int) -> str | None:
    fits = side == 0 or (side >= 2 * MULTIPLE and side % MULTIPLE == 0)
    return None if fits else f"must be a multiple of {MULTIPLE} px from {2 * MULTIPLE} on, or 0 for no windows"


def _overlap(length: int) -> str | None:
    return None if length >= 0 and length % MULTIPLE == 0 else f"must be a multiple of {MULTIPLE} px, or 0"


GUIDANCE = between(-LARGEST_GUIDANCE, LARGEST_GUIDANCE)


@dataclass(frozen=True)
class Settings:
    """All that decides the result besides the inputs, the weights and the seed. Defaults: the ``winter`` preset.

    Fields without an option belong to the presets: ``redenoise`` denoises origin and structure again beside z_out,
    ``counter_lag`` is subtracted from j where swaps and structure steps are tested, ``free_u`` is the public code's.
    """

    prompt: str = option(
        "an immunohistochemistry image of epithelium and stroma", "TEXT", "text condition of every network call"
    )
    domain: str | None = option(
        None,
        "WORD",
        "what alaluf's images show: its prompt is 'A photo of a WORD', its object WORD",
        check=none_or(_words),
        shown="tissue with alaluf",
    )
    nouns: tuple[str, ...] | None = option(
        None,
        "NOUN,…",
        "words of the prompt that claim regions where alaluf finds its foreground, the object's first",
        check=none_or(_nouns),
        shown="the domain",
    )
    steps: int = option(100, "T", "steps of the whole schedule", check=between(1, MOST_STEPS))
    skip_steps: int | None = option(
        None, "S", "noisiest steps left out", check=none_or(at_least(0)), shown="32 with ddpm, 0 with ddim"
    )
    inversion: Inversion = option(
        "ddpm",
        "MODE",
        "ddpm: edit-friendly noise maps; ddim: deterministic",
        check=one_of(*get_args(Inversion)),
    )
    inversion_guidance: float = option(1.0, "S", "classifier-free guidance of the inversion", check=GUIDANCE)
    cross_attn_64: Span | None = option(
        Span(10, 90), "A:B", "steps that swap keys and values at latent resolution, or none"
    )
    cross_attn_32: Span | None = option(Span(10, 70), "A:B", "the same at half of it")
    adain_range: Span = option(Span(20, 100), "A:B", "steps that match statistics")
    adain: AdaIN = option(
        "alternating",
        "MODE",
        "whose statistics a step matches: " + ", ".join(get_args(AdaIN)),
        check=one_of(*get_args(AdaIN)),
    )
    guidance: float = option(
        3.5, "A", "how far the prediction moves from self- towards cross-attention's", check=GUIDANCE
    )
    contrast: float = option(1.67, "BETA", "contrast of the swapped attention, 1 is off", check=between(*CONTRASTS))
    structure_every: int = option(
        5, "N", "every Nth step swaps in the mask's own keys instead, 0 never", check=at_least(0)
    )
    structure_until: int = option(40, "J", "… in steps before this one", check=at_least(0))
    class_values: tuple[float, ...] | None = option(
        None, "V,V,…", "intensities that paint the classes", check=none_or(_intensities), shown="0.1,0.5 for two"
    )
    mask_noise: float = option(1e-4, "VAR", "variance of the noise on the painted mask", check=between(0, 1))
    fresh_noise: float = option(0.0, "F", "share of fresh noise in each step, 0 to 1", check=between(0, 1))
    within_class_attention: bool = option(
        False,
        None,
        "swapped attention sees the query's own class alone (an extension)",
        aliases=("restrict_attention",),
    )
    adain_features: bool = option(False, None, "match its output's statistics class by class too (an extension)")
    window: int | None = option(
        None,
        "PX",
        "side of the overlapping windows that larger targets are denoised in, 0 for none",
        check=none_or(_window),
        shown=f"{WINDOW} for targets with a side over {LARGEST_WHOLE}",
    )
    window_overlap: int = option(128, "PX", "by how much windows overlap at least", check=_overlap)
    redenoise: bool = False
    counter_lag: int = 0
    free_u: bool = False

    @property
    def start_step(self) -> int:
        """S of docs/method.md: the index of the first executed step."""
        if self.skip_steps is not None:
            return self.skip_steps
        return DDPM_SKIP_STEPS if self.inversion == "ddpm" else 0

    @property
    def num_denoising_steps(self) -> int:
        """J of docs/method.md: the number of executed steps."""
        return self.steps - self.start_step

    def check(self) -> None:
        """Raise SettingError for a value that makes no sense."""
        check_options(self)
        if self.start_step >= self.steps:
            reason = f"leaves none of {self.steps} steps: must be less than the number of steps"
            raise SettingError("skip_steps", self.start_step, reason)
        for name in ("domain", "nouns"):
            if getattr(self, name) is not None and not self.redenoise:
                raise SettingError(name, getattr(self, name), "belongs to `preset` alaluf, which finds its foreground")
        window = WINDOW if self.window is None else self.window
        if window and self.window_overlap >= window:
            raise SettingError("window_overlap", self.window_overlap, f"must be less than `window`, {window}")

    @property
    def object_nouns(self) -> tuple[str, ...]:
        """The nouns that claim regions in self-segmentation, the object's first."""
        return self.nouns or (() if self.domain is None else (self.domain,))

    @property
    def segmentation_step(self) -> int | None:
        """The step i whose network calls give the maps of self-segmentation; None where AdaIN wants no foreground."""
        wanted = self.redenoise and self.adain == "foreground" and self.adain_range.start < self.num_denoising_steps
        return self.start_step + self.adain_range.start if wanted else None

    def window_for(self, shape: tuple[int, ...]) -> int | None:
        """The windows' side, in px, of a target of ``shape`` (height, width); None if it goes through as a whole."""
        largest = max(shape)
        if self.window is None:
            return WINDOW if largest > LARGEST_WHOLE else None
        return self.window if 0 < self.window < largest else None

    def check_windows(self, shape: tuple[int, ...], *, finds_foreground: bool = False) -> None:
        """Raise SettingError for what a target of ``shape`` [H', W'] cannot be denoised with in windows."""
        if finds_foreground and self.segmentation_step is not None and self.window_for(shape):
            reason = "windows have no foreground of their own to find: give `origin_mask`, or 0"
            raise SettingError("window", self.window_for(shape), reason)
        if self.adain_features and self.window_for(shape):
            reason = "works within one pass, and a window's statistics are not the field's: leave it out, or `window` 0"
            raise SettingError("adain_features", True, reason)

    def swapped_levels(self, j: int) -> tuple[int, ...]:
        """Decoder levels whose self-attention takes another image's keys and values in executed step ``j`` (step 2)."""
        counter = j - self.counter_lag
        spans = ((1, self.cross_attn_32), (0, self.cross_attn_64))
        return tuple(level for level, span in spans if span is not None and counter in span)

    def swaps_in_structure(self, j: int) -> bool:
        """Whether the swap of step ``j`` takes the structure's keys and values instead of the origin's."""
        counter = j - self.counter_lag
        return self.structure_every > 0 and counter < self.structure_until and counter % self.structure_every == 0

    def structure_features(self) -> dict[int, tuple[int, ...]]:
        """The levels whose features are taken from the structure, by step i, in the steps that do."""
        return self._features(structure=True)

    def origin_features(self) -> dict[int, tuple[int, ...]]:
        """The levels whose features are taken from the origin, by step i, in the steps that do."""
        return self._features(structure=False)

    def _features(self, *, structure: bool) -> dict[int, tuple[int, ...]]:
        steps = (j for j in range(self.num_denoising_steps) if self.swaps_in_structure(j) == structure)
        wanted = {self.start_step + j: self.swapped_levels(j) for j in steps}
        return {i: levels for i, levels in wanted.items() if levels}

    @property
    def num_known_steps(self) -> int:
        """Executed steps, from the first, that need no computing: z_out is still a trajectory that is known.

        So it is up to the first swap or AdaIN, if the structure's own noise alone drives it and the inversion used the
        prediction that denoising uses (docs/method.md, "What is exact and may be saved"). The last step takes no noise,
        which the known trajectory does, and is always computed.
        """
        followed = self.redenoise or (self.inversion == "ddpm" and self.inversion_guidance == 1.0)
        if not followed or self.fresh_noise > 0.0:
            return 0
        touching = (j for j in range(self.num_denoising_steps) if self.swapped_levels(j) or self.adain_classes(j, 1))
        return min(next(touching, self.num_denoising_steps), self.num_denoising_steps - 1)

    @property
    def computed_steps(self) -> range:
        """The steps i that denoising computes: all executed ones but the known ones."""
        return range(self.start_step + self.num_known_steps, self.steps)

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

    def class_intensities(self, num_classes: int) -> tuple[float, ...]:
        """v_c of the structure image. Raises SettingError if ``class_values`` has another number of classes."""
        if self.class_values is not None:
            if len(self.class_values) != num_classes:
                reason = f"has {len(self.class_values)} values, but there are {num_classes} classes"
                raise SettingError("class_values", self.class_values, reason)
            return self.class_values
        if num_classes == 1:
            return (0.1,)
        return tuple(0.1 + 0.4 * c / (num_classes - 1) for c in range(num_classes))
