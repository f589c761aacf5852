"""Which target each origin gets: similar maps, never its own unturned, the same whoever asks."""

from __future__ import annotations

import numpy as np
import pytest

from dataset.pairing import candidate, choose_targets, digest_of, item_seed, subset
from dataset.shape import RADII, ShapeDescriptor, describe, fraction_distance, shape_distance
from imaging.errors import InputError
from imaging.turns import DIHEDRAL, turn


def blobs(rng: np.random.Generator, share: float, grain: int, side: int = 64) -> np.ndarray:
    field = np.kron(rng.random((side // grain, side // grain)), np.ones((grain, grain)))
    return (field < share).astype(np.int64)


def candidates(rng: np.random.Generator, specs: list[tuple[float, int]]):
    maps = [blobs(rng, share, grain) for share, grain in specs]
    return [candidate(f"m{i}", labels, describe(labels, 2)) for i, labels in enumerate(maps)], maps


def fractions_of(each) -> np.ndarray:
    return np.stack([one.descriptor.fractions for one in each])


@pytest.mark.parametrize("side", [40, 65])
def test_a_descriptor_is_what_counting_pixel_by_pixel_gives(side) -> None:
    rng = np.random.default_rng(side)
    labels = np.kron(rng.integers(0, 4, (8, 13)), np.ones((side // 8 + 1, 7), np.int64))[:side, :70].astype(np.int64)
    found = describe(labels, 3)  # 3 is ignored
    height, width = labels.shape
    rows, columns = np.mgrid[:height, :width]
    for c in range(3):
        inside = labels == c
        distance = np.full(labels.shape, 10_000)
        for y, x in zip(*np.nonzero(~inside), strict=True):
            distance = np.minimum(distance, np.maximum(abs(rows - y), abs(columns - x)))
        for index, radius in enumerate(RADII):
            assert found.thickness[c, index] == pytest.approx((distance[inside] > radius).mean())
        sides = sum(
            int(inside[y, x] != inside[y + dy, x + dx])
            for y in range(height)
            for x in range(width)
            for dy, dx in ((0, 1), (1, 0))
            if y + dy < height and x + dx < width
        )
        assert found.boundary[c] == pytest.approx(sides / inside.sum())
        assert found.fractions[c] == pytest.approx(inside.sum() / (labels < 3).sum())


def test_distances_are_those_of_their_definition() -> None:
    one, other = np.array([0.2, 0.3, 0.5]), np.array([0.5, 0.3, 0.2])
    assert fraction_distance(one, other) == pytest.approx(0.3)
    thick = np.zeros((2, len(RADII)))
    a = ShapeDescriptor(np.array([1.0, 0.0]), np.array([0.2, 0.0]), thick)
    b = ShapeDescriptor(np.array([0.5, 0.5]), np.array([0.6, 0.1]), thick + 0.25)
    assert shape_distance(a, a) == 0.0
    # Boundaries: 0.4 / 0.8 and 0.1 / 0.1; thickness 0.25 in both.
    assert shape_distance(a, b) == pytest.approx(0.5 * (0.5 + 1.0) / 2 + 0.5 * 0.25)
    assert shape_distance(a, b) == shape_distance(b, a)


def test_the_dihedral_group_has_eight_elements_that_turn_images_and_maps_alike() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, (6, 6))
    image = np.repeat(labels[..., None], 3, axis=2)
    turned = [turn(labels, element) for element in DIHEDRAL]
    assert len({each.tobytes() for each in turned}) == 8
    assert turned[0].tobytes() == labels.tobytes()
    for element, each in zip(DIHEDRAL, turned, strict=True):
        assert np.array_equal(turn(image, element)[..., 0], each)
    assert turn(np.zeros((2, 3)), "rotate90").shape == (3, 2)


def test_targets_have_the_origins_fractions_and_then_its_shapes() -> None:
    rng = np.random.default_rng(1)
    specs = [(0.3, 16)] * 6 + [(0.3, 2)] * 6 + [(0.8, 16)] * 12
    each, _ = candidates(rng, specs)
    shares = fractions_of(each)[:, 1]
    for origin in range(6):
        chosen = choose_targets(each[origin], each, fractions_of(each), 2, seed=0)
        for choice in chosen:
            assert choice.target != origin
            others = np.delete(np.abs(shares - shares[origin]), origin)
            assert choice.fraction_distance <= np.sort(others)[5] + 1e-12  # of the 3 · 2 nearest
            assert choice.shape_distance == pytest.approx(
                shape_distance(each[origin].descriptor, each[choice.target].descriptor)
            )
    fine = [
        np.mean([c.shape_distance for c in choose_targets(each[o], each, fractions_of(each), 2, seed=0)])
        for o in range(12)
    ]
    anything = [shape_distance(each[0].descriptor, one.descriptor) for one in each[6:12]]
    assert np.mean(fine) < np.mean(anything)


def test_no_target_looks_like_the_origins_map_and_no_two_alike() -> None:
    rng = np.random.default_rng(2)
    labels = blobs(rng, 0.4, 8)
    copies = [labels, turn(labels, "rotate90"), labels.copy()]
    each = [candidate(f"m{i}", np.asarray(one), describe(np.asarray(one), 2)) for i, one in enumerate(copies)]
    chosen = choose_targets(each[0], each, fractions_of(each), 7, seed=3)
    looks = [digest_of(np.asarray(turn(copies[choice.target], choice.dihedral))) for choice in chosen]
    assert len(set(looks)) == 7
    assert digest_of(labels) not in looks
    with pytest.raises(InputError, match="only 7 different targets"):
        choose_targets(each[0], each, fractions_of(each), 8, seed=3)


def test_the_origins_own_map_turned_is_the_last_resort() -> None:
    rng = np.random.default_rng(3)
    each, _ = candidates(rng, [(0.4, 8), (0.9, 4), (0.1, 2)])
    chosen = choose_targets(each[0], each, fractions_of(each), 16, seed=0)
    assert {choice.target for choice in chosen} == {1, 2}
    more = choose_targets(each[0], each, fractions_of(each), 23, seed=0)
    own = [choice for choice in more if choice.target == 0]
    assert len(own) == 7
    assert "identity" not in {choice.dihedral for choice in own}


def test_maps_that_are_not_square_keep_their_size() -> None:
    rng = np.random.default_rng(4)
    maps = [blobs(rng, 0.5, 8)[:32] for _ in range(4)]
    each = [candidate(str(i), one, describe(one, 2)) for i, one in enumerate(maps)]
    for choice in choose_targets(each[0], each, fractions_of(each), 12, seed=0):
        assert turn(maps[choice.target], choice.dihedral).shape == (32, 64)


def test_a_plan_depends_on_the_seed_and_on_nothing_else() -> None:
    rng = np.random.default_rng(5)
    each, _ = candidates(rng, [(0.5, 8)] * 30)

    def plan(seed, order):
        pool = [each[index] for index in order]
        chosen = choose_targets(each[0], pool, fractions_of(pool), 4, seed)
        return [(pool[choice.target].name, choice.dihedral) for choice in chosen]

    straight = list(range(30))
    assert plan(1, straight) == plan(1, straight[::-1])
    assert plan(1, straight) != plan(2, straight)
    assert item_seed(1, each[0]) == item_seed(1, each[0]) != item_seed(2, each[0])


def test_every_element_is_used() -> None:
    rng = np.random.default_rng(6)
    each, _ = candidates(rng, [(0.5, 8)] * 40)
    used = {c.dihedral for origin in each for c in choose_targets(origin, each, fractions_of(each), 3, seed=0)}
    assert used == set(DIHEDRAL)


def test_smaller_subsets_lie_within_larger_ones() -> None:
    names = [f"p{i}" for i in range(40)]
    quarter, half = (set(subset(names, share, 7)) for share in (0.25, 0.5))
    assert (len(quarter), len(half)) == (10, 20)
    assert quarter < half
    assert subset(names, 1.0, 7) == list(range(40))
    assert subset(names, 0.001, 7)
    assert quarter != set(subset(names, 0.25, 8))
