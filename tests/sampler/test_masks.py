from __future__ import annotations

import pytest
import torch

from sampler.masks import latent_labels, structure_image, unmatched_classes


def test_the_largest_share_of_a_square_wins():
    labels = torch.zeros(8, 16, dtype=torch.int64)
    labels[:5, :8] = 2  # 40 of 64
    labels[:, 8:] = 1
    labels[:3, 8:] = 0
    assert latent_labels(labels, 3, 8).tolist() == [[2, 1]]


@pytest.mark.parametrize("pair", [(0, 1), (1, 2), (0, 2)])
def test_a_tie_goes_to_the_lower_label(pair):
    labels = torch.full((8, 8), pair[1])
    labels[::2] = pair[0]
    assert latent_labels(labels, 3, 8).item() == pair[0]


def test_a_majority_in_no_class_goes_to_the_largest_share():
    labels = torch.cat([torch.full((3, 8), 2), torch.full((3, 8), 1), torch.full((2, 8), 0)])
    assert latent_labels(labels, 3, 8).item() == 1


@pytest.mark.parametrize("label", [-1, 3, 255])
def test_a_label_outside_the_classes_is_refused(label):
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[3, 3] = label
    with pytest.raises(ValueError, match="labels from"):
        latent_labels(labels, 2, 8)


def test_the_structure_image_has_each_class_grey_and_the_noise_asked_for():
    labels = torch.zeros(128, 256, dtype=torch.int64)
    labels[:, 100:] = 1
    image = structure_image(labels, (0.1, 0.5), 1e-4, torch.Generator().manual_seed(3))
    assert image.shape == (1, 3, 128, 256)
    for label, grey in enumerate((0.1, 0.5)):
        pixels = (image[0][:, labels == label].double() + 1) / 2
        count = pixels.numel()
        assert abs(pixels.mean() - grey) < 5 * 0.01 / count**0.5
        assert abs(pixels.var() / 1e-4 - 1) < 5 * (2 / count) ** 0.5
    red, green = image[0, 0].flatten(), image[0, 1].flatten()
    assert not torch.equal(red, green), "noise is drawn per channel"


def test_noise_of_a_black_class_is_clipped_at_black():
    image = structure_image(torch.zeros(64, 64, dtype=torch.int64), (0.0,), 1.0, torch.Generator().manual_seed(0))
    assert image.min() == -1
    assert image.max() <= 1


def test_a_class_needs_two_positions_on_both_sides():
    target = torch.tensor([[0, 0, 1, 1], [2, 3, 3, 1]])
    origin = torch.tensor([[0, 0, 1], [2, 2, 2]])
    assert unmatched_classes(target, origin, 5) == [1, 2, 3]
