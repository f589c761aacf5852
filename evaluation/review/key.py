"""The sealed key of a study: which image is which. Its digest is the study's name, which page and answers carry.

So no other key fits them, and none that was changed after the readers had answered.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from evaluation.review.jsonfile import Fields, read_json
from imaging.errors import InputError
from imaging.rawfile import shown

FORMAT = "stainloom review key"
SINGLE, PAIRS = "single", "pairs"
MODES = (SINGLE, PAIRS)


@dataclass(frozen=True)
class Arm:
    """A set that images come from."""

    name: str
    path: str
    synthetic: bool


@dataclass(frozen=True)
class Image:
    """An image that is shown, by its names in its set. ``shares`` are of its pixels in each class."""

    arm: int
    name: str
    origin: str
    round: int
    sha256: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Trial:
    """One question: an image, or two from left to right, as indices. ``pictures`` are digests of what the page shows.

    ``repeat_of`` is the trial that is shown again in this one, mirrored, and with sides changed; empty for none.
    """

    id: str
    images: tuple[int, ...]
    pictures: tuple[str, ...]
    repeat_of: str = ""


@dataclass(frozen=True)
class Key:
    """All that a study's page does not tell. ``size`` is height and width of every picture in px."""

    mode: str
    seed: int
    size: tuple[int, int]
    version: str
    classes: tuple[str, ...]
    arms: tuple[Arm, ...]
    images: tuple[Image, ...]
    trials: tuple[Trial, ...]

    @property
    def study(self) -> str:
        """SHA-256 of the key."""
        content = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(content.encode("ascii")).hexdigest()

    def truth(self, trial: Trial) -> int:
        """1 where the image, or of two the right one, is in-silico, else -1."""
        return 1 if self.arms[self.images[trial.images[-1]].arm].synthetic else -1

    def synthetic(self, trial: Trial) -> int | None:
        """The index of the in-silico image of a trial, if there is one."""
        return next((each for each in trial.images if self.arms[self.images[each].arm].synthetic), None)

    def text(self) -> str:
        """The key's file."""
        return json.dumps({"format": FORMAT, "study": self.study, **asdict(self)}, indent=1) + "\n"


def read_key(path: Path) -> Key:
    """The key in a file.

    Raises:
        InputError: it is none, or was changed since the study was made.
    """
    content = read_json(path)
    name = shown(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{name}: no key of a review study; give the key.json that `review make` wrote")
    try:
        key = _key(Fields(name, content))
        whole = key.study == content.get("study")
    except InputError as error:
        raise InputError(f"{error}; the key is damaged or was edited, and cannot be used") from error
    if not whole:
        raise InputError(f"{name}: was changed since the study was made; give the key as `review make` wrote it")
    return key


def _key(fields: Fields) -> Key:
    height, width = fields.whole_list("size", 2)
    arms = tuple(Arm(each.text("name"), each.text("path"), each.flag("synthetic")) for each in fields.objects("arms"))
    images = tuple(_image(each, len(arms)) for each in fields.objects("images"))
    mode = fields.one_of("mode", MODES)
    trials = tuple(_trial(each, len(images), 1 if mode == SINGLE else 2) for each in fields.objects("trials"))
    key = Key(
        mode,
        fields.whole("seed"),
        (height, width),
        fields.text("version"),
        tuple(fields.texts("classes")),
        arms,
        images,
        trials,
    )
    by_id: Mapping[str, Trial] = {each.id: each for each in trials}
    first = {each.id for each in trials if not each.repeat_of}
    if len(by_id) < len(trials) or any(each.repeat_of and each.repeat_of not in first for each in trials):
        raise InputError(f"{fields.where}: trials of the same name, or repeats of nothing")
    if any(len(each.shares) != len(key.classes) for each in images):
        raise InputError(f"{fields.where}: shares of other classes")
    if mode == PAIRS and any(len({arms[images[index].arm].synthetic for index in each.images}) != 2 for each in trials):
        raise InputError(f"{fields.where}: pairs of one kind")
    return key


def _image(fields: Fields, arms: int) -> Image:
    return Image(
        fields.whole("arm", arms),
        fields.text("name"),
        fields.text("origin"),
        fields.whole("round"),
        fields.text("sha256"),
        tuple(fields.shares("shares")),
    )


def _trial(fields: Fields, images: int, count: int) -> Trial:
    indices, pictures = fields.whole_list("images", count, images), fields.texts("pictures")
    return Trial(fields.text("id"), tuple(indices), tuple(pictures), fields.text("repeat_of"))
