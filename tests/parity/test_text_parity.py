"""CLIP states against transformers' CLIPTextModel with the same seeded random weights."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import assert_as_accurate

PROMPTS = ["", "an immunohistochemistry image of colon tissue", "cat " * 100, "🔬 Ki-67+ nuclei, 40×"]


@torch.no_grad()
def test_states_in_float64_are_those_of_transformers(tiny_pair):
    ours, theirs = tiny_pair(torch.float64)
    ids = ours.tokenizer(PROMPTS)
    expected = theirs.text_encoder(ids).last_hidden_state
    assert expected.std(dim=(0, 1)).min() > 1e-2, "the states are constant: this comparison would prove nothing"
    assert (ours.text_encoder(ids) - expected).abs().max() <= 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@torch.no_grad()
def test_states_are_as_accurate_as_those_of_transformers(dtype, tiny_pair):
    ours, theirs = tiny_pair(dtype)
    ids = ours.tokenizer(PROMPTS)
    exact = theirs.text_encoder.double()(ids).last_hidden_state
    plain = theirs.text_encoder.to(dtype)(ids).last_hidden_state
    assert_as_accurate(ours.text_encoder(ids), plain, exact)
