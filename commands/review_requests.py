"""What users ask of `review`: the fields are the options (`sampler.option`). Loads no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sampler.option import between, none_or, one_of, option

REVIEW_MODES = ("single", "pairs")


@dataclass(frozen=True)
class ReviewMakeRequest:
    """What the user asked of `review make`. ``real`` and ``insilico`` stand without names on its command line."""

    real: Path
    insilico: tuple[Path, ...]
    output: Path = option(Path("review"), "FOLDER", "a new folder for the page and its key")
    count: int = option(
        60,
        "N",
        "questions: single images, half of them real, or pairs of one real and one in-silico",
        check=between(2, 1000),
    )
    repeats: float = option(
        0.1, "SHARE", "of the questions come again, mirrored, for agreement with oneself", check=between(0, 0.5)
    )
    mode: str = option(
        "single", "MODE", "single (is it real?) or pairs (which of the two is not?)", check=one_of(*REVIEW_MODES)
    )
    classes: str | None = option(
        None, "NAME=VALUE,…", "the classes of the label maps, as in `dataset`; ignore=VALUE is no class"
    )
    side: int | None = option(
        None,
        "PX",
        "cut squares of this side from the middle of all images",
        shown="the most that all have",
        check=none_or(between(16, 4096)),
    )
    seed: int | None = option(
        None,
        "N",
        "the same seed deals the same study; keep it from readers",
        shown="drawn anew",
        check=none_or(between(0, 2**62)),
    )


@dataclass(frozen=True)
class ReviewScoreRequest:
    """What the user asked of `review score`. ``answers`` are files that stand without names on its command line."""

    answers: tuple[Path, ...]
    key: Path | None = option(None, "FILE", "the study's key.json")
    output: Path = option(Path("review_score"), "FOLDER", "where score.json, answers.csv and images.csv go")


@dataclass(frozen=True)
class ReviewRejectRequest:
    """What the user asked of `review reject`. ``dataset`` and ``ids`` stand without names on its command line."""

    dataset: Path
    ids: tuple[str, ...]
    reason: str = option("set aside by review", "TEXT", "goes into the images' rows")


REVIEW_REQUESTS = (ReviewMakeRequest, ReviewScoreRequest, ReviewRejectRequest)
"""All of these that a message may name a field of."""
