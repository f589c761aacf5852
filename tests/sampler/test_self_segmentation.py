"""The foreground that is found: planted ones, guards, nouns, memory. `test_k_means` has the clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from model.tokenizer import Tokenizer
from sampler.errors import SettingError
from sampler.presets import PRESETS, choose
from sampler.self_segmentation import (
    HELD_POSITIONS,
    AttentionMap,
    Foreground,
    FoundMasks,
    clusters_of,
    label,
    noun_positions,
    rows_of,
)
from tests.allocations import peak_extra_bytes
from tests.parity.second_implementation import foreground as theirs

SIZE = (8, 16)
DTYPES = (torch.float32, torch.float64)


def planted(parts: torch.Tensor, seed: int, dtype: torch.dtype, heads: int = 2, width: int = 16) -> AttentionMap:
    """Attention of positions that look at those of their own part [h, w]."""
    generator = torch.Generator().manual_seed(seed)
    looks = 3 * torch.randn(int(parts.max()) + 1, width, generator=generator, dtype=torch.float64)[parts.flatten()]
    q, k = (looks + 0.3 * torch.randn(heads, *looks.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    return AttentionMap(q.to(dtype), k.to(dtype), dtype)


def grid(height: int, width: int) -> torch.Tensor:
    """Five parts of [h, w]: four quarters, and a frame of two in the middle."""
    parts = torch.zeros(height, width, dtype=torch.int64)
    parts[:, width // 2 :] += 1
    parts[height // 2 :] += 2
    parts[height // 4 : -(height // 4), width // 4 : -(width // 4)] = 4
    return parts


def attention_to_nouns(parts: torch.Tensor, liked: list[dict[int, float]], dtype: torch.dtype) -> torch.Tensor:
    """[N/4, n]: what each position at half of the resolution pays to each noun, by part; 0.01 to the others."""
    coarse = parts[::2, ::2].flatten()
    columns = [torch.tensor([each.get(int(part), 0.01) for part in coarse], dtype=dtype) for each in liked]
    return torch.stack(columns, dim=1)


def found(parts, liked, dtype, image="origin") -> Foreground:
    rows = rows_of(planted(parts, 3, dtype))
    return label(clusters_of(rows, image), attention_to_nouns(parts, liked, dtype), tuple(parts.shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("image", ["origin", "structure"])
@pytest.mark.parametrize(
    ("liked", "expected"),
    [
        ([{4: 0.5}], {4}),
        ([{0: 0.5, 3: 0.45}], {0, 3}),
        ([{4: 0.5}, {1: 0.6}], {4}),
        ([{4: 0.5, 1: 0.4}, {1: 0.6}], {4}),
        ([{4: 0.5}, {4: 0.51}], set()),
        ([{4: 0.01, 1: 0.02}, {4: 0.5}], {1}),
        ([dict.fromkeys(range(5), 0.5)], set()),
        ([dict.fromkeys(range(5), 0.1) | {0: 0.13}, {2: 0.9}], {0}),
    ],
)
def test_a_planted_foreground_is_found(liked, expected, image, dtype):
    parts = grid(*SIZE)
    result = found(parts, liked, dtype, image)
    assert torch.equal(result.mask, sum((parts == part) for part in expected).bool() if expected else parts < 0)
    assert result.positions == int(result.mask.sum())
    assert result.share == result.positions / 128


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_and_scores_are_those_of_the_second_implementation(dtype):
    """On planted parts, and where random positions look at random nouns."""
    together = []
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        own = planted(torch.randint(0, 7, SIZE, generator=generator) if seed % 2 else grid(*SIZE), seed, dtype)
        text = torch.softmax(3 * torch.randn(32, 77, generator=generator), -1).to(dtype)
        text[:, 5] *= 1 + (grid(*SIZE)[::2, ::2].flatten() == seed % 5) * 9
        columns = [[5], [5, 9], [9, 5, 1]][seed % 3]
        mask, scores = theirs(own.rows(slice(None)), text, columns, SIZE, np.random.RandomState(1))
        result = label(clusters_of(rows_of(own), "origin"), text[:, columns], SIZE)
        np.testing.assert_array_equal(result.mask.numpy(), mask)
        np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
        together.append(result.positions)
    assert len(set(together)) > 3, "one outcome alone: this would prove little"


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_has_no_foreground_gives_an_empty_one_and_no_nan(dtype):
    parts, even = grid(*SIZE), torch.full((32, 1), 1 / 77, dtype=dtype)
    cases = {
        "a noun that fills the image": (rows_of(planted(parts, 0, dtype)), even),
        "a noun that nobody looks at": (rows_of(planted(parts, 0, dtype)), 0 * even),
        "an image of one colour": (rows_of(AttentionMap(*torch.ones(2, 2, 128, 8, dtype=dtype), dtype)), even),
    }
    for name, (rows, nouns) in cases.items():
        result = label(clusters_of(rows, "origin"), nouns, SIZE)
        assert not result.mask.any(), name
        assert result.positions == 0, name
        assert np.isfinite([score for row in result.scores for score in row]).all(), name
    assert result.threshold is None, "there is nothing to compare the only cluster with"


def masked(positions: int) -> Foreground:
    mask = torch.zeros(SIZE, dtype=torch.bool)
    mask.view(-1)[:positions] = True
    return Foreground(mask, positions, ((0.5,),), 0.1)


@pytest.mark.parametrize(("origin", "structure"), [(0, 9), (1, 9), (9, 0), (9, 1), (0, 0)])
def test_fewer_than_two_positions_on_either_side_mean_all_of_them_on_both(origin, structure):
    pair = FoundMasks(masked(origin), masked(structure))
    assert pair.adain == "global"
    assert all(pair.matched(image).all() for image in ("origin", "structure"))


def test_two_positions_are_enough_and_ignored_ones_do_not_count():
    pair = FoundMasks(masked(2), masked(5))
    assert pair.adain == "foreground"
    assert torch.equal(pair.matched("structure"), masked(5).mask)
    ignored = masked(3).mask
    left = pair.structure.without(ignored)
    assert left.positions == 2
    assert torch.equal(left.mask, masked(5).mask & ~masked(3).mask)
    assert FoundMasks(pair.origin.without(ignored), left).adain == "global"


def test_at_512_px_a_map_takes_less_than_90_mb_and_beyond_it_is_never_held():
    for height, width in ((64, 64), (64, 68)):
        own = planted(grid(height, width), 0, torch.float32, heads=1, width=8)
        held: list[object] = []
        extra = peak_extra_bytes(lambda own=own, held=held: held.append(clusters_of(rows_of(own), "origin")) or held)
        positions = height * width
        assert extra < (90e6 if positions == HELD_POSITIONS else 0.8 * 4 * positions**2)


PROMPTS = {
    "A photo of a tissue": ("tissue", 5),
    "A photo of a histopathology": ("histopathology", 5),
    "A histopathology of cats": ("cats", 7),
    "cat": ("cat", 1),
    "A photo of a cat, a dog": ("dog", 8),
    "A photo of a H&E-stained lung": ("stained", 9),
    "A photo of catscats and a cats": ("cats", 9),
    "Ein Bild der Drüse": ("Drüse", 4),
    "  A   photo of\ta cat": ("cat", 5),
}


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_noun_stands_where_its_first_piece_is(prompt):
    noun, expected = PROMPTS[prompt]
    tokenizer = Tokenizer()
    settings = choose("alaluf", {"prompt": prompt, "nouns": (noun,)})
    assert noun_positions(tokenizer, settings) == [expected]
    pieces = tokenizer.encode(noun)
    assert tokenizer([prompt])[0, expected : expected + len(pieces)].tolist() == pieces
    decomposed = prompt.replace("ü", "u\u0308")
    assert tokenizer.position(decomposed, noun) == expected


@pytest.mark.parametrize(
    ("overrides", "field", "reason"),
    [
        ({"prompt": "A photo of a dog"}, "domain", "tissue is not in the prompt"),
        ({"prompt": "A photo of a Tissue"}, "domain", "as it is written there"),
        ({"prompt": "A photo of tissues"}, "domain", "not in the prompt"),
        ({"nouns": ("tissue", "dog")}, "nouns", "dog is not in the prompt"),
        ({"prompt": "very " * 80 + "tissue"}, "domain", "75 tokens"),
        ({"prompt": ""}, "domain", "not in the prompt"),
    ],
)
def test_a_noun_that_is_not_read_in_the_prompt_is_refused(overrides, field, reason):
    with pytest.raises(SettingError, match=reason) as caught:
        noun_positions(Tokenizer(), choose("alaluf", overrides))
    assert caught.value.field == field


@pytest.mark.parametrize("word", ["two words", "", " ", "H&E", "cat's", "cat-like", "7", "cat\n", "😀", "x" * 5 + "\0"])
def test_a_domain_and_nouns_are_words_of_letters(word):
    for overrides in ({"domain": word}, {"nouns": ("tissue", word)}):
        with pytest.raises(SettingError, match="letters") as caught:
            choose("alaluf", overrides)
        assert caught.value.field in overrides
    with pytest.raises(SettingError, match="different words"):
        choose("alaluf", {"nouns": ("cat", "cat")})


def test_a_domain_brings_its_prompt_and_a_prompt_still_wins():
    assert PRESETS["alaluf"].prompt == "A photo of a tissue"
    lung = choose("alaluf", {"domain": "lung"})
    assert (lung.prompt, lung.object_nouns) == ("A photo of a lung", ("lung",))
    own = choose("alaluf", {"domain": "lung", "prompt": "a lung and a heart", "nouns": ("heart", "lung")})
    assert (own.prompt, own.object_nouns) == ("a lung and a heart", ("heart", "lung"))
    assert PRESETS["winter"].prompt == "an immunohistochemistry image of epithelium and stroma"
    for overrides in ({"domain": "lung"}, {"nouns": ("epithelium",)}):
        with pytest.raises(SettingError, match="belongs to `preset` alaluf"):
            choose("winter", overrides)


def test_maps_are_taken_at_the_first_step_of_adain_if_there_is_one():
    alaluf = PRESETS["alaluf"]
    assert alaluf.segmentation_step == 32 + 20
    assert choose("alaluf", {"adain_range": alaluf.cross_attn_64}).segmentation_step == 32 + 10
    assert choose("alaluf", {"skip_steps": 80}).segmentation_step is None, "the range begins after the last step"
    assert choose("alaluf", {"adain": "global"}).segmentation_step is None
    assert choose("winter", {"adain": "foreground"}).segmentation_step is None
