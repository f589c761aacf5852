"""What must not be known in training: images, slides and patients that a model is chosen or judged by."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from evaluation.samples import Sample
from imaging.errors import brief
from imaging.provenance import file_sha256


@dataclass(frozen=True)
class Known:
    """What is remembered of a sample. Texts are empty where a thing is not known.

    ``sha256`` is the image file's, ``masks`` are those of its label maps; an in-silico image has the name and digest
    of its ``origin``, and the digest of the label map ``target`` that it was made for.
    """

    name: str
    slide: str = ""
    patient: str = ""
    sha256: str = ""
    masks: tuple[str, ...] = ()
    synthetic: bool = False
    origin: str = ""
    origin_sha256: str = ""
    target_sha256: str = ""


def known(sample: Sample) -> Known:
    """What there is to remember of ``sample``. Raises InputError if a file cannot be read."""
    masks = [path for _, path in sample.masks] + ([] if sample.trusted is None else [sample.trusted])
    return Known(
        sample.name,
        sample.slide,
        sample.patient,
        file_sha256(sample.image),
        tuple(file_sha256(path) for path in masks),
        sample.synthetic,
        sample.origin,
        sample.origin_sha256,
        sample.target_sha256,
    )


def leaks(training: Iterable[Known], held_out: Sequence[Known], what: str, *, targets: bool = False) -> list[str]:
    """A line for each slide, patient and image of ``held_out`` (``what`` it is: validation, test) known in training.

    In-silico images count as images of their origin's slide and patient, and give away their origin itself: by its
    digest, or by its name where the digest is not known. With ``targets`` they give away the label map that they were
    made for as well.
    """
    held = _Held(held_out)
    found: dict[tuple[str, str], str] = {}
    for each in training:
        for kind, value, why in held.reasons(each, targets=targets):
            other = held.first[kind, value].name
            found.setdefault((kind, value), f"{why}, and {brief(other)} of the {what} is too")
    return [f"{line}; take one of them out" for line in found.values()]


def independent(training: Iterable[Known], held_out: Sequence[Known]) -> list[bool]:
    """Of each of ``training``, whether it tells nothing of ``held_out``."""
    held = _Held(held_out)
    return [not held.reasons(each, targets=False) for each in training]


class _Held:
    """What is held out, by each thing that it can be known by."""

    def __init__(self, held_out: Sequence[Known]) -> None:
        self.first: dict[tuple[str, str], Known] = {}
        for each in held_out:
            keys = [("slide", each.slide), ("patient", each.patient), ("image", each.sha256), ("name", each.name)]
            for kind, value in [*keys, *(("mask", mask) for mask in each.masks)]:
                if value:
                    self.first.setdefault((kind, value), each)

    def reasons(self, each: Known, *, targets: bool) -> list[tuple[str, str, str]]:
        """(kind, value, the beginning of a message) for all that ``each`` tells."""
        name = brief(each.name)
        made = "in-silico image " * each.synthetic
        asked = [
            ("slide", each.slide, f"slide {brief(each.slide)}: {made}{name} is trained on"),
            ("patient", each.patient, f"patient {brief(each.patient)}: {made}{name} is trained on"),
            ("image", each.sha256, f"{name} is trained on: the same image file is"),
        ]
        if each.synthetic:
            by_name = ("name", "" if each.origin_sha256 else each.origin)
            for kind, value in (("image", each.origin_sha256), by_name):
                asked.append((kind, value, f"{made}{name} is trained on: made from {brief(each.origin)}"))
            if targets:
                asked.append(("mask", each.target_sha256, f"{made}{name} is trained on: made for the label map of"))
        return [(kind, value, text) for kind, value, text in asked if value and (kind, value) in self.first]
