"""Pixels that belong to no class: AdaIN neither reads nor changes them, in the product and in the reference."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kernels import masked_adain
from sampler.inputs import TransferInputs
from sampler.masks import latent_labels, structure_image, unmatched_classes, vanishing_classes
from sampler.pairs import Origin, PairBatch, Structure, TransferPair, attention_classes
from sampler.presets import PRESETS
from sampler.reference import transfer
from sampler.series import Result, generate
from sampler.settings import Settings, Span

SHORT = replace(
    PRESETS["winter"],
    steps=6,
    skip_steps=1,
    cross_attn_64=Span(1, 4),
    cross_attn_32=Span(1, 3),
    adain_range=Span(1, 5),
)


def quarters(rng: np.random.Generator, ignored: bool) -> np.ndarray:
    labels = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16), np.int64)).astype(np.int64)
    if ignored:
        labels[:, 40:] = 2
    return labels


def inputs(ignored: bool) -> TransferInputs:
    rng = np.random.default_rng(5)
    image = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return TransferInputs(image, quarters(rng, ignored), quarters(rng, ignored), 2)


def last_latents(model, given: TransferInputs, settings: Settings) -> torch.Tensor:
    return next(e for e in generate(model, given, settings, seed=1, impl="torch") if isinstance(e, Result)).latents


def test_the_product_and_the_reference_agree_where_pixels_are_ignored(tiny) -> None:
    found = last_latents(tiny, inputs(ignored=True), SHORT)
    wanted = transfer(tiny, inputs(ignored=True), SHORT, seed=1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, last_latents(tiny, inputs(ignored=False), SHORT), atol=1e-2)


@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_adain_leaves_ignored_positions_alone_and_does_not_read_them(impl) -> None:
    generator = torch.Generator().manual_seed(0)
    z, x = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    labels = torch.randint(0, 3, (2, 8, 8), generator=generator)
    poisoned = torch.where(labels[1] == 2, 1e6, x)
    settings = replace(SHORT, adain="all")
    matched = settings.adain_classes(1, 2)
    assert matched == (0, 1)
    found = masked_adain(z, poisoned, labels[0], labels[1], classes=matched, num_classes=3, impl=impl)
    assert torch.equal(found[:, :, labels[0] == 2], z[:, :, labels[0] == 2])
    clean = masked_adain(z, x, labels[0], labels[1], classes=matched, num_classes=3, impl=impl)
    torch.testing.assert_close(found, clean)


@pytest.mark.parametrize("adain", ["global", "all", "alternating", "foreground"])
def test_no_mode_reads_what_is_ignored_in_the_origin(tiny, adain) -> None:
    """With attention's swap off, the origin enters through AdaIN alone."""
    settings = replace(SHORT, adain=adain, cross_attn_64=None, cross_attn_32=None)
    given = inputs(ignored=True)
    pairs = PairBatch.of([_pair(given)])
    target, origin = pairs.latent_labels(2, as_one=adain == "global")
    ignored = torch.from_numpy(given.origin_labels)[4::8, 4::8] == 2
    for classes in [settings.adain_classes(j, 2) for j in (1, 2)]:
        assert not any(bool((origin[0] == c)[ignored].any()) for c in classes)
    assert target.shape == origin.shape == (1, 8, 8)


def _pair(given: TransferInputs) -> TransferPair:
    def maps(labels: np.ndarray) -> dict[int, torch.Tensor]:
        return {level: latent_labels(torch.from_numpy(labels), 2, 8 * 2**level) for level in (0, 1)}

    empty = torch.zeros(7, 4, 8, 8)
    return TransferPair(
        Origin(empty, maps(given.origin_labels), {}), Structure(empty, None, maps(given.target_labels), {})
    )


def test_attention_by_class_gives_ignored_queries_no_key_of_their_own() -> None:
    images = PairBatch.of([_pair(inputs(ignored=True))])
    settings = replace(SHORT, within_class_attention=True)

    class Layer:
        level = 0

    for from_structure in (False, True):
        classes = attention_classes(images, 2, settings, {Layer(): None}, from_structure=from_structure)[0]
        assert set(classes.query.unique().tolist()) == {0, 1, 2}
        assert 2 not in classes.key.unique().tolist()
        assert int(classes.key.max()) < classes.num_classes


def test_ignored_pixels_are_painted_between_the_classes_and_counted_nowhere() -> None:
    labels = torch.zeros(16, 16, dtype=torch.int64)
    labels[:, 8:] = 2
    image = structure_image(labels, (0.1, 0.5), 0.0, torch.Generator())
    assert image[0, 0, 0, 0].item() == pytest.approx(-0.8)
    assert image[0, 0, 0, 15].item() == pytest.approx(-0.4)
    assert vanishing_classes(labels, 2, 8) == []
    assert unmatched_classes(latent_labels(labels, 2, 8), latent_labels(labels, 2, 8), 2) == []
    labels[:, 4:] = 2  # half of the first squares: the class wins the tie
    assert latent_labels(labels, 2, 8).tolist() == [[0, 2], [0, 2]]
    with pytest.raises(ValueError, match="labels from 1 to 3"):
        latent_labels(labels + 1, 2, 8)
