"""What is compared: ways of training on the same few annotated images, each an arm, with its control beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from imaging.errors import InputError, brief

SetName = Literal["", "copies", "collage", "vae", "winter", "alaluf", "no-swap", "no-adain"]
"""Where an arm's further images come from; each such set has the same origins, targets and turns, round for round."""

METHOD_SETS: tuple[SetName, ...] = ("winter", "alaluf", "no-swap", "no-adain")
"""Those that the method makes, as `dataset` does."""
REAL = "real"
MOST_ROUNDS = 100


@dataclass(frozen=True)
class Kind:
    """A kind of arm. ``every_round`` is for those whose curve over rounds is wanted, not its end alone."""

    words: str
    source: SetName
    every_round: bool = False


KINDS: dict[str, Kind] = {
    REAL: Kind("the annotated images alone", ""),
    "copies": Kind("the annotated images again, under the same turns", "copies"),
    "collage": Kind("the origin's tissue pasted into the target map, class by class", "collage"),
    "vae": Kind("the copies through the autoencoder and back", "vae"),
    "winter": Kind("in-silico images", "winter", every_round=True),
    "alaluf": Kind("in-silico images of the baseline", "alaluf", every_round=True),
    "no-swap": Kind("in-silico images without the swap of keys and values", "no-swap"),
    "no-adain": Kind("in-silico images without AdaIN", "no-adain"),
    "half": Kind("in-silico images, half of each batch real", "winter"),
    "trust": Kind("in-silico images, doubtful pixels left out", "winter"),
    "trust-random": Kind("in-silico images, as many pixels left out elsewhere", "winter"),
    "fidelity": Kind("in-silico images that the subset's own network finds most like their maps", "winter"),
    "fidelity-random": Kind("as many in-silico images, by chance", "winter"),
}
DEFAULT = ",".join(KINDS)


@dataclass(frozen=True)
class Arm:
    """An arm with ``rounds`` further images for every annotated one; 0 for the annotated ones alone."""

    kind: str
    rounds: int

    @property
    def key(self) -> str:
        """As it is written and named: ``winter@4``; without a number for the annotated images alone."""
        return self.kind if self.kind == REAL else f"{self.kind}@{self.rounds}"

    @property
    def source(self) -> SetName:
        """The set that its further images are of."""
        return KINDS[self.kind].source


def parse_rounds(text: str) -> tuple[int, ...]:
    """``1,2,4`` -> (1, 2, 4). Raises InputError."""
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,4}", part) and 1 <= int(part) <= MOST_ROUNDS for part in parts):
        raise InputError(f"`rounds` {brief(text)}: give numbers from 1 to {MOST_ROUNDS} with commas, such as 1,2,4")
    return tuple(sorted({int(part) for part in parts}))


def parse_arms(text: str, rounds: Sequence[int]) -> tuple[Arm, ...]:
    """``copies,winter@1`` -> arms. One without a number has the last of ``rounds``, or all where a curve is wanted.

    The annotated images alone are always among them, first.

    Raises:
        InputError: an arm that there is not, or a number of rounds that is none of ``rounds``.
    """
    arms = [Arm(REAL, 0)]
    for part in (part.strip() for part in text.split(",")):
        name, at, number = part.partition("@")
        if name not in KINDS or (at and not re.fullmatch(r"[0-9]{1,4}", number)) or (at and name == REAL):
            raise InputError(f"`arms`: {brief(part)} is none; known are {', '.join(KINDS)}, with @ROUNDS or without")
        if at and int(number) not in rounds:
            listed = ",".join(str(each) for each in rounds)
            raise InputError(f"`arms`: {brief(part)}: its rounds are none of `rounds` {listed}; add them there")
        wanted = [int(number)] if at else (list(rounds) if KINDS[name].every_round else [rounds[-1]])
        arms += [Arm(name, each) for each in wanted if name != REAL]
    return tuple(dict.fromkeys(arms))


def parse_comparison(text: str | None, arms: Sequence[Arm]) -> tuple[Arm, Arm]:
    """``winter@4:copies@4`` -> the two arms; if not given, the most in-silico images against their copies.

    Raises:
        InputError: an arm that is not among ``arms``.
    """
    known = {arm.key: arm for arm in arms}
    if text is None:
        made = [arm for arm in arms if arm.source in METHOD_SETS]
        if not made:
            raise InputError("`main`: no arm has in-silico images; say which two arms the verdict is on, as ONE:OTHER")
        first = max(made, key=lambda arm: (arm.kind == "winter", arm.rounds))
        return first, known.get(f"copies@{first.rounds}", known[REAL])
    one, _, other = text.partition(":")
    for key in (one, other):
        if key not in known:
            raise InputError(f"`main` {brief(text)}: write ONE:OTHER of the arms {', '.join(known)}")
    return known[one], known[other]


def needed_first(arms: Sequence[Arm]) -> tuple[SetName, ...]:
    """The sets that ``arms`` take images from, in their order."""
    return tuple(dict.fromkeys(arm.source for arm in arms if arm.source))
