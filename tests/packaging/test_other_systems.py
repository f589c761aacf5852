"""What other systems lack: Triton, /proc and a C library to ask. Only `--impl triton` needs any of it."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from commands import machine
from commands.kernel_choice import choose_impl
from commands.machine import free_bytes
from imaging.errors import InputError
from model import host_memory
from tests.packaging.environments import QUICK

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
HIDDEN = """
import sys
sys.modules["triton"] = None  # as good as not installed
import cli
code = cli.main(sys.argv[1:])
assert not [name for name in sys.modules if name.startswith("kernels.triton")]
sys.exit(code)
"""


def without_triton(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", HIDDEN, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_images_are_made_without_triton(tiny_folder, tmp_path):
    arguments = ["--weights", str(tiny_folder), "--output", str(tmp_path / "new.png"), "--device", "cpu", *QUICK]
    done = without_triton("generate", *arguments)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "new.png").size == (256, 256)


def test_triton_is_refused_by_name_where_it_is_not_installed(tmp_path):
    done = without_triton("generate", "--impl", "triton", "--output", str(tmp_path / "new.png"))
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ")] == [done.stderr.strip()]
    assert "the package triton, which is not installed" in done.stderr


def test_triton_is_refused_by_name_on_a_gpu_too(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(InputError, match="the package triton, which is not installed"):
        choose_impl("triton", torch.device("cuda"), torch.float16)


def test_free_memory_is_half_of_all_where_the_system_does_not_say_more(monkeypatch):
    def refuse(*arguments, **options):
        raise FileNotFoundError

    measured = free_bytes(CPU)
    monkeypatch.setattr(builtins, "open", refuse)
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert free_bytes(CPU) == total // 2
    assert measured <= total
    monkeypatch.delattr(os, "sysconf")
    assert free_bytes(CPU) == machine.ASSUMED_FREE


@pytest.mark.parametrize("error", [TypeError, OSError])
def test_a_system_without_a_c_library_to_ask_keeps_its_memory(monkeypatch, error):
    def refuse(name):
        raise error

    monkeypatch.setattr(host_memory.ctypes, "CDLL", refuse)
    host_memory.trim_heap()
