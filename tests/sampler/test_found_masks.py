"""Series of images whose foreground the method finds: what is shared, what AdaIN goes by, what a GPU asks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.unet_blocks import Layer
from sampler.cuda_graphs import GraphedUNet
from sampler.errors import NotFiniteError
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.pairs import Origin, PairBatch, Structure, TransferPair
from sampler.self_segmentation import Foreground
from sampler.series import generate_series
from sampler.settings import Span
from sampler.tasks import GenerationTask
from tests.conftest import build_tiny
from tests.sampler.cases import EVERYWHERE, FOUND, run, tasks


@pytest.fixture(scope="module")
def sharp():
    """The tiny model in float64, with weights by which positions look somewhere."""
    model = build_tiny(torch.float64)
    decoder = model.unet.up_blocks
    for attention in (decoder[3].attentions[2].block.attn1, decoder[2].attentions[2].block.attn2):
        attention.to_q.weight.data *= 16
        attention.to_k.weight.data *= 16
    return model


def without_masks() -> list[GenerationTask]:
    """Tasks of two origins and two masks, of which one has hardly a position that is not ignored."""
    first, _, other, _, _, _, second = (replace(task.inputs, origin_labels=None) for task in tasks())
    other.target_labels[1:] = 2
    crossed = replace(second, target_labels=first.target_labels)
    return [GenerationTask(inputs, 0) for inputs in (first, other, crossed)]


def test_images_of_a_series_are_what_they_are_alone(sharp):
    work = without_masks()
    alone = [run(sharp, [task], FOUND, Execution())[0] for task in work]
    for execution in (Execution(batch=3), Execution(batch=2, budget=EVERYWHERE)):
        for index, other in run(sharp, work, FOUND, execution).items():
            single = alone[index]
            assert float((other.latents - single.latents).norm() / single.latents.norm()) < 1e-6
            for name in ("origin", "structure"):
                assert torch.equal(getattr(other.found, name).mask, getattr(single.found, name).mask)
    assert {result.found.adain for result in alone} == {"foreground", "global"}, "both kinds, or this proves less"
    assert len({result.found.origin.positions for result in alone}) > 1


def test_the_origins_mask_is_found_once_for_all_its_targets(sharp, monkeypatch):
    found = []

    def spy(rows, image):
        found.append(image)
        return torch.arange(rows.matrix.shape[0]) % 5

    monkeypatch.setattr("sampler.prepare.clusters_of", spy)
    run(sharp, without_masks()[:2], FOUND, Execution(batch=1))
    assert sorted(found) == ["origin", "structure", "structure"]


def test_masks_change_the_image_and_nothing_is_found_where_nothing_goes_by_it(sharp):
    (task,) = without_masks()[:1]
    found = run(sharp, [task], FOUND, Execution())[0]
    assert found.found.adain == "foreground"
    for changed in ({"adain": "global"}, {"adain": "none"}, {"adain_range": Span(5, 9)}):
        other = run(sharp, [task], replace(FOUND, **changed), Execution())[0]
        assert other.found is None
        assert torch.isfinite(other.latents).all()
        assert float((other.latents - found.latents).norm()) > 1e-3
    given = run(sharp, tasks()[:1], FOUND, Execution())[0]
    assert given.found is None, "a given mask is used"


def pair(origin: int, structure: int, labels: torch.Tensor) -> TransferPair:
    """With so many positions of foreground, the last ones of the target ignored."""
    empty = torch.zeros(3, 4, 8, 8)

    def found(positions: int) -> Foreground:
        mask = torch.zeros(8, 8, dtype=torch.bool)
        mask.view(-1)[:positions] = True
        return Foreground(mask, positions, ((0.5,),), 0.1)

    zeros = torch.zeros(8, 8, dtype=torch.int64)
    return TransferPair(
        Origin(empty, {0: zeros}, {}, found(origin)), Structure(empty, None, {0: labels}, {}, found(structure))
    )


def test_each_pair_of_a_batch_has_its_own_positions():
    labels = torch.zeros(8, 8, dtype=torch.int64)
    labels[:, :4], labels[7] = 1, 2
    first = pair(9, 12, labels)
    second = TransferPair(first.origin, pair(0, 1, labels).structure)
    target, origin = PairBatch.of([first, second]).latent_labels(2, as_one=False)
    ignored = labels == 2
    assert torch.equal(target[0] == 0, first.structure.foreground.mask & ~ignored)
    assert torch.equal(origin[0] == 0, first.origin.foreground.mask)
    assert torch.equal(target[1] == 0, ~ignored), "all that is some class"
    assert bool((origin[1] == 0).all())
    assert PairBatch.of([first, second]).origin_latents(0).shape[0] == 2
    assert set(target.unique().tolist()) == set(origin.unique().tolist()) == {0, 1}


def test_one_colour_gives_finite_images(sharp):
    flat = TransferInputs(np.full((64, 64, 3), 255, np.uint8), None, np.zeros((64, 64), np.int64), 1)
    result = run(sharp, [GenerationTask(flat, 0)], FOUND, Execution())[0]
    assert torch.isfinite(result.latents).all()
    assert result.found is not None


def test_values_that_are_not_finite_are_said_before_clusters_are_sought():
    model = build_tiny(torch.float32)
    model.unet.up_blocks[3].attentions[2].block.attn1.to_q.weight.data[0, 0] = torch.inf
    with pytest.raises(NotFiniteError, match="denoising the images again"):
        run(model, without_masks()[:1], FOUND, Execution())


def test_single_layers_are_captured_in_the_order_in_which_they_run(sharp):
    unet, z = sharp.unet, torch.randn(1, 4, 8, 8, dtype=torch.float64)
    cond = unet.condition(torch.randn(1, 77, 12, dtype=torch.float64), 5)
    own, text = Layer(0, 2), Layer(1, 2, text=True)
    assert unet.layers((own, 1, text, own)) == [Layer(1, 0), Layer(1, 1), Layer(1, 2), text, own]
    seen = unet(z, cond, capture=(own, text)).features
    assert list(seen) == [text, own]
    assert torch.equal(seen[own], unet(z, cond, capture=(0,)).features[own])
    assert torch.equal(seen[text], unet.features(z, cond, (text,))[text])
    assert seen[text].shape == (1, 16, 16)
    assert [part.shape[2] for part in unet.queries_keys(text, seen[text], cond)] == [16, 77]
    for wrong, why in ((Layer(0, 3), "3 layers"), (Layer(3, 0), "no self-attention"), (Layer(0, -1), "3 layers")):
        with pytest.raises(ValueError, match=why):
            unet.layers((wrong,))


class Again:
    """Recorded work that is done again where it is replayed."""

    def __init__(self, work, inputs):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.work, self.outputs = work, [torch.zeros_like(tensor) for tensor in work(*self.inputs)]

    def replay(self):
        for slot, made in zip(self.outputs, self.work(*self.inputs), strict=True):
            slot.copy_(made)


def test_recorded_calls_see_the_same_maps(sharp, monkeypatch):
    work = without_masks()[:1]
    plain = run(sharp, work, FOUND, Execution())[0]
    monkeypatch.setattr("sampler.conditioned_unet.with_cuda_graphs", lambda unet: GraphedUNet(unet, Again))
    replayed = run(sharp, work, FOUND, Execution(graphs=True))[0]
    assert torch.equal(replayed.found.origin.mask, plain.found.origin.mask)
    torch.testing.assert_close(replayed.latents, plain.latents, rtol=1e-6, atol=1e-6)


def test_settings_without_an_object_find_nothing(sharp):
    """From Python: denoising again and a foreground, and no noun that could name it."""
    bare = replace(FOUND, domain=None)
    with pytest.raises(ValueError, match="names no object"):
        list(generate_series(sharp, without_masks()[:1], bare, Execution()))
