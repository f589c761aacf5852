"""What a dataset is made from: annotated images, where they lie and where they belong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from imaging.errors import InputError, brief
from imaging.rawfile import read_bytes, shown


@dataclass(frozen=True)
class SourcePair:
    """One annotated image as it was found. ``name`` is its own within the input, and stays the same when that moves.

    ``image`` None is a label map without image, which can be a target alone. ``split``, ``slide`` and ``patient`` are
    empty where they are not known.
    """

    name: str
    image: Path | None
    mask: Path
    split: str = ""
    slide: str = ""
    patient: str = ""

    @property
    def mask_name(self) -> str:
        """The mask's own name within the input, as ``name`` is the image's."""
        base = "" if self.image is None else str(self.image).removesuffix(self.name)
        mask = str(self.mask)
        return mask.removeprefix(base) if base and mask.startswith(base) else self.mask.name


def leaks(pairs: Iterable[SourcePair]) -> list[str]:
    """A line for each slide and patient of which there are images in several splits."""
    found = []
    kept = list(pairs)
    for what in ("slide", "patient"):
        splits: dict[str, dict[str, str]] = defaultdict(dict)
        for pair in kept:
            if getattr(pair, what):
                splits[getattr(pair, what)].setdefault(pair.split, pair.name)
        for value, names in splits.items():
            if len(names) > 1:
                examples = ", ".join(f"{brief(name)} in {brief(split or 'none')}" for split, name in names.items())
                found.append(
                    f"{what} {brief(value)}: has images in {len(names)} splits ({examples}), so what is learnt from "
                    f"one is known in the other; put all images of a {what} into one split"
                )
    return found


def read_names(path: Path) -> tuple[str, ...]:
    """The names in a text file, one a line, empty lines apart. Raises InputError."""
    try:
        names = tuple(line for line in read_bytes(path).decode("utf-8").split("\n") if line)
    except UnicodeDecodeError as error:
        raise InputError(f"{shown(path)}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    if not names:
        raise InputError(f"{shown(path)}: has no names; write those of the images, one a line")
    return names


def named(pairs: Sequence[SourcePair], names: Iterable[str], where: Path) -> list[SourcePair]:
    """Those of ``pairs`` that ``names`` name, in their order. Raises InputError if there is no such image."""
    wanted = set(names)
    missing = sorted(wanted - {pair.name for pair in pairs})
    if missing:
        raise InputError(f"{shown(where)}: names {brief(missing[0])}, and there is no such image to take; mend it")
    return [pair for pair in pairs if pair.name in wanted]


def choose_split(pairs: Sequence[SourcePair], wanted: str | None) -> tuple[list[SourcePair], str]:
    """The pairs that images are made for, and their split: ``wanted``, else ``train`` if there is one, else all.

    Raises:
        InputError: there is no such split, or there are several, none of them called ``train``.
    """
    splits = sorted({pair.split for pair in pairs})
    listed = ", ".join(brief(split or "none") for split in splits)
    if wanted is not None:
        if wanted not in splits:
            raise InputError(f"`split` {brief(wanted)}: there is no such split; known are {listed}")
        chosen = wanted
    elif len(splits) == 1:
        chosen = splits[0]
    else:
        chosen = next((split for split in splits if split.lower() in ("train", "training")), "")
        if not chosen:
            raise InputError(f"`split`: there are several ({listed}); say which one images are made for")
    return [pair for pair in pairs if pair.split == chosen], chosen
