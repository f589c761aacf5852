"""Making a study: which images are shown, in which order, on which side, and which come again.

All of it is dealt by the seed, and neither order nor names nor sizes of what is shown depend on what is in-silico.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from evaluation.review.key import PAIRS, SINGLE, Arm, Image, Key, Trial
from evaluation.review.matching import Candidate, match, spread_origins
from evaluation.review.page import MOST_BYTES, digest, pictures_of
from evaluation.samples import Sample, load_image, load_labels
from imaging.classes import ClassMap
from imaging.errors import InputError
from imaging.labels import decide_classes
from imaging.maskfile import read_mask
from imaging.provenance import file_sha256

LEAST_POOL, POOL = 200, 10
"""Real images that are looked at: so many, or so many for each that is wanted, of those there are."""


@dataclass(frozen=True)
class ImageSet:
    """A folder's images. Of a ``synthetic`` set all are in-silico, whether their rows say so or not."""

    path: Path
    name: str
    samples: tuple[Sample, ...]
    synthetic: bool


@dataclass(frozen=True)
class Wanted:
    """``count`` questions, and ``repeats`` (a share of them) again; of images ``side`` px are cut, None the most."""

    count: int
    repeats: float
    mode: str
    seed: int
    side: int | None
    version: str


@dataclass(frozen=True)
class Study:
    """The key; PNG files by trial, from left to right; what a person should know."""

    key: Key
    pictures: tuple[tuple[bytes, ...], ...]
    notes: tuple[str, ...]


def most_reads(sets: Sequence[ImageSet], classes: ClassMap | None, wanted: Wanted) -> int:
    """How often `make_study` ticks, at most."""
    (real,) = (each for each in sets if not each.synthetic)
    return (1 if classes else 2) * min(len(real.samples), _pool_size(wanted)) + 3 * wanted.count


def _pool_size(wanted: Wanted) -> int:
    return max(LEAST_POOL, POOL * wanted.count)


def make_study(sets: Sequence[ImageSet], classes: ClassMap | None, wanted: Wanted) -> Generator[None, None, Study]:
    """A study of the one set of real images among ``sets`` and the in-silico others. Ticks as files are read.

    Raises:
        InputError: a file cannot be read, the labels need `classes` to be said, or there are too few images.
    """
    rng = np.random.default_rng(wanted.seed)
    (real,) = (each for each in sets if not each.synthetic)
    arms = [each for each in sets if each.synthetic]
    notes: list[str] = []
    pool = sorted(rng.permutation(len(real.samples))[: _pool_size(wanted)].tolist())
    if classes is None:
        classes, said = yield from _inferred([real.samples[index] for index in pool])
        notes += said
    known = _known([each.name for each in real.samples])
    by_digest = any(sample.origin_sha256 for arm in arms for sample in arm.samples)
    reals = []
    for index in pool:
        sample = real.samples[index]
        reals.append(_candidate(index, sample, sample.name, classes))
        if by_digest:
            known[file_sha256(sample.image)] = sample.name
        yield
    count = wanted.count // 2 if wanted.mode == SINGLE else wanted.count
    chosen = _chosen(arms, known, min(count, len(reals)), rng)
    synthetics = []
    for arm, index in chosen:
        sample = arms[arm].samples[index]
        synthetics.append(_candidate(index, sample, _source(sample, known), classes))
        yield
    partners = match(synthetics, reals)
    picks = [(arm, one, reals[other]) for (arm, _), one, other in zip(chosen, synthetics, partners, strict=True)]
    notes += _told(picks, wanted, count)
    formats = {real.samples[other.index].image.suffix.lower() for _, _, other in picks}
    if formats & {".jpg", ".jpeg"}:
        notes.append("real images are JPEG files, whose traces can tell them from in-silico ones, which have none")
    if wanted.mode == PAIRS:
        apart = [each for each in picks if not each[1].source or each[1].source != each[2].source]
        if len(apart) < len(picks):
            notes.append(f"{len(picks) - len(apart)} pairs would show an image beside its own origin, and are left out")
        picks = apart
    if not picks:
        raise InputError("there are no images to show; give more real and more in-silico ones")
    images, pixels = yield from _read(real, arms, picks)
    trials = _trials(picks, wanted, rng)
    arrays, size = _cut(pixels, wanted.side)
    files = pictures_of([_arrangement(trial, arrays) for trial in trials])
    total = sum(len(each) for trial in files for each in trial)
    if total > MOST_BYTES:
        raise InputError(
            f"the page would take {total >> 20} MiB, more than browsers bear ({MOST_BYTES >> 20}); give a smaller "
            "`count` or `side`"
        )
    trials = [
        Trial(trial.id, trial.images, tuple(map(digest, each)), trial.repeat_of)
        for trial, each in zip(trials, files, strict=True)
    ]
    key = Key(
        wanted.mode,
        wanted.seed,
        size,
        wanted.version,
        classes.names,
        tuple(Arm(each.name, str(each.path), each.synthetic) for each in (real, *arms)),
        tuple(images),
        tuple(trials),
    )
    return Study(key, tuple(files), tuple(notes))


def _inferred(samples: Sequence[Sample]) -> Generator[None, None, tuple[ClassMap, tuple[str, ...]]]:
    summaries = []
    for each in samples:
        summaries.append(read_mask(each.masks[0][1]).summary())
        yield
    return decide_classes(summaries, None)


def _candidate(index: int, sample: Sample, source: str, classes: ClassMap) -> Candidate:
    labels = load_labels(sample, classes)
    counts = np.bincount(labels.ravel(), minlength=len(classes) + 1)[: len(classes)]
    return Candidate(index, source, tuple(np.round(counts / max(1, counts.sum()), 6).tolist()))


def _known(names: Sequence[str]) -> dict[str, str]:
    """Names of real images by these, and by last parts where those tell: origins may be read from other folders."""
    last = [PurePosixPath(name).name for name in names]
    counts = Counter(last)
    return {
        **{short: name for short, name in zip(last, names, strict=True) if counts[short] == 1},
        **{n: n for n in names},
    }


def _source(sample: Sample, known: Mapping[str, str]) -> str:
    """The name of the real image that ``sample`` was made from: by its file's digest, else by name."""
    clues = (sample.origin_sha256, sample.origin, PurePosixPath(sample.origin).name)
    return next((known[each] for each in clues if each in known), sample.origin)


def _chosen(
    arms: Sequence[ImageSet], known: Mapping[str, str], count: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """(arm, index) of ``count`` in-silico images by chance, as many of each arm and of as many origins as can be."""
    quotas = [0] * len(arms)
    while sum(quotas) < count and any(q < len(arm.samples) for q, arm in zip(quotas, arms, strict=True)):
        room = [place for place, arm in enumerate(arms) if quotas[place] < len(arm.samples)]
        quotas[min(room, key=lambda place: quotas[place])] += 1
    used: set[str] = set()
    chosen = []
    for place, (arm, quota) in enumerate(zip(arms, quotas, strict=True)):
        sources = [Candidate(index, _source(each, known), ()) for index, each in enumerate(arm.samples)]
        order = rng.permutation(len(sources)).tolist()
        chosen += [(place, index) for index in spread_origins(sources, order, quota, used)]
    return chosen


def _told(picks: Sequence[tuple[int, Candidate, Candidate]], wanted: Wanted, count: int) -> list[str]:
    notes = []
    if wanted.mode == SINGLE and wanted.count % 2:
        notes.append(f"half of the images are real, so there are {wanted.count - 1} questions, not {wanted.count}")
    if len(picks) < count:
        what = "in-silico and as many real images" if wanted.mode == SINGLE else "pairs"
        notes.append(f"only {len(picks)} {what} are there, not {count}")
    distances = [_distance(one, other) for _, one, other in picks]
    if distances:
        notes.append(
            f"class shares of matched images differ by {np.mean(distances):.3f} in the mean, {max(distances):.3f} at "
            "most (0 to 1)"
        )
    sources = [one.source for _, one, _ in picks if one.source]
    again = len(sources) - len(set(sources))
    shown_too = sum(other.source in set(sources) for _, _, other in picks)
    unknown = len(picks) - len(sources)
    if again:
        notes.append(f"{again} in-silico images have an origin that another one has too: there are too few origins")
    if shown_too:
        notes.append(f"{shown_too} real images are origins of in-silico ones that are shown; give more real images")
    if unknown:
        notes.append(f"of {unknown} in-silico images the origin is not known, so it may be among the real ones")
    return notes


def _distance(one: Candidate, other: Candidate) -> float:
    return 0.5 * float(np.abs(np.subtract(one.shares, other.shares)).sum())


def _read(
    real: ImageSet, arms: Sequence[ImageSet], picks: Sequence[tuple[int, Candidate, Candidate]]
) -> Generator[None, None, tuple[list[Image], list[NDArray[np.uint8]]]]:
    """In-silico images and real ones in turns, and their pixels [H, W, 3]."""
    images, pixels = [], []
    for arm, one, other in picks:
        for place, each, source in ((arm + 1, one, arms[arm]), (0, other, real)):
            sample = source.samples[each.index]
            array = load_image(sample)
            images.append(Image(place, sample.name, sample.origin, sample.round, digest(array.tobytes()), each.shares))
            pixels.append(array)
            yield
    return images, pixels


def _trials(picks: Sequence[tuple[int, Candidate, Candidate]], wanted: Wanted, rng: np.random.Generator) -> list[Trial]:
    """In their order. Image 2k is the k-th in-silico one, 2k + 1 its real partner."""
    groups: list[tuple[int, ...]]
    if wanted.mode == SINGLE:
        groups = [(index,) for index in rng.permutation(2 * len(picks)).tolist()]
    else:
        sides = rng.integers(0, 2, len(picks)).tolist()
        groups = [
            (2 * k, 2 * k + 1) if sides[k] == 0 else (2 * k + 1, 2 * k) for k in rng.permutation(len(picks)).tolist()
        ]
    names = iter(_names(2 * len(groups), rng))
    first = [Trial(next(names), group, ()) for group in groups]
    half = len(first) // 2
    # Those that come again are of the first half, and half of all others or more lie between.
    again = sorted(rng.permutation(half)[: round(wanted.repeats * len(first))].tolist())
    places = [(int(rng.integers(place + half, len(first))) + 0.5, place) for place in again]
    repeats = [
        (at, Trial(next(names), first[place].images[::-1], (), repeat_of=first[place].id)) for at, place in places
    ]
    ordered = sorted([*enumerate(first), *repeats], key=lambda each: each[0])
    return [trial for _, trial in ordered]


def _names(count: int, rng: np.random.Generator) -> list[str]:
    names: dict[str, None] = {}
    while len(names) < count:
        names[rng.bytes(6).hex()] = None
    return list(names)


def _cut(pixels: Sequence[NDArray[np.uint8]], side: int | None) -> tuple[list[NDArray[np.uint8]], tuple[int, int]]:
    """The middle of each image, all of one size and none scaled."""
    height, width = (min(each.shape[axis] for each in pixels) for axis in (0, 1))
    if side is not None:
        if side > min(height, width):
            raise InputError(f"`side` {side}: the smallest image has {width}×{height} px; give at most that")
        height = width = side
    cut = []
    for each in pixels:
        top, left = (each.shape[0] - height) // 2, (each.shape[1] - width) // 2
        cut.append(each[top : top + height, left : left + width])
    return cut, (height, width)


def _arrangement(trial: Trial, arrays: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """What a trial shows, from left to right; repeats are mirrored, so that they are not known again at a glance."""
    shown_now = [arrays[index] for index in trial.images]
    return [each[:, ::-1] for each in shown_now] if trial.repeat_of else shown_now
