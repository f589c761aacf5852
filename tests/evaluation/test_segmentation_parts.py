"""Windows, augmentations, loss and network of a training."""

from __future__ import annotations

import math
import os
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("segmentation_models_pytorch", reason="of the extra [evaluate]")
pytest.importorskip("torchvision", reason="of the extra [evaluate]", exc_type=ImportError)
import torch
from safetensors.torch import save_file

from evaluation.samples import Sample
from evaluation.segmentation.augmentation import Augmentation, line
from evaluation.segmentation.data import Batches, Images, Windows, read_all, reflected
from evaluation.segmentation.losses import loss
from evaluation.segmentation.mixture import Mixture
from evaluation.segmentation.network import build, encoder_names, fill, probabilities, read_weights
from evaluation.segmentation.record import identity
from evaluation.segmentation.settings import TrainingSettings, weights_digest
from evaluation.segmentation.windows import predict, starts, weights
from imaging.classes import ClassMap
from imaging.errors import InputError, ProblemsError
from tests.evaluation.segmented import CLASSES, blobs, write_labelled

SMALL = "tu-mobilenetv3_small_050"


class ByColour(torch.nn.Module):
    """Says class 1 where a pixel's first channel is above the middle; sees nothing around it."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """[B, 3, S, S] -> [B, 1, S, S]."""
        return images[:, :1] * 9


@pytest.mark.parametrize("shape", [(32, 32), (1, 1), (7, 90), (33, 65), (200, 31)])
@pytest.mark.parametrize("overlap", [0.0, 0.5, 0.9])
def test_a_field_of_any_size_is_predicted_pixel_for_pixel(shape: tuple[int, int], overlap: float) -> None:
    labels = np.random.default_rng(0).integers(0, 2, shape)
    image = np.repeat((labels * 255).astype(np.uint8)[..., None], 3, axis=2)
    assert (predict(ByColour(), image, 2, 32, overlap=overlap, batch_size=3) == labels).all()


@pytest.mark.parametrize("length", [32, 33, 63, 64, 65, 1000])
def test_windows_cover_a_field_and_overlap_as_asked(length: int) -> None:
    for overlap in (0.0, 0.25, 0.5, 0.9):
        found = starts(length, 32, overlap)
        assert (found[0], found[-1]) == (0, length - 32)
        gaps = [after - before for before, after in pairwise(found)]
        assert all(0 < gap <= max(1, math.floor(32 * (1 - overlap))) for gap in gaps)
    assert starts(10, 32, 0.5) == [-11]
    assert float(weights(32).min()) > 0


def test_windows_fade_into_each_other() -> None:
    """Where one window is sure and the next is not, the sure one prevails in its own middle and no seam shows."""

    class Left(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.calls = torch.nn.Parameter(torch.zeros(()))
            self.seen = 0

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.seen += 1
            return torch.full_like(images[:, :1], 2.0 if self.seen == 1 else -2.0)

    found = predict(Left(), np.zeros((32, 48, 3), np.uint8), 2, 32, overlap=0.5, batch_size=1)
    assert (found == (np.arange(48) < 24)).all()


def test_indices_beyond_an_axis_are_reflected() -> None:
    assert reflected(-3, 9, 4).tolist() == [3, 2, 1, 0, 1, 2, 3, 2, 1]
    assert reflected(-2, 5, 1).tolist() == [0, 0, 0, 0, 0]
    array = np.arange(5)
    assert (array[reflected(-4, 13, 5)] == np.pad(array, 4, mode="reflect")).all()


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Four images of 48 px."""
    root = tmp_path_factory.mktemp("samples")
    return [write_labelled(root, f"{number}.png", blobs(number), number) for number in range(4)]


def windows(samples: list[Sample], size: int, augmentation: Augmentation | None, seed: int = 0) -> Windows:
    images = Images(samples, CLASSES, True, 1e9)
    nothing = Images([], CLASSES, True, 0)
    return Windows(images, nothing, Mixture(len(samples), 0, None, seed), size, seed, augmentation)


@pytest.mark.parametrize("size", [32, 64])
def test_image_and_labels_are_cut_and_changed_alike(samples: list[Sample], size: int) -> None:
    """The darker class stays the darker one, whatever was turned, blurred and recoloured; ignored corners are white."""
    cut = windows(samples, size, Augmentation(size, len(CLASSES)))
    ignored = 0
    for number in range(40):
        image, labels = cut[number]
        assert (image.dtype, image.shape, labels.shape) == (torch.uint8, (3, size, size), (size, size))
        assert set(labels.unique().tolist()) <= {0, 1, 2}
        grey = image.float().mean(dim=0)
        ignored += int((labels == 2).sum())
        if (labels == 0).sum() > 200 and (labels == 1).sum() > 200:
            assert grey[labels == 1].mean() < grey[labels == 0].mean() - 15
    assert ignored < 0.02 * 40 * size**2


def test_a_window_is_a_function_of_its_number_and_the_seed(samples: list[Sample]) -> None:
    one, again = (windows(samples, 32, Augmentation(32, 2)) for _ in range(2))
    before = torch.random.get_rng_state()
    for number in (5, 2, 9):
        assert all((a == b).all() for a, b in zip(one[number], again[number], strict=True))
    assert (torch.random.get_rng_state() == before).all()
    other = windows(samples, 32, Augmentation(32, 2), seed=1)
    assert any((one[number][0] != other[number][0]).any() for number in range(4))


def test_every_kind_of_augmentation_happens(samples: list[Sample]) -> None:
    """Turned and mirrored windows, shades and blurs: fifty windows of one image are fifty different ones."""
    cut = windows(samples[:1], 32, Augmentation(32, 2))
    found = [cut[number] for number in range(50)]
    assert len({image.numpy().tobytes() for image, _ in found}) == 50
    means = torch.stack([image.float().mean(dim=(1, 2)) for image, _ in found])
    assert float(means.std(dim=0).min()) > 5
    detail = torch.stack([image.float().diff(dim=2).abs().mean() for image, _ in found])
    assert float(detail.min()) < 0.5 * float(detail.median())


def test_motion_blur_is_along_a_line() -> None:
    for angle in (0.0, 0.7, math.pi / 2):
        weights_of_line = line(7, angle)
        assert float(weights_of_line.sum()) == pytest.approx(1, abs=1e-6)
        y, x = torch.meshgrid(torch.arange(7.0) - 3, torch.arange(7.0) - 3, indexing="ij")
        across = (x * math.sin(angle) - y * math.cos(angle)).abs()
        assert float((weights_of_line * across).sum()) < 0.5
        along = (x * math.cos(angle) + y * math.sin(angle)).abs()
        assert float((weights_of_line * along).sum()) > 1.2


def test_processes_share_out_the_windows_of_each_step() -> None:
    whole = list(Batches(3, 6, 8))
    parts = [list(Batches(3, 6, 8, part, 4)) for part in range(4)]
    assert whole[0] == list(range(24, 32))
    assert [list(chain.from_iterable(part[step] for part in parts)) for step in range(3)] == whole


def test_trust_maps_and_ignored_pixels_are_honoured(tmp_path: Path) -> None:
    labels = blobs(3)
    made = write_labelled(tmp_path, "m.png", labels, 3, values=(0, 1))
    doubtful = write_labelled(tmp_path / "trusted", "m.png", np.where(labels == 1, 1, 0), 3, values=(0, 1))
    trusted = np.where(np.arange(48)[:, None] < 10, 255, labels).astype(np.uint8)
    from imaging.images import write_png

    write_png(doubtful.masks[0][1], trusted)
    sample = Sample("m.png", made.image, made.masks, synthetic=True, round=1, trusted=doubtful.masks[0][1])
    with_trust, plain = (Images([sample], CLASSES, each, 1e9)[0][1] for each in (True, False))
    assert (with_trust[:10] == 2).all()
    assert (with_trust[10:] == labels[10:]).all()
    assert (plain == labels).all()
    real = write_labelled(tmp_path / "real", "r.png", np.where(np.eye(48) > 0, 2, labels), 3)
    assert (Images([real], CLASSES, True, 1e9)[0][1] == np.where(np.eye(48) > 0, 2, labels)).all()


def test_all_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    found = [write_labelled(tmp_path, f"{n}.png", blobs(n), n) for n in range(3)]
    found[0].image.write_bytes(b"no picture")
    write_labelled(tmp_path, "1.png", np.full((48, 48), 2), 1)
    with pytest.raises(ProblemsError) as caught:
        list(read_all(Images(found, CLASSES, True, 1e9), "there"))
    assert len(caught.value.problems) == 2
    assert "every pixel is ignored" in caught.value.problems[1]


def test_little_memory_means_reading_again_not_failing(samples: list[Sample]) -> None:
    images = Images(samples, CLASSES, True, 48 * 48 * 4 * 2.5)
    found = [images[place] for place in (0, 1, 2, 3, 0, 3)]
    assert len(images.kept) == 2
    assert all((a == b).all() for a, b in zip(found[1], Images(samples, CLASSES, True, 0)[1], strict=True))


def test_losses_are_cross_entropy_and_dice_of_labelled_pixels() -> None:
    generator = torch.Generator().manual_seed(0)
    for num_classes in (2, 4):
        logits = torch.randn(2, 1 if num_classes == 2 else num_classes, 8, 8, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, num_classes + 1, (2, 8, 8), generator=generator)
        seen = probabilities(logits).double()
        kept = labels < num_classes
        entropy, dice, classes = 0.0, [], range(1, 2) if num_classes == 2 else range(num_classes)
        for b, y, x in kept.nonzero().tolist():
            entropy -= math.log(seen[b, labels[b, y, x], y, x]) / int(kept.sum())
        for label in classes:
            truth, guess = (labels == label) & kept, seen[:, label] * kept
            dice.append(1 - 2 * float((guess * truth).sum()) / float(guess.sum() + truth.sum()))
        wanted = entropy + sum(dice) / len(dice)
        assert float(loss(logits, labels, num_classes)) == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_ignored_pixels_have_no_gradient_and_nothing_labelled_no_loss(num_classes: int) -> None:
    logits = torch.randn(1, 1 if num_classes == 2 else num_classes, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), num_classes)
    nothing = loss(logits, labels, num_classes)
    assert float(nothing.detach()) == 0
    labels[:, :2] = 1
    loss(logits, labels, num_classes).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert (logits.grad[:, :, 2:] == 0).all()
    assert (logits.grad[:, :, :2] != 0).all()


def test_the_same_seed_begins_with_the_same_network() -> None:
    one, again, other = (build(SMALL, None, 2, seed).state_dict() for seed in (1, 1, 2))
    assert all((one[name] == again[name]).all() for name in one)
    assert any((one[name] != other[name]).any() for name in one)


def test_two_classes_have_one_channel_and_more_have_their_own() -> None:
    images = torch.zeros(1, 3, 32, 32)
    for num_classes, channels in ((2, 1), (3, 3), (5, 5)):
        found = build(SMALL, None, num_classes, 0).eval()(images)
        assert found.shape == (1, channels, 32, 32)
        seen = probabilities(found)
        assert seen.shape == (1, num_classes, 32, 32)
        assert torch.allclose(seen.sum(dim=1), torch.ones(1, 32, 32))


@pytest.mark.parametrize("name", ["resnet9000", "tu-nothing", "", "../x", "tu-vit_base_patch16_224", "\x1b[31m"])
def test_encoders_that_cannot_serve_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError, match="`encoder`") as caught:
        build(name, None, 2, 0)
    assert "\x1b" not in str(caught.value)


def test_the_papers_encoder_is_among_the_names() -> None:
    assert {"resnet18", "tu-tf_efficientnetv2_s", SMALL} <= set(encoder_names())


def test_encoder_weights_from_a_file_fill_the_encoder(tmp_path: Path) -> None:
    whole = build(SMALL, None, 2, 7)
    own = {name: value for name, value in whole.state_dict().items() if name.startswith("encoder.")}
    encoder = {name.removeprefix("encoder.model."): value for name, value in own.items()}
    path = tmp_path / "timm.safetensors"
    save_file({**encoder, "classifier.weight": torch.zeros(3)}, path)
    filled = build(SMALL, str(path), 3, 0).state_dict()
    assert all((filled[name] == value).all() for name, value in own.items())
    first = next(name for name in encoder if name.endswith("weight"))
    for damage in ({first: torch.zeros(1)}, {first: torch.full_like(encoder[first], torch.nan)}):
        save_file({**encoder, **damage}, path)
        with pytest.raises(InputError, match=r"timm\.safetensors"):
            build(SMALL, str(path), 2, 0)
    save_file({name: value for name, value in encoder.items() if name != first}, path)
    with pytest.raises(InputError, match="has no"):
        build(SMALL, str(path), 2, 0)


def test_weights_must_be_the_networks_own(tmp_path: Path) -> None:
    network = build(SMALL, None, 2, 0)
    state = network.state_dict()
    path = tmp_path / "x.safetensors"
    name = next(iter(state))
    for damage in (
        {**state, "more": torch.zeros(1)},
        {each: value for each, value in state.items() if each != name},
        {**state, name: state[name].double()},
        {**state, name: state[name][:1]},
    ):
        with pytest.raises(InputError, match="another encoder"):
            fill(network, damage, path)
    path.write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="not a safetensors file"):
        read_weights(path)
    with pytest.raises(InputError, match="no such file"):
        read_weights(tmp_path)


def test_encoder_weights_are_told_by_what_they_hold(tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, value in zip(paths, (1.0, 1.0, 2.0), strict=True):
        save_file({"x": torch.full((1,), value)}, path)
    one, same, other = (
        identity(TrainingSettings(encoder_weights=str(path)), ClassMap.parse("a=0,b=1"), "cpu", {}) for path in paths
    )
    assert one == same != other
    assert weights_digest("imagenet") is weights_digest(None) is None
    (tmp_path / "pipe.safetensors").unlink(missing_ok=True)
    os.mkfifo(tmp_path / "pipe.safetensors")
    for missing in ("pipe.safetensors", "gone.safetensors"):
        with pytest.raises(InputError, match="no such file"):
            weights_digest(str(tmp_path / missing))
