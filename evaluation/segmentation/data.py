"""Images and label maps for training: read, checked and kept, and windows cut from them.

Notation: H, W height and width in pixels, C classes, S side of a window.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from evaluation.samples import Sample, load_pair, load_trusted
from evaluation.segmentation.augmentation import MARGIN, Augmentation
from evaluation.segmentation.mixture import Mixture
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from imaging.labels import check_same_size
from imaging.rawfile import shown

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]
"""An image [H, W, 3] and its label map [H, W], C where ignored."""


@dataclass
class Images:
    """Samples as pairs of image and labels. As many as fit into ``room`` bytes are decoded once.

    With ``trusted`` the labels of in-silico images are those in which doubtful pixels are ignored.
    """

    samples: Sequence[Sample]
    classes: ClassMap
    trusted: bool
    room: float
    kept: dict[int, Pair] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Pair:
        """The pair of one sample. Raises InputError."""
        if place in self.kept:
            return self.kept[place]
        pair = self._read(self.samples[place])
        size = sum(each.nbytes for each in pair)
        if size <= self.room:
            self.room -= size
            self.kept[place] = pair
        return pair

    def only(self, places: Sequence[int]) -> Images:
        """Those at ``places``, with what is kept of them."""
        kept = {new: self.kept[place] for new, place in enumerate(places) if place in self.kept}
        return Images([self.samples[place] for place in places], self.classes, self.trusted, 0, kept)

    def _read(self, sample: Sample) -> Pair:
        image, labels = load_pair(sample, self.classes)
        if self.trusted and sample.synthetic and sample.trusted is not None:
            labels = load_trusted(sample, self.classes)
            check_same_size(labels, sample.trusted, image, sample.image)
        return image, labels.astype(np.uint8)


def read_all(images: Images, where: str) -> Generator[None, None, list[int]]:
    """Read every one of ``images`` once, ticking for each; gives the places of those with any labelled pixel.

    In-silico images may be doubtful all over; a real one that is ignored all over is a mistake.

    Raises:
        ProblemsError: some cannot be read, or are ignored all over: all of them.
    """
    problems: list[str] = []
    usable: list[int] = []
    for place, sample in enumerate(images.samples):
        try:
            _, labels = images[place]
            if int(labels.min()) < len(images.classes):
                usable.append(place)
            elif not sample.synthetic:
                raise InputError(f"{shown(sample.masks[0][1])}: every pixel is ignored; take it out, or mend `classes`")
        except InputError as error:
            problems.append(str(error))
        yield
    if problems:
        raise ProblemsError(where, problems)
    return usable


def reflected(start: int, count: int, length: int) -> NDArray[np.int64]:
    """Indices ``start`` .. ``start + count - 1`` into an axis of ``length``, those beyond its ends by reflection."""
    if length == 1:
        return np.zeros(count, dtype=np.int64)
    period = 2 * (length - 1)
    folded = np.arange(start, start + count, dtype=np.int64) % period
    return np.minimum(folded, period - folded)


class Windows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of training, by their number: RGB uint8 [3, S, S] and labels uint8 [S, S], C where ignored.

    An image gives a window at a random place, with a margin from which a rotation takes its corners; what lies beyond
    the image is its reflection, image and labels alike.
    """

    def __init__(
        self, real: Images, synthetic: Images, mixture: Mixture, size: int, seed: int, augmentation: Augmentation | None
    ) -> None:
        self.images = (real, synthetic)
        self.mixture, self.size, self.seed, self.augmentation = mixture, size, seed, augmentation

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Window ``number`` of the whole training, from 0."""
        kind, place = self.mixture.draw(number)
        image, labels = self.images[kind][place]
        rng = np.random.default_rng((self.seed, 2, number))
        margin = 0 if self.augmentation is None else int(self.size * MARGIN)
        axes = []
        for length in labels.shape:
            # An image smaller than the window lies in its middle.
            room = length - self.size
            start = int(rng.integers(0, room + 1)) if room > 0 else room // 2
            axes.append(reflected(start - margin, self.size + 2 * margin, length))
        grid = np.ix_(*axes)
        pixels = torch.from_numpy(image[grid]).permute(2, 0, 1).contiguous()  # [3, S, S]
        cut = torch.from_numpy(labels[grid])
        if self.augmentation is None:
            return pixels, cut
        return self.augmentation(pixels, cut, int(rng.integers(2**62)))


@dataclass(frozen=True)
class Batches:
    """Numbers of the windows of steps ``first`` .. ``last - 1``, for one of ``parts`` processes that share a step."""

    first: int
    last: int
    size: int
    part: int = 0
    parts: int = 1

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[list[int]]:
        own = self.size // self.parts
        for step in range(self.first, self.last):
            start = step * self.size + self.part * own
            yield list(range(start, start + own))
