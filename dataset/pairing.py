"""Which target mask each origin gets in each round (Winter et al., 3.1): similar class fractions, then similar shapes.

A plan is a function of the candidates, the rounds and the seed alone. Randomness is SHA-256 of the seed and of
contents, so that it is the same everywhere, and an origin's targets do not depend on what other origins there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dataset.shape import ShapeDescriptor, fraction_distance, shape_distance
from imaging.errors import InputError
from imaging.turns import DIHEDRAL, KEEP_SIZE, Dihedral, turn

NEAREST = 3
"""For each round so many candidates are taken by class fractions, of which the half nearest in shape remains."""


@dataclass(frozen=True)
class Candidate:
    """A label map that can be a target. ``digest`` is SHA-256 of its labels; ``turned`` of those under each element."""

    name: str
    digest: str
    shape: tuple[int, int]
    descriptor: ShapeDescriptor
    turned: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """The target of one image: the index of the candidate, the element it is turned by, and the distances (0 to 1)."""

    target: int
    dihedral: Dihedral
    fraction_distance: float
    shape_distance: float


def digest_of(labels: NDArray[np.int64]) -> str:
    """SHA-256 of a label map [H, W], its size included."""
    head = f"{labels.shape[0]}x{labels.shape[1]}:".encode()
    return hashlib.sha256(head + labels.astype(np.uint8).tobytes()).hexdigest()


def candidate(name: str, labels: NDArray[np.int64], descriptor: ShapeDescriptor) -> Candidate:
    """The candidate of a label map [H, W]."""
    turned = tuple(digest_of(turn(labels, element)) for element in DIHEDRAL)
    return Candidate(name, turned[0], (labels.shape[0], labels.shape[1]), descriptor, turned)


def choose_targets(
    origin: Candidate, candidates: Sequence[Candidate], fractions: NDArray[np.float64], rounds: int, seed: int
) -> list[Choice]:
    """The targets of one origin, one for each round. ``fractions`` [len(candidates), C] are the candidates'.

    The `NEAREST` · rounds candidates that are nearest in class fractions (total variation) are kept, of these the half
    that is nearest in shape, and of these, by chance, one for each round; each turned by a random element. No target
    looks like the origin's own map; no two look alike. Where there are fewer candidates than rounds, they come again
    under other elements, and at last the origin's own map, turned.

    Raises:
        InputError: there are not so many different targets.
    """
    order = _shuffled(seed, origin.digest, [each.digest for each in candidates])
    distances = fraction_distance(fractions, origin.descriptor.fractions)
    ranking = sorted(order, key=lambda index: distances[index])
    nearest = [index for index in ranking if origin.digest not in candidates[index].turned][: NEAREST * rounds]
    shapes = {index: shape_distance(origin.descriptor, candidates[index].descriptor) for index in nearest}
    kept = sorted(nearest, key=lambda index: shapes[index])
    pools = [kept[: max(rounds, len(kept) // 2)], kept, ranking]
    chosen: list[Choice] = []
    seen = {origin.digest}
    # The near ones first, each once; then all of those again, and at last everything there is.
    for number, pool in enumerate((pools[0], *pools)):
        once = number == 0
        ranked = [
            pool[index] for index in _shuffled(seed, f"{origin.digest} {number}", [candidates[i].digest for i in pool])
        ]
        for index in ranked:
            for element in _elements(seed, origin, candidates[index]):
                if len(chosen) == rounds:
                    return chosen
                looks = candidates[index].turned[DIHEDRAL.index(element)]
                if looks in seen:
                    continue
                seen.add(looks)
                shape = shapes.get(index)
                if shape is None:
                    shape = shape_distance(origin.descriptor, candidates[index].descriptor)
                chosen.append(Choice(index, element, float(distances[index]), shape))
                if once:
                    break
    if len(chosen) < rounds:
        raise InputError(
            f"`rounds` {rounds}: {origin.name} has only {len(chosen)} different targets among {len(candidates)} label "
            "maps and their turns; give fewer rounds, or more maps with `masks`"
        )
    return chosen


def subset(names: Sequence[str], share: float, seed: int) -> list[int]:
    """Indices of a random ``share`` of ``names``, at least one, in their order. Smaller shares lie within larger."""
    order = sorted(range(len(names)), key=lambda index: _random(seed, "subset", names[index]))
    return sorted(order[: max(1, round(share * len(names)))])


def item_seed(seed: int, origin: Candidate) -> int:
    """The seed of the first variant of all of an origin's images: one for all rounds, so that it is inverted once."""
    return int(_random(seed, "noise", f"{origin.name}\0{origin.digest}")[:8], 16)


def _elements(seed: int, origin: Candidate, target: Candidate) -> list[Dihedral]:
    square = target.shape[0] == target.shape[1]
    usable = [element for element in DIHEDRAL if square or element in KEEP_SIZE]
    return [usable[index] for index in _shuffled(seed, f"{origin.digest} {target.digest}", list(usable))]


def _shuffled(seed: int, what: str, keys: Sequence[str]) -> list[int]:
    return sorted(range(len(keys)), key=lambda index: (_random(seed, what, keys[index]), index))


def _random(seed: int, what: str, key: str) -> str:
    return hashlib.sha256(f"{seed}\0{what}\0{key}".encode("utf-8", "surrogateescape")).hexdigest()
