"""Which kernels a run takes, and what is said when the fused ones are off."""

from __future__ import annotations

import json
import os
import stat
import time

import pytest
import torch

from commands import kernel_choice
from commands.kernel_choice import Choice, choose_impl, verdict
from imaging.errors import InputError
from kernels.self_check import Failure

CPU, GPU = torch.device("cpu"), torch.device("cuda")
HERE = {"device": "A chip", "driver": "1.2", "torch": "9.0", "triton": "8.0", "dtype": "float16"}


# The checks run in a process of their own, which imports them by name.
def all_is_well(device, dtype):
    return []


def two_fail(device, dtype):
    return [Failure("geglu", f"wrong on {device} in {dtype}"), Failure("masked_adain", "too")]


def dies(device, dtype):
    os.abort()


def hangs(device, dtype):
    time.sleep(60)


def raises(device, dtype):
    raise RuntimeError("no such device")


def must_not_run(device, dtype):
    raise AssertionError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stainloom"


@pytest.fixture
def here(monkeypatch):
    """Checks run in this process: starting one takes seconds."""
    monkeypatch.setattr(kernel_choice, "_run_apart", lambda check, device, dtype, seconds: check(device, dtype))


def ask(check, seconds=30.0, **changes):
    return verdict({**HERE, **changes}, CPU, torch.float16, check=check, seconds=seconds)


def test_what_passes_is_taken_and_remembered(cache):
    assert ask(all_is_well) == Choice("triton")
    assert ask(must_not_run) == Choice("triton")
    (kept,) = cache.iterdir()
    assert json.loads(kept.read_text())["circumstances"] == HERE


def test_one_note_names_the_kernel_the_device_the_versions_and_the_error(cache):
    first = ask(two_fail)
    assert first.impl == "torch"
    (note,) = first.notes
    for part in ("geglu (and 1 more)", "A chip", "PyTorch 9.0", "Triton 8.0", "wrong on cpu in torch.float16"):
        assert part in note
    (kept,) = cache.iterdir()
    assert str(kept) in note
    assert ask(must_not_run) == first
    kept.unlink()
    assert ask(all_is_well) == Choice("triton")


@pytest.mark.parametrize("changed", list(HERE))
@pytest.mark.usefixtures("here")
def test_other_circumstances_are_checked_anew(changed):
    assert ask(two_fail).impl == "torch"
    assert ask(all_is_well, **{changed: "other"}) == Choice("triton")


@pytest.mark.parametrize(
    ("check", "said"), [(dies, "ended with -6"), (hangs, "did not end within 3 s"), (raises, "ended with 1")]
)
def test_a_check_that_dies_or_hangs_leaves_pytorch(check, said):
    choice = ask(check, seconds=3.0 if check is hangs else 30.0)
    assert choice.impl == "torch"
    assert said in choice.notes[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"circumstances": 1}', b"\xff\x00", b"9" * 5000])
@pytest.mark.usefixtures("here")
def test_a_damaged_record_is_made_again(content, cache):
    ask(two_fail)
    (kept,) = cache.iterdir()
    kept.write_bytes(content)
    assert ask(all_is_well) == Choice("triton")
    assert ask(must_not_run) == Choice("triton")


@pytest.mark.usefixtures("here")
def test_a_pipe_in_the_records_place_is_not_waited_for(cache):
    ask(two_fail)
    (kept,) = cache.iterdir()
    kept.unlink()
    os.mkfifo(kept)
    assert ask(all_is_well) == Choice("triton")
    assert stat.S_ISREG(kept.stat().st_mode)


@pytest.mark.usefixtures("here")
def test_a_cache_that_cannot_be_written_costs_another_check(cache):
    cache.parent.write_text("a file where the folder should be")
    choice = ask(two_fail)
    assert choice.impl == "torch"
    assert "remove" not in choice.notes[0]
    assert ask(all_is_well) == Choice("triton")


@pytest.mark.parametrize("capability", [(8, 0), (9, 0), (12, 0)])
def test_auto_on_a_gpu_is_checked_under_its_name_driver_and_versions(capability, monkeypatch):
    seen = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A chip")
    monkeypatch.setattr(kernel_choice, "verdict", lambda *given: seen.append(given) or Choice("triton"))
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    assert choose_impl("auto", GPU, torch.bfloat16) == Choice("triton")
    ((circumstances, device, dtype),) = seen
    assert (device, dtype) == (GPU, torch.bfloat16)
    assert circumstances["torch"] == torch.__version__
    assert {"device", "driver", "triton", "kernels", "cuda"} <= set(circumstances)
    assert all(circumstances.values()) or torch.version.cuda is None


def test_older_gpus_and_systems_without_triton_have_pytorch_and_a_note(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    choice = choose_impl("auto", GPU, torch.float16)
    assert choice.impl == "torch"
    assert len(choice.notes) == 1
    monkeypatch.setattr(kernel_choice, "find_spec", lambda name: None)
    assert "triton is not installed" in choose_impl("auto", GPU, torch.float16).notes[0]


def test_a_name_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(kernel_choice, "verdict", must_not_run)
    assert choose_impl("auto", CPU, torch.float32) == Choice("torch")
    for name in ("torch", "reference"):
        assert choose_impl(name, GPU, torch.float16) == Choice(name)
    if kernel_choice.find_spec("triton") is not None:
        assert choose_impl("triton", GPU, torch.float16) == Choice("triton")
    for name, device in (("triton", CPU), ("cuda", GPU), ("", GPU), ("AUTO", GPU)):
        with pytest.raises(InputError, match="--impl"):
            choose_impl(name, device, torch.float16)
