"""Signals and full disks: a run ends in order, and leaves neither half files nor folders behind."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import cli
from commands.terminal import Ended, ending_in_order
from imaging.errors import InputError
from imaging.output import replacing
from model.unet_blocks import Layer
from sampler.feature_cache import CacheBudget, FeatureCache
from tests.commands.running import ROOT, files_in

PROGRAM = (str(ROOT / "cli.py"),)
TELLING = ("-c", "import sys, cli; print('started', flush=True); sys.exit(cli.main(sys.argv[1:]))")


def start(job: list[str], temporary: Path, *more: str, program: tuple[str, ...] = PROGRAM) -> subprocess.Popen[str]:
    temporary.mkdir()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "TMPDIR": str(temporary)}
    return subprocess.Popen(
        [sys.executable, *program, "generate", *job, "--variants", "500", *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_in_order_and_leaves_nothing_but_whole_images(number, job, tmp_path):
    # The structure's sizes differ, so that the origin's features are kept, on disk.
    Image.new("L", (64, 64), 1).save(tmp_path / "other.png")
    more = ["--target-mask", str(tmp_path / "other.png"), "--cache", "disk=1GB", "--inversion", "ddim"]
    process = start(job, tmp_path / "temporary", *more)
    assert process.stdout is not None
    assert "image:" in process.stdout.readline()
    assert [name for name in files_in(tmp_path / "temporary") if name.startswith("stainloom-")]
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else 128 + number)
    assert "finished images are kept" in err
    assert "Traceback" not in err
    assert files_in(tmp_path / "temporary") == []
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".png"
        Image.open(path).load()


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.7, 1.4])
def test_an_interrupt_while_the_program_starts_is_one_line(delay, job, tmp_path):
    # Before that, Python itself is starting, for as long as a busy machine takes.
    process = start(job, tmp_path / "temporary", program=TELLING)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(delay)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted: " in err
    assert "Traceback" not in err


def test_an_ignored_hang_up_stays_ignored(job, tmp_path):
    words = [sys.executable, str(ROOT / "cli.py"), "generate", *job]
    process = subprocess.Popen(
        ["nohup", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
    )
    time.sleep(1.0)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert "wanted.png" in files_in(tmp_path / "out")


def write_first(error: BaseException, *paths: Path) -> None:
    with replacing(*paths) as partials:
        partials[0].write_text("new")
        raise error


def test_a_full_disk_says_so_and_leaves_nothing(tmp_path):
    full = OSError(28, "No space left on device")
    with pytest.raises(InputError, match=r"b\.png: cannot be written .*disk is full: free some space"):
        write_first(full, tmp_path / "a.png", tmp_path / "b.png")
    assert files_in(tmp_path) == []


def test_several_files_take_their_names_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_first(KeyboardInterrupt(), *paths)
    assert files_in(tmp_path) == ["a"]
    assert paths[0].read_text() == "old"
    with replacing(*paths) as partials:
        for partial in partials:
            partial.write_text("new")
    assert [path.read_text() for path in paths] == ["new", "new"]


def test_what_finds_the_disk_full_is_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    features = {Layer(0, 0): torch.zeros(1, 4, 64 * 1024)}
    with FeatureCache(CacheBudget(disk=10**9)) as cache:
        assert cache.put(features) is not None
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            assert cache.put(features) is None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert cache.put(features) is None, "the disk is not tried again"
        (folder,) = tmp_path.iterdir()
        assert len(list(folder.iterdir())) == 1, "what was cut short is gone"
    assert files_in(tmp_path) == []


def test_room_in_a_folder_that_is_not_there_is_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with FeatureCache(CacheBudget(disk=10**9)) as cache:
        assert cache.put({Layer(0, 0): torch.zeros(1)}) is None


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Ended)])
def test_an_end_that_a_library_swallows_comes_again(number, kind):
    # Tests that run in a shell's background have interrupts ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        handlers = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
        with ending_in_order() as end:
            end.raise_if_asked()
            with contextlib.suppress(kind):
                signal.raise_signal(number)
            with pytest.raises(kind):
                end.raise_if_asked()
        assert {each: signal.getsignal(each) for each in handlers} == handlers
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupt_that_a_library_turns_into_an_error_is_an_interrupt(monkeypatch, capsys, tmp_path):
    def reading(arguments: object, end: object) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise InputError("a.safetensors: damaged or cut short; download it again") from None

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        monkeypatch.setattr(cli, "COMMANDS", {"show": reading})
        assert cli.main(["show", str(tmp_path / "a.png")]) == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.startswith("interrupted: ")
