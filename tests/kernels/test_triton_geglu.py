"""GEGLU by Triton against float64: on a GPU with ``make gpu``, elsewhere interpreted.

``test_triton_interpreter.py`` runs this file in a process of its own.
"""

from __future__ import annotations

import math

import pytest
import torch

from kernels import geglu
from tests.kernels import plain
from tests.kernels.device import DEVICE
from tests.tolerances import assert_as_accurate

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("poisoned")]

DTYPES = (torch.float32, torch.bfloat16, torch.float16)

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@every_dtype
@pytest.mark.parametrize("shape", [(2, 9, 74), (1, 3, 600), (10,)], ids=str)
def test_geglu_is_as_accurate_as_plain_pytorch(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    projected = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    projected[..., shape[-1] // 2 :] *= 3
    projected = projected.to(DEVICE, dtype)
    for rows in (projected, torch.nn.functional.pad(projected, (0, 6), value=math.nan)[..., : shape[-1]]):
        out = geglu(rows, impl="triton")
        exact = plain.geglu(projected.double())
        magnitude = plain.geglu_terms(projected)
        assert_as_accurate(out, plain.geglu(projected), exact, per=(-1,), magnitude=magnitude)
        assert torch.equal(geglu(rows, impl="triton"), out)


@pytest.mark.skipif(DEVICE == "cpu", reason="too large for the interpreter")
@every_dtype
@pytest.mark.parametrize(("rows", "columns"), [(4096, 1280), (1024, 2560), (256, 5120), (4095, 1281)])
def test_stable_diffusion_gates_on_the_device(rows: int, columns: int, dtype: torch.dtype) -> None:
    projected = torch.randn(2, rows, 2 * columns, generator=torch.Generator().manual_seed(0)).to(DEVICE, dtype)
    out, exact = geglu(projected, impl="triton"), plain.geglu(projected.double())
    assert_as_accurate(out, plain.geglu(projected), exact, per=(-1,), magnitude=plain.geglu_terms(projected))
