"""Runs the Triton kernels' numerical tests in Triton's interpreter, and their refusals without it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels import cross_image_attention

ROOT = Path(__file__).parents[2]


# How many tests of an operation there are at least.
LEAST = {"cross_image_attention": 50, "adain": 10, "group_norm": 50, "geglu": 9, "self_check": 25}

# What a GPU does not take unless it is asked to, and what it runs once.
SELDOM = ("group_norm", "self_check")


@pytest.mark.parametrize(
    "operation", [pytest.param(name, marks=[pytest.mark.slow] if name in SELDOM else []) for name in LEAST]
)
def test_triton_kernels_agree_with_float64_in_the_interpreter(operation: str) -> None:
    file = str(Path(__file__).with_name(f"test_triton_{operation}.py"))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", file],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    passed = re.search(r"(\d+) passed", run.stdout)
    assert passed is None or int(passed.group(1)) >= LEAST[operation]  # with -q -q there is no count


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="the interpreter takes the CPU")
def test_triton_refuses_what_it_cannot_do_and_names_every_reason() -> None:
    q = torch.zeros(1, 1, 4, 200, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^cross_image_attention: ") as refusal:
        cross_image_attention(q, q, q, impl="triton")
    for part in ("no float64", "head widths 8..160, not 200", "needs a CUDA device, the data is on cpu"):
        assert part in str(refusal.value)
