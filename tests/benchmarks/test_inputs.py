"""What benchmarks run on and write: random weights and the example patch at any size, rows that say what they hold."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from benchmarks.example import example_patches
from benchmarks.random_weights import random_model, weight_bytes
from benchmarks.record import Row, append, surroundings
from benchmarks.turns import as_row, take_turns
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
    patches = example_patches(128, 4)
    assert all(patch.origin is patches[0].origin for patch in patches)
    assert all(patch.origin_labels is patches[0].origin_labels for patch in patches)
    assert len({patch.target_labels.tobytes() for patch in patches}) == 4
    assert patches[0].origin.shape == (128, 128, 3)
    assert set(np.unique(patches[0].origin_labels)) == {0, 1}


@pytest.mark.parametrize(("size", "count"), [(100, 1), (0, 1), (64, 0), (64, 13)])
def test_bad_sizes_and_counts_are_refused(size, count):
    with pytest.raises(ValueError, match="must be"):
        example_patches(size, count)


def test_a_row_of_a_job_says_its_unit_and_what_its_times_compare_with(tmp_path):
    outcomes = take_turns({"ours": lambda: (torch.zeros(1),), "other": lambda: (torch.ones(1),)}, CPU, rounds=1)
    file = tmp_path / "deep" / "job.jsonl"
    around = surroundings(CPU)
    for name, outcome in outcomes.items():
        row = as_row("job", name, {"steps": 1}, torch.bfloat16, outcome, against="ours", weight_bytes=7)
        assert isinstance(row, Row)
        append(file, row, around)
    ours, other = (json.loads(line) for line in file.read_text().splitlines())
    assert (ours["unit"], ours["dtype"], ours["weight_bytes"]) == ("s", "bfloat16", 7)
    assert (ours["max_error"], other["max_error"], other["against"]) == (0.0, 1.0, "ours")
    assert "ratios" in ours["times_compare"]
    assert ours["versions"]["diffusers"] is not None
    assert ours["date"] == other["date"]
