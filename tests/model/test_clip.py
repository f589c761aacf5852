"""The text encoder by itself; its numbers are compared with transformers in tests/parity."""

from __future__ import annotations

import pytest
import torch

from model.clip import TextEncoder
from model.config import TextConfig

CONFIG = TextConfig(vocabulary=50, width=24, mlp_width=40, layers=2, num_heads=3, positions=11)


def encoder(dtype: torch.dtype = torch.float64) -> TextEncoder:
    torch.manual_seed(0)
    return TextEncoder(CONFIG).to(dtype).eval().requires_grad_(False)


def ids(rows: int, length: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(0, CONFIG.vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_states_have_the_parameters_type_and_one_vector_a_token(dtype: torch.dtype) -> None:
    states = encoder(dtype)(ids(3, 11))
    assert states.shape == (3, 11, 24)
    assert states.dtype == dtype
    assert states.isfinite().all()


def test_a_token_changes_no_state_before_it() -> None:
    first, second = ids(1, 11), ids(1, 11)
    second[0, 6] = (second[0, 6] + 1) % CONFIG.vocabulary
    a, b = encoder()(first), encoder()(second)
    assert torch.equal(a[:, :6], b[:, :6])
    assert ((a - b)[:, 6:].abs().amax(-1) > 1e-6).all()


def test_position_matters() -> None:
    same = torch.full((1, 4), 7)
    states = encoder()(same)
    assert (states[0, 0] - states[0, 1]).abs().max() > 1e-3


def test_a_shorter_text_has_the_states_of_its_beginning() -> None:
    whole = ids(2, 11)
    torch.testing.assert_close(encoder()(whole[:, :5]), encoder()(whole)[:, :5], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(2, 12), (5,), (1, 2, 3)])
def test_ids_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"ids must be \[B, N\]"):
        encoder()(torch.zeros(shape, dtype=torch.int64))


def test_nothing_but_parameters_is_kept() -> None:
    with torch.device("meta"):
        empty = TextEncoder(CONFIG)
    assert not list(empty.buffers())
    full = encoder()
    empty.load_state_dict(full.state_dict(), assign=True)
    assert torch.equal(empty(ids(1, 11)), full(ids(1, 11)))
