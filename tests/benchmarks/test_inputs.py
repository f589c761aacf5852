"""What benchmarks run on and write: random weights, the example at any size, short schedules, rows that say it all."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.inputs import MOST, SHORT, WINTER, example_patches, with_classes
from benchmarks.options import random_model, weight_bytes
from benchmarks.record import Recorder
from benchmarks.timing import Setting
from tests.conftest import TINY

CPU = torch.device("cpu")


def test_random_weights_are_seeded_and_of_the_type_asked_for():
    first, again = (random_model(torch.bfloat16, CPU, config=TINY) for _ in range(2))
    other = random_model(torch.bfloat16, CPU, seed=1, config=TINY)
    for name, value in first.unet.state_dict().items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, again.unet.state_dict()[name]), name
    assert not torch.equal(first.unet.conv_in.weight, other.unet.conv_in.weight)
    assert weight_bytes(first) == 2 * sum(
        p.numel() for part in (first.unet, first.vae, first.text_encoder) for p in part.parameters()
    )


def test_activations_of_random_weights_stay_small_in_half_precision():
    model = random_model(torch.bfloat16, CPU, config=TINY)
    context = model.text_encoder(model.tokenizer(["tissue"])).to(torch.bfloat16)
    eps = model.unet(torch.randn(1, 4, 8, 8).bfloat16(), 500, context)
    image = model.vae.decode(torch.randn(1, 4, 8, 8).bfloat16())
    assert bool(eps.isfinite().all())
    assert bool(image.isfinite().all())
    assert float(eps.abs().max()) < 100


def test_targets_share_the_origin_and_differ():
    patches = example_patches(128, MOST)
    assert all(patch.origin is patches[0].origin for patch in patches)
    assert all(patch.origin_labels is patches[0].origin_labels for patch in patches)
    assert len({patch.target_labels.tobytes() for patch in patches}) == MOST == 24
    assert patches[0].origin.shape == (128, 128, 3)
    assert set(np.unique(patches[0].origin_labels)) == {0, 1}


def test_more_classes_cut_the_examples_into_stripes():
    (two,) = example_patches(128, 1)
    eight = with_classes(two, 8)
    assert eight.num_classes == 8
    for before, after in ((two.origin_labels, eight.origin_labels), (two.target_labels, eight.target_labels)):
        assert np.array_equal(after // 4, before), "a stripe holds parts of one class"
        assert [set(np.unique(after[:, column] % 4)) for column in (0, 32, 64, 127)] == [{0}, {1}, {2}, {3}]
    for count in (1, 3):
        with pytest.raises(ValueError, match="multiple"):
            with_classes(two, count)


@pytest.mark.parametrize(("size", "count"), [(100, 1), (0, 1), (64, 0), (64, 25)])
def test_bad_sizes_and_counts_are_refused(size, count):
    with pytest.raises(ValueError, match="must be"):
        example_patches(size, count)


def test_a_row_of_a_job_says_what_it_is_of_and_what_its_times_compare_with(tmp_path):
    file = tmp_path / "deep" / "job.jsonl"
    setting = Setting(CPU, torch.bfloat16, 1, Recorder(file, CPU), weight_bytes=7)
    sides = {"ours": lambda: (torch.zeros(1),), "other": lambda: (torch.ones(1),)}
    setting.recorder.add(setting.compare("job", sides, {"steps": 1}, against="ours")[0])
    ours, other = (json.loads(line) for line in file.read_text().splitlines())
    assert (ours["what"], ours["dtype"], ours["weight_bytes"]) == ("job", "bfloat16", 7)
    assert 0 < ours["p20"] == ours["p50"] == ours["p80"] < 1, "seconds"
    assert (ours["max_error"], other["max_error"], other["against"]) == (0.0, 1.0, "ours")
    assert "ratios" in ours["times_compare"]
    assert ours["versions"]["diffusers"] is not None
    assert ours["date"] == other["date"]


def test_ten_steps_are_a_tenth_of_the_preset():
    assert (SHORT.steps, SHORT.start_step, SHORT.structure_until) == (10, round(WINTER.start_step / 10), 4)
    for name in ("cross_attn_64", "cross_attn_32", "adain_range"):
        short, full = getattr(SHORT, name), getattr(WINTER, name)
        assert (10 * short.start, 10 * short.stop) == (full.start, full.stop)
    changed = {name for name, value in vars(WINTER).items() if getattr(SHORT, name) != value}
    spans = {"cross_attn_64", "cross_attn_32", "adain_range"}
    assert changed == {"steps", "skip_steps", "structure_every", "structure_until"} | spans


def test_ten_steps_have_every_kind_of_step():
    assert (SHORT.start_step, SHORT.num_denoising_steps, SHORT.num_known_steps) == (3, 7, 1)
    swapped = [j for j in range(SHORT.num_denoising_steps) if SHORT.swapped_levels(j)]
    assert swapped == [1, 2, 3, 4, 5, 6]
    # 6 of 58 in the preset: one of six is nearer than none.
    assert [j for j in swapped if SHORT.swaps_in_structure(j)] == [2]
    assert {c for j in range(SHORT.num_denoising_steps) for c in SHORT.adain_classes(j, 2)} == {0, 1}
