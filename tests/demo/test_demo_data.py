"""What the demonstration weights are trained on: other stains, views with their labels, what is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset.tissue import draw_tissue
from demo.data import Amounts, load_dataset
from demo.real import RealImage, alike, dihedral, is_pink, random_view, read_sources, threshold
from demo.stains import other_stains, restain, slight_change

EXAMPLE = Path(__file__).parents[2] / "examples" / "ihc.png"


@pytest.mark.parametrize("change", [slight_change, other_stains])
def test_other_stains_keep_glass_white_and_change_colours(change):
    image = draw_tissue(np.random.default_rng(7), 128)[0]
    image[:8, :8] = 255
    restained = restain(image, change(np.random.default_rng(1)))
    assert (restained[:8, :8] == 255).all()
    assert np.abs(restained.astype(int) - image).mean() > 1.0


def test_other_stains_are_of_every_hue():
    brown = np.full((1, 1, 3), (150, 100, 60), np.uint8)
    rng = np.random.default_rng(0)
    found = np.stack([restain(brown, other_stains(rng))[0, 0] for _ in range(300)]).astype(int)
    assert set(found.argmax(axis=1)) == set(found.argmin(axis=1)) == {0, 1, 2}


def test_a_turn_by_nothing_changes_nothing():
    image = draw_tissue(np.random.default_rng(7), 64)[0]
    grey = np.full((3, 3), 1.0 / 3.0)
    assert np.abs(restain(image, np.eye(3)).astype(int) - image).max() <= 1
    assert np.ptp(restain(image, grey), axis=-1).max() == 0


def test_views_stay_inside_and_labels_go_with_the_pixels():
    labels = (np.indices((160, 200)).sum(axis=0) // 40 % 2).astype(np.uint8)
    source = RealImage(np.stack([200 - 150 * labels] * 3, axis=-1).astype(np.uint8), labels)
    for seed in range(30):
        view = random_view(np.random.default_rng(seed), source, 64)
        assert view.image.shape == (64, 64, 3)
        dark = view.image[..., 0] < 125
        assert (dark == (view.labels == 1)).mean() > 0.95
        assert view.image.min() > 5  # nothing black from beyond the edge, though bicubic edges overshoot


def test_eight_turns_are_eight_different_images():
    image = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    assert len({dihedral(image, number).tobytes() for number in range(8)}) == 8


def test_the_threshold_lies_between_two_heaps():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0.2, 0.03, 900), rng.normal(0.8, 0.03, 300)])
    assert np.array_equal(values < threshold(values), np.arange(1200) < 900)


def test_alike_images_are_of_one_colour():
    blue, pink = np.full((8, 8, 3), (90, 80, 200), np.uint8), np.full((8, 8, 3), (220, 120, 160), np.uint8)
    blank = np.zeros((8, 8), np.uint8)
    images = [RealImage(colour + np.uint8(n), blank) for n in range(4) for colour in (blue, pink)]
    for number, others in enumerate(alike(images)):
        assert number not in others
        assert all(other % 2 == number % 2 for other in others)
    assert is_pink(pink)
    assert not is_pink(blue)


@pytest.fixture
def folders(tmp_path):
    """A field in which held-out columns are green, and nuclei of which every fifth and the pink ones are bright."""
    field = np.full((300, 400, 3), (200, 190, 210), np.uint8)
    field[::9, ::7] = (110, 60, 20)
    field[5::9, ::7] = (60, 70, 160)
    field[:, 320:, 1] = 255
    openslide = tmp_path / "openslide"
    openslide.mkdir()
    for name in ("OS-2-ndpi.png", "OS-2-vsi.png", "OS-1-detail.png"):
        Image.fromarray(field if name != "OS-1-detail.png" else field[:, :320]).save(openslide / name)
    for part in ("images", "masks"):
        (tmp_path / "nuclei" / part).mkdir(parents=True)
    for number in range(10):
        image = np.full((70, 90, 3), (120, 90, 180), np.uint8)
        image[..., 1] = 255 if number % 5 == 0 else 90 + number
        if number == 7:
            image[:] = (250, 255, 180)
        Image.fromarray(image).save(tmp_path / "nuclei" / "images" / f"{number:02}.png")
        Image.fromarray(np.full((70, 90), 255, np.uint8)).save(tmp_path / "nuclei" / "masks" / f"{number:02}.png")
    return openslide, tmp_path / "nuclei"


def test_what_is_held_out_is_never_trained_on(folders, tmp_path):
    sources = read_sources(EXAMPLE, *folders)
    assert all((field.image[..., 1] < 255).all() for field in sources.fields)
    assert all((field.image[..., 1] == 255).all() for field in sources.held_out_fields)
    assert (len(sources.nuclei), len(sources.held_out_nuclei)) == (7, 3)
    assert all((image.image[..., 1] == 255).all() for image in sources.held_out_nuclei)
    amounts = Amounts(drawn=1, example=1, field=2, nuclei=2, mask=1)
    held_out = load_dataset(tmp_path / "held_out", sources, amounts, 64, 1, held_out=True)
    assert len(held_out.images) == len(held_out.labels) == len(held_out.kinds) == 14
    for kind in ("field", "nuclei"):
        assert (held_out.of(kind).images[..., 1] == 255).all()
    again = load_dataset(tmp_path / "held_out", sources, amounts, 64, 9, held_out=True)
    assert np.array_equal(again.images, held_out.images)


def test_without_folders_there_are_drawings_and_the_example_alone(tmp_path):
    sources = read_sources(EXAMPLE, None, None)
    data = load_dataset(tmp_path / "train", sources, Amounts(1, 1, 5, 5, 1), 64, 0, held_out=False)
    assert len(data.kinds) == 6
    assert set(data.kinds[2:]) == {"membrane", "mask"}


def test_folders_that_lack_their_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="OS-2-ndpi"):
        read_sources(EXAMPLE, tmp_path, None)
    with pytest.raises(FileNotFoundError, match="no PNG files"):
        read_sources(EXAMPLE, None, tmp_path)
    with pytest.raises(FileNotFoundError, match="--example"):
        read_sources(tmp_path / "no.png", None, None)
