"""Who is trained on: splits, and nested subsets of whole slides or patients (`Sample.group`).

Everything is a function of names, class shares and a seed, by SHA-256, so that it is the same everywhere.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from evaluation.samples import Sample
from imaging.errors import InputError, brief

TRAIN, VALIDATION, TEST = "train", "val", "test"
SPLITS = {
    **dict.fromkeys(("train", "training"), TRAIN),
    **dict.fromkeys(("val", "valid", "validation"), VALIDATION),
    **dict.fromkeys(("test", "testing"), TEST),
}
STRATA = 3


@dataclass(frozen=True)
class Splits:
    """All annotated images of an experiment; no slide and no patient is in two of them."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    test: tuple[Sample, ...]

    @property
    def everything(self) -> tuple[Sample, ...]:
        """All of them."""
        return (*self.train, *self.validation, *self.test)


@dataclass(frozen=True)
class Subset:
    """What one annotator could have annotated: a ``share`` of the slides, the ``draw``-th such choice. Groups."""

    share: float
    draw: int
    train: tuple[str, ...]
    validation: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its name in folders: ``s10-d0`` is the first choice of 10 %."""
        return f"s{share_text(self.share)}-d{self.draw}"


def share_text(share: float) -> str:
    """0.1 -> ``10``, 0.025 -> ``2p5``: a share in percent as names hold it."""
    return f"{100 * share:.6g}".replace(".", "p")


def make_splits(
    samples: Sequence[Sample],
    test: Sequence[Sample] | None,
    first_class: Mapping[str, float],
    *,
    validation_share: float,
    test_share: float,
    seed: int,
) -> Splits:
    """The splits that ``samples`` say, with the missing ones drawn by groups, stratified by ``first_class``.

    ``first_class`` is each sample's share of pixels of the scored class, by name. ``test`` is a test set of its own.

    Raises:
        InputError: a split of unknown name; two test sets; none and no share for one; too few groups.
    """
    unknown = sorted({each.split for each in samples if each.split.lower() not in SPLITS} - {""})
    named = {each.split for each in samples} != {""}
    if unknown or (named and any(not each.split for each in samples)):
        what = f"the split {brief(unknown[0])} is" if unknown else "some images without a split are"
        raise InputError(f"{what} none of train, val and test: rename it, or take these images out")
    parts: dict[str, list[Sample]] = {TRAIN: [], VALIDATION: [], TEST: list(test or ())}
    for each in samples:
        split = SPLITS[each.split.lower()] if named else TRAIN
        if split == TEST and test is not None:
            raise InputError("`test`: the input has a test split of its own; give one of the two")
        parts[split].append(each)
    if not parts[TRAIN]:
        raise InputError("there is no split `train`: nothing to train on")
    if named and not parts[TEST]:
        raise InputError("there is no split `test`: give a folder with `test`")
    for split, share in ((TEST, test_share), (VALIDATION, validation_share)):
        if not parts[split]:
            taken = _drawn(parts[TRAIN], first_class, share, seed, split)
            parts[split] = [each for each in parts[TRAIN] if each.group in taken]
            parts[TRAIN] = [each for each in parts[TRAIN] if each.group not in taken]
    train, validation, tests = (
        tuple(replace(each, split=split) for each in parts[split]) for split in (TRAIN, VALIDATION, TEST)
    )
    return Splits(train, validation, tests)


def _drawn(
    samples: Sequence[Sample], first_class: Mapping[str, float], share: float, seed: int, split: str
) -> set[str]:
    values = group_means(samples, first_class)
    count = _count(share, len(values))
    if len(values) < 3 or count >= len(values):
        raise InputError(
            f"only {len(values)} slides or patients to draw the split {split} from; give more, or splits of your own"
        )
    return set(stratified_order(values, list(values.values()), f"{seed} {split}")[:count])


def leaks(splits: Splits, digests: Mapping[str, str]) -> list[str]:
    """A line for each slide, patient and image file (by its digest, by name) that is in several splits."""
    found = []
    kinds = (
        ("slide", lambda each: each.slide),
        ("patient", lambda each: each.patient),
        ("image", lambda each: digests.get(each.name, "")),
    )
    for what, value_of in kinds:
        where: dict[str, dict[str, str]] = defaultdict(dict)
        for each in splits.everything:
            if value_of(each):
                where[value_of(each)].setdefault(each.split, each.name)
        for value, names in where.items():
            if len(names) > 1:
                places = ", ".join(f"{brief(name)} in {split}" for split, name in names.items())
                subject = "the same image" if what == "image" else f"{what} {brief(value)}"
                found.append(f"{subject} is in several splits ({places}): what is judged on would be known; mend that")
    return found


def group_means(samples: Iterable[Sample], values: Mapping[str, float]) -> dict[str, float]:
    """The mean of ``values``, by sample name, over each group, in the order in which groups come."""
    sums: dict[str, list[float]] = defaultdict(list)
    for each in samples:
        sums[each.group].append(values[each.name])
    return {group: sum(found) / len(found) for group, found in sums.items()}


def choose_subsets(
    splits: Splits, first_class: Mapping[str, float], shares: Sequence[float], draws: int, seed: int
) -> tuple[Subset, ...]:
    """Nested subsets: within a draw the groups of a smaller share are among those of a larger one.

    Training groups are taken by chance; validation groups stratified by their share of the scored class, in the
    proportions of the test set. The whole set is one subset, of draw 0.
    """
    groups = list(dict.fromkeys(each.group for each in splits.train))
    validation = group_means(splits.validation, first_class)
    test = list(group_means(splits.test, first_class).values())
    found = []
    for share in sorted(shares):
        for draw in range(1 if share == 1.0 else draws):
            order = random_order(groups, f"{seed} train {draw}")
            strata = stratified_order(validation, test, f"{seed} validation {draw}")
            found.append(
                Subset(
                    share, draw, tuple(order[: _count(share, len(order))]), tuple(strata[: _count(share, len(strata))])
                )
            )
    return tuple(found)


def random_order(names: Sequence[str], key: str) -> list[str]:
    """``names`` shuffled by ``key``; where one stands among the others does not depend on how many there are."""
    return sorted(names, key=lambda name: (_random(key, name), name))


def stratified_order(values: Mapping[str, float], reference: Sequence[float], key: str) -> list[str]:
    """The names of ``values`` in an order of which every beginning is spread over the thirds of ``reference``.

    The thirds take turns, in an order drawn anew each time round; within one the names are shuffled. One that is used
    up is passed over.
    """
    ordered = sorted(reference)
    bounds = [ordered[len(ordered) * third // STRATA] for third in range(1, STRATA)]
    strata: list[list[str]] = [[] for _ in range(STRATA)]
    for name in random_order(list(values), key):
        strata[sum(values[name] >= bound for bound in bounds)].append(name)
    found: list[str] = []
    turn = 0
    while len(found) < len(values):
        for place in random_order([str(third) for third in range(STRATA)], f"{key} {turn}"):
            if strata[int(place)]:
                found.append(strata[int(place)].pop(0))
        turn += 1
    return found


def _count(share: float, total: int) -> int:
    return min(total, max(1, int(share * total + 0.5)))


def _random(key: str, name: str) -> str:
    return hashlib.sha256(f"{key}\0{name}".encode("utf-8", "surrogateescape")).hexdigest()
