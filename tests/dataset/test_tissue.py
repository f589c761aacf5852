"""The drawn tissue and the data set made of it."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.fields import cell_mosaic, gaussian_field
from dataset.tissue import EPITHELIUM, STROMA, draw_slide, draw_tissue, draw_two_tone, random_slide
from demo.data import CAPTIONS, caption_number

SIZE = 128


@pytest.mark.parametrize("seed", range(4))
def test_drawn_tissue_has_both_classes(seed: int) -> None:
    image, labels = draw_tissue(np.random.default_rng(seed), SIZE)
    assert image.shape == (SIZE, SIZE, 3)
    assert image.dtype == labels.dtype == np.uint8
    assert set(np.unique(labels)) == {EPITHELIUM, STROMA}
    assert 0.1 < float((labels == EPITHELIUM).mean()) < 0.8


def test_same_seed_draws_the_same_image_and_another_seed_another() -> None:
    first, again, other = (draw_tissue(np.random.default_rng(seed), SIZE)[0] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("size", [64, 100, 256])
def test_any_size_is_drawn(size: int) -> None:
    image, labels = draw_tissue(np.random.default_rng(0), size)
    assert image.shape[:2] == labels.shape == (size, size)


def test_epithelium_of_membrane_slides_is_browner_than_stroma() -> None:
    rng = np.random.default_rng(5)
    slides = [slide for slide in (random_slide(rng) for _ in range(40)) if slide.pattern == "membrane"][:6]
    for slide in slides:
        image, labels = draw_slide(rng, slide, SIZE)
        means = [image[labels == label].astype(np.float64).mean(axis=0) for label in (EPITHELIUM, STROMA)]
        # Brown takes more blue light than red light away.
        epithelium, stroma = (float(mean[0] - mean[2]) for mean in means)
        assert epithelium > stroma + 10.0


def test_tissue_is_bright_and_coloured_by_absorption() -> None:
    images = np.stack([draw_tissue(np.random.default_rng(seed), SIZE)[0] for seed in range(6)])
    brightest = np.percentile(images, 99.5, axis=(1, 2, 3))
    assert (brightest > 215).all()
    assert (images.mean(axis=(1, 2)).std(axis=-1) > 1.0).all()


def test_gaussian_field_is_normalised_and_smoother_with_scale() -> None:
    fine, coarse = (gaussian_field(np.random.default_rng(1), SIZE, scale) for scale in (1.0, 6.0))
    for field in (fine, coarse):
        assert abs(float(field.mean())) < 1e-4
        assert float(field.std()) == pytest.approx(1.0, abs=1e-4)
    assert np.abs(np.diff(coarse)).mean() < 0.5 * np.abs(np.diff(fine)).mean()


def test_mosaic_gives_each_pixel_its_nearest_seed() -> None:
    angle = np.zeros((64, 64), np.float32)
    mosaic = cell_mosaic(np.random.default_rng(2), angle, 12.0, 4.0, 1.0, 0.3)
    assert mosaic.radius.min() < 0.5
    assert (mosaic.border >= 0).all()
    # On a change of cell the two nearest seeds are about equally near.
    changes = mosaic.cell[:, 1:] != mosaic.cell[:, :-1]
    assert changes.any()
    assert mosaic.border[:, 1:][changes].mean() < 0.5 * mosaic.border.mean()


def test_two_tone_images_are_grey_levels_with_little_noise() -> None:
    image = draw_two_tone(np.random.default_rng(0), SIZE).astype(np.float64)
    assert image.max() < 0.75 * 255
    assert np.abs(image.mean(axis=(0, 1)) - image.mean()).max() < 1.0
    per_pixel = image.std(axis=2)
    assert 0.5 < float(per_pixel.mean()) < 6.0


def test_a_tenth_of_the_captions_is_empty() -> None:
    rng = np.random.default_rng(0)
    drawn = [caption_number(rng, kind) for kind in ("membrane", "mask") for _ in range(2000)]
    assert CAPTIONS[0] == ""
    # Four standard deviations of a binomial of 4000 at 0.1.
    assert abs(np.mean(np.array(drawn) == 0) - 0.1) < 4 * (0.09 / 4000) ** 0.5
    assert {CAPTIONS[n] for n in drawn[2000:]} == {"", "a two-tone mask"}
