"""Feature vectors of images, each made once: kept in files named by digests of the image and of the encoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from evaluation.embedding.images import EmbeddedImage
from imaging.errors import InputError
from imaging.images import read_image
from imaging.output import replacing
from imaging.provenance import file_sha256
from imaging.rawfile import read_bytes, shown

DIGEST = 32
"""Bytes of SHA-256 that end a file."""


class Encoder(Protocol):
    """What turns an image into numbers."""

    @property
    def description(self) -> Mapping[str, Any]:
        """All that decides the numbers, as JSON holds it: weights, layers, sizes, number type."""

    @property
    def width(self) -> int:
        """How many numbers an image gets."""

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB [H, W, 3] -> [width]."""


@dataclass(frozen=True)
class FeatureStore:
    """A folder of feature vectors in float32, little endian, each with the digest of its bytes behind it."""

    folder: Path

    def path(self, key: str) -> Path:
        """Where the vector of ``key`` lies; in one of 256 folders, since there may be many."""
        return self.folder / key[:2] / f"{key}.features"

    def get(self, key: str, width: int) -> NDArray[np.float32] | None:
        """The vector [width] of ``key``; None if there is none, or none that is whole."""
        try:
            content = read_bytes(self.path(key))
        except InputError:
            return None
        data, digest = content[:-DIGEST], content[-DIGEST:]
        if len(data) != 4 * width or hashlib.sha256(data).digest() != digest:
            return None
        return np.frombuffer(data, dtype="<f4").astype(np.float32)

    def put(self, key: str, vector: NDArray[np.float32]) -> None:
        """Keep a vector, whole or not at all. Raises InputError if it cannot be written."""
        path, data = self.path(key), vector.astype("<f4").tobytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{shown(path.parent)}: cannot be made ({error.strerror}); check the disk") from error
        with replacing(path) as (partial,):
            partial.write_bytes(data + hashlib.sha256(data).digest())


def feature_key(image_digest: str, encoder: Encoder) -> str:
    """The name of a vector: a digest of the image's and of all that decides the encoder's numbers."""
    text = json.dumps({"image": image_digest, "encoder": encoder.description}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def embed(
    images: Sequence[EmbeddedImage], encoder: Encoder, store: FeatureStore
) -> Generator[None, None, NDArray[np.float32]]:
    """Features [n, D] of ``images``, those apart that are kept already; ticks for each image.

    Images go through the encoder one at a time, so that a vector does not depend on which others were there.

    Raises:
        InputError: an image cannot be read or changed meanwhile, values are not finite, or the disk is full.
    """
    result = np.empty((len(images), encoder.width), dtype=np.float32)
    for place, each in enumerate(images):
        key = feature_key(each.digest, encoder)
        vector = store.get(key, encoder.width)
        if vector is None:
            vector = _encoded(each, encoder)
            store.put(key, vector)
        result[place] = vector
        yield
    return result


def _encoded(image: EmbeddedImage, encoder: Encoder) -> NDArray[np.float32]:
    pixels = read_image(image.sample.image)
    if file_sha256(image.sample.image) != image.digest:
        raise InputError(f"{shown(image.sample.image)}: changed since the run began; start it again")
    try:
        vector = encoder(pixels)
    except ValueError as error:
        raise InputError(f"{shown(image.sample.image)}: cannot be embedded ({error}); take it out") from error
    if not np.isfinite(vector).all():
        raise InputError(f"{shown(image.sample.image)}: its features are not finite; try `dtype` fp32 or other weights")
    return vector
