"""The measures of quality against planted faults: a map of another image, a copied origin, another stain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from skimage.color import hdx_from_rgb

from dataset.calibration import Calibration
from dataset.classifier import PixelClassifier, mean_dice, pixel_features
from dataset.copying import copying
from dataset.inspection import read_pair
from dataset.layouts import read_source
from dataset.quality import UNTRUSTED, Look, OriginModel, judge, trusted
from dataset.stain import box_mean, optical_density, stain_densities
from dataset.tissue import draw_slide, random_slide
from imaging.classes import ClassMap
from imaging.turns import DIHEDRAL, turn
from tests.dataset.real import real_data


@dataclass(frozen=True)
class Case:
    """An origin, and another real image of the same look with its map."""

    origin: OriginModel
    image: np.ndarray
    labels: np.ndarray


def drawn_cases(count: int) -> list[Case]:
    rng = np.random.default_rng(11)
    cases = []
    while len(cases) < count:
        slide = random_slide(rng)
        if slide.pattern != "membrane":
            continue
        one, other = (draw_slide(rng, slide, 128) for _ in range(2))
        if min(len(np.unique(labels)) for _, labels in (one, other)) == 2:
            origin = OriginModel.of(one[0], one[1].astype(np.int64), 2)
            cases.append(Case(origin, other[0], other[1].astype(np.int64)))
    return cases


def real_cases(count: int) -> list[Case]:
    """Halves of real images: two pieces of one patch have one look."""
    pairs = read_source(real_data("dsb2018")).pairs
    classes = ClassMap.parse("rest=0,nucleus=255")
    cases = []
    for pair in pairs[:: max(1, len(pairs) // count)][:count]:
        image, labels = read_pair(pair, classes)
        half = image.shape[1] // 2
        if min(len(np.unique(part)) for part in (labels[:, :half], labels[:, half:])) == 2:
            origin = OriginModel.of(image[:, :half], labels[:, :half], 2)
            cases.append(Case(origin, image[:, half:], labels[:, half:]))
    return cases


@pytest.fixture(scope="module", params=["drawn", "real"])
def cases(request) -> list[Case]:
    return drawn_cases(12) if request.param == "drawn" else real_cases(40)


def restained(image: np.ndarray) -> np.ndarray:
    """The image with DAB where it has haematoxylin, and haematoxylin where it has DAB."""
    vectors = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    third = np.cross(*vectors)
    density = stain_densities(image)[..., [1, 0, 2]] @ np.stack([*vectors, third / np.linalg.norm(third)])
    return np.clip(np.round(255 * 10**-density), 0, 255).astype(np.uint8)


def rates(honest, faulty, *, above: bool) -> tuple[float, float]:
    """Of the threshold that 95 % of honest images pass: the share of faults found, and of false alarms."""
    threshold = np.quantile(honest, 0.95 if above else 0.05)
    wrong = [(np.asarray(each) > threshold) if above else (np.asarray(each) < threshold) for each in (faulty, honest)]
    return float(wrong[0].mean()), float(wrong[1].mean())


def test_a_shuffled_mask_is_found(cases) -> None:
    honest = [judge(case.origin, Look.of(case.image), case.labels) for case in cases]
    shuffled = [
        judge(case.origin, Look.of(case.image), np.roll(case.labels, case.labels.shape[0] // 2, axis=0)[:, ::-1].copy())
        for case in cases
    ]
    for name in ("fidelity", "separation"):
        found, false = rates([getattr(q, name) for q in honest], [getattr(q, name) for q in shuffled], above=False)
        print(f"shuffled mask by {name}: {found:.2f} found, {false:.2f} false alarms of {len(cases)}")
        assert found >= 0.9


def test_a_copied_origin_is_found_by_its_fidelity_and_as_a_copy(cases) -> None:
    honest = [judge(case.origin, Look.of(case.image), case.labels) for case in cases]
    rng = np.random.default_rng(0)
    copies = []
    for case in cases:
        element = DIHEDRAL[int(rng.integers(8))]
        copied = np.asarray(turn(case.origin.image, element), dtype=np.uint8)
        noisy = np.clip(copied + rng.normal(0, 6, copied.shape), 0, 255).astype(np.uint8)
        height, width = (min(a, b) for a, b in zip(noisy.shape[:2], case.labels.shape, strict=True))
        copies.append(judge(case.origin, Look.of(noisy[:height, :width]), case.labels[:height, :width]))
    found, false = rates([q.copying for q in honest], [q.copying for q in copies], above=True)
    print(f"copied origin by copying: {found:.2f} found, {false:.2f} false alarms of {len(cases)}")
    assert found >= 0.95
    found, false = rates([q.separation for q in honest], [q.separation for q in copies], above=False)
    print(f"copied origin by separation: {found:.2f} found, {false:.2f} false alarms")
    assert found >= 0.8


def test_another_stain_is_found(cases) -> None:
    honest = [judge(case.origin, Look.of(case.image), case.labels) for case in cases]
    wrong = [judge(case.origin, Look.of(restained(case.image)), case.labels) for case in cases]
    found, false = rates([q.stain_distance for q in honest], [q.stain_distance for q in wrong], above=True)
    print(f"wrong stain: {found:.2f} found, {false:.2f} false alarms of {len(cases)}")
    assert found >= 0.9


def test_a_copied_quarter_is_enough_to_be_seen() -> None:
    cases = drawn_cases(6)
    usual = max(copying(case.image, case.origin.image) for case in cases)
    for case in cases:
        mixed = case.image.copy()
        mixed[:64, :64] = case.origin.image[60:124, 40:104]
        assert copying(mixed, case.origin.image) > Calibration({"copying": (usual,)}, True).copied_above


def test_stains_are_those_of_scikit_image_with_the_same_vectors() -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(1, 256, (9, 7, 3), dtype=np.uint8)
    density = -np.log10(image.astype(np.float64) / 255)
    np.testing.assert_allclose(optical_density(image), density, rtol=1e-5, atol=1e-6)
    # Its own matrix for haematoxylin and DAB has these vectors rounded to two digits.
    their_vectors = np.linalg.inv(hdx_from_rgb)
    np.testing.assert_allclose(their_vectors[0] / np.linalg.norm(their_vectors[0]), [0.65, 0.704, 0.286], atol=0.01)
    ours = stain_densities(image)
    vectors = np.array([[0.650, 0.704, 0.286], [0.268, 0.570, 0.776]])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    third = np.cross(*vectors)
    full = np.stack([*vectors, third / np.linalg.norm(third)])
    np.testing.assert_allclose(ours @ full, density, atol=1e-4)


def test_box_means_are_those_of_counting() -> None:
    rng = np.random.default_rng(2)
    field = rng.random((9, 12)).astype(np.float32)
    grown = np.pad(field.astype(np.float64), 2, mode="edge")
    wanted = np.array([[grown[y : y + 5, x : x + 5].mean() for x in range(12)] for y in range(9)])
    np.testing.assert_allclose(box_mean(field, 2), wanted, rtol=1e-5)


def test_the_stain_distance_is_the_wasserstein_distance() -> None:
    case = drawn_cases(1)[0]
    quality = judge(case.origin, Look.of(case.image), case.labels)
    real, new = case.origin.stains, stain_densities(case.image)
    for c in range(2):
        wanted = np.mean(
            [wasserstein_distance(real[case.origin.labels == c][:, s], new[case.labels == c][:, s]) for s in range(2)]
        )
        assert quality.class_stain_distances[c] == pytest.approx(wanted, rel=0.05, abs=0.002)


def test_the_classifier_tells_gaussians_apart_as_well_as_can_be() -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, (80, 80))
    means = rng.normal(0, 2, (3, 4))
    features = (means[labels] + rng.normal(0, 1, (80, 80, 4))).astype(np.float32)
    fitted = PixelClassifier.fit(features, labels, 3)
    nearest = ((features[..., None, :] - means) ** 2).sum(axis=-1).argmin(axis=-1)
    assert mean_dice(fitted.predict(features), labels, (0, 1, 2)) > mean_dice(nearest, labels, (0, 1, 2)) - 0.01
    np.testing.assert_allclose(np.exp(fitted.log_probabilities(features)).sum(axis=-1), 1.0)
    hidden = labels.copy()
    hidden[:40] = 3
    assert PixelClassifier.fit(features, hidden, 3).classes == (0, 1, 2)


def test_a_class_that_the_origin_lacks_is_neither_judged_nor_trusted() -> None:
    case = drawn_cases(1)[0]
    origin = OriginModel.of(case.origin.image, np.zeros_like(case.origin.labels), 2)
    quality = judge(origin, Look.of(case.image), case.labels)
    assert 0.0 <= quality.fidelity <= 1.0
    assert quality.class_stain_distances[1] is None
    (mask,) = trusted(origin, [Look.of(case.image)], case.labels, 8)
    assert (mask[case.labels == 1] == UNTRUSTED).all()


def test_trust_leaves_out_borders_ignored_pixels_and_what_variants_dispute() -> None:
    case = drawn_cases(1)[0]
    labels = case.labels.copy()
    labels[100:, 100:] = 2
    (mask,) = trusted(case.origin, [Look.of(case.image)], labels, 8)
    assert set(np.unique(mask)) <= {0, 1, UNTRUSTED}
    known = mask != UNTRUSTED
    assert np.array_equal(mask[known], labels[known])
    assert (mask[100:, 100:] == UNTRUSTED).all()
    edge = labels[:, 1:] != labels[:, :-1]
    assert not known[:, 1:][edge].any()
    other = np.ascontiguousarray(case.image[::-1])
    both = trusted(case.origin, [Look.of(case.image), Look.of(other)], labels, 8)
    seen = [case.origin.classifier.predict(pixel_features(stain_densities(each))) for each in (case.image, other)]
    for each in both:
        assert (each[seen[0] != seen[1]] == UNTRUSTED).all()
    assert (both[0] == UNTRUSTED).sum() > (mask == UNTRUSTED).sum()


def test_doubtful_labels_are_rare_on_real_images_and_common_where_the_map_is_wrong(cases) -> None:
    right, wrong = [], []
    for case in cases[:10]:
        near = trusted(case.origin, [Look.of(case.image)], case.labels, 8)[0] == UNTRUSTED
        inverted = 1 - case.labels
        far = trusted(case.origin, [Look.of(case.image)], inverted, 8)[0] == UNTRUSTED
        band = trusted(case.origin, [Look.of(case.image)], case.labels, 8)[0] == UNTRUSTED
        right.append(near.mean())
        wrong.append(far.mean())
        assert band.shape == case.labels.shape
    print(f"untrusted: {np.median(right):.2f} of pixels with the right map, {np.median(wrong):.2f} with the wrong one")
    assert np.median(right) < 0.5 < np.median(wrong)
