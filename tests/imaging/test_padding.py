from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from imaging.images import crop, pad_to_multiple


@pytest.mark.parametrize("shape", [(64, 128), (65, 127), (16, 16), (63, 200), (17, 1)])
@pytest.mark.parametrize("multiple", [1, 8, 64])
def test_padding_is_a_mirror_image_and_cropping_undoes_it(shape: tuple[int, int], multiple: int) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (*shape, 3), dtype=np.uint8)
    padded = pad_to_multiple(pixels, multiple)
    assert padded.dtype == np.uint8
    for axis in (0, 1):
        assert padded.shape[axis] % multiple == 0
        assert 0 <= padded.shape[axis] - shape[axis] < multiple
    np.testing.assert_array_equal(crop(padded, *shape), pixels)
    rows, columns = (mirrored(np.arange(padded.shape[axis]), shape[axis]) for axis in (0, 1))
    np.testing.assert_array_equal(padded, pixels[rows][:, columns])


def mirrored(position: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Where a position beyond the edge is mirrored to, the edge itself not repeated."""
    if size == 1:
        return np.zeros_like(position)
    folded = position % (2 * size - 2)
    return np.minimum(folded, 2 * size - 2 - folded)


def test_image_and_labels_are_padded_to_the_same_places() -> None:
    labels = np.random.default_rng(5).integers(0, 5, (37, 50))
    image = np.stack([labels * 10] * 3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(pad_to_multiple(image, 64)[..., 0], pad_to_multiple(labels, 64) * 10)


def test_image_whose_sides_fit_is_not_padded() -> None:
    np.testing.assert_array_equal(pad_to_multiple(np.ones((64, 128, 3)), 64), np.ones((64, 128, 3)))


def test_crop_and_padding_refuse_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="crop"):
        crop(np.ones((24, 32)), 25, 32)
    with pytest.raises(ValueError, match="pad"):
        pad_to_multiple(np.ones((24, 32)), 0)
