"""`generate` on label maps larger than a window: TIFF with its record, what is said, and runs that go on."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import cli
from commands import generate as generate_command
from commands import machine, unfinished
from commands.machine import check_memory, wanted_bytes
from commands.progress import Reporter
from imaging.errors import InputError
from imaging.images import read_image
from imaging.provenance import read_provenance
from imaging.windows import read_resolution
from model.config import SD15
from sampler.progress import Progress
from tests.commands.running import QUICK, files_in, generate

WINDOWS = ("--window", "128", "--window-overlap", "64")
"""The field of 100×200 px is then three windows."""


def write_field(folder: Path, weights: Path) -> list[str]:
    """Files of a small job whose target is a field with a resolution, and the arguments that run it."""
    rng = np.random.default_rng(4)
    Image.fromarray(rng.integers(0, 256, (64, 128, 3), dtype=np.uint8)).save(folder / "patch.png")
    patch, labels = (np.kron(rng.integers(0, 2, (8, 16)), np.ones((size, size))) for size in (8, 16))
    Image.fromarray(patch.astype(np.uint8)).save(folder / "patch_mask.png")
    mask = Image.fromarray(labels[:100, :200].astype(np.uint8))
    mask.save(folder / "field.tif", resolution_unit=3, x_resolution=20000, y_resolution=20000)
    files = {"origin": "patch.png", "origin-mask": "patch_mask.png", "target-mask": "field.tif"}
    words = [word for option, name in files.items() for word in (f"--{option}", str(folder / name))]
    return [*words, "--weights", str(weights), "--output", str(folder / "out"), "--dtype", "fp32", *QUICK]


@pytest.fixture
def field(tmp_path, tiny_folder) -> list[str]:
    return write_field(tmp_path, tiny_folder)


def test_a_field_is_a_tiff_with_its_record_and_the_masks_resolution(field, tmp_path, capsys):
    assert generate(*field, *WINDOWS, "--seed", "7") == 0
    said = capsys.readouterr()
    assert files_in(tmp_path / "out") == ["field-panel.png", "field.tif"]
    assert "field.tif: made in 3 windows of 128 px that overlap by 64 px at least (--window and" in said.err
    path = tmp_path / "out" / "field.tif"
    pixels = read_image(path)
    assert pixels.shape == (100, 200, 3)
    assert read_resolution(path) == read_resolution(tmp_path / "field.tif") is not None
    record = read_provenance(path)
    assert (record.arguments["window"], record.arguments["window-overlap"]) == ("128", "64")

    path.rename(tmp_path / "kept.tif")
    assert cli.main(["show", str(tmp_path / "kept.tif")]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[command.index("--window") + 1] == "128"
    assert cli.main(command[2:]) == 0
    np.testing.assert_array_equal(read_image(path), pixels)
    assert path.read_bytes() == (tmp_path / "kept.tif").read_bytes()


def test_windows_are_used_by_default_where_a_side_is_over_768_px(field, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sampler.settings.WINDOW", 192)
    monkeypatch.setattr("sampler.settings.LARGEST_WHOLE", 192)
    out, default = tmp_path / "out" / "field.tif", ("--window-overlap", "64")
    assert generate(*field, *default) == 0
    assert "made in 2 windows of 192 px" in capsys.readouterr().err
    pixels = read_image(out)
    assert read_provenance(out).arguments["window"] == "192", "the record says what was done, whatever the default is"
    assert generate(*field, *default, "--window", "192") == 0
    np.testing.assert_array_equal(read_image(out), pixels)
    capsys.readouterr()
    assert generate(*field, *default, "--window", "0", "--output", str(tmp_path / "whole")) == 0
    assert "windows" not in capsys.readouterr().err
    assert files_in(tmp_path / "whole") == ["field-panel.png", "field.png"]
    assert (read_image(tmp_path / "whole" / "field.png") != pixels).mean() > 0.1


def test_names_say_the_format(field, job, tmp_path, capsys):
    assert generate(*field, *WINDOWS, "--output", str(tmp_path / "a.png")) == 0
    assert generate(*field, *WINDOWS, "--output", str(tmp_path / "b.TIFF")) == 0
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), read_image(tmp_path / "b.TIFF"))
    assert (tmp_path / "b-panel.png").exists()
    assert generate(*job, "--output", str(tmp_path / "c.tif")) == 0  # no field
    assert read_image(tmp_path / "c.tif").shape == (70, 90, 3)
    assert "window" not in read_provenance(tmp_path / "c.tif").arguments
    capsys.readouterr()
    assert generate(*field, "--output", str(tmp_path / "d.bmp")) == 2
    assert "images are written as PNG or TIFF; end the name of --output in .png or .tif" in capsys.readouterr().err
    assert cli.main(["sample", "--output", str(tmp_path / "e.tif")]) == 2
    assert "images are written as PNG; end the name of --output in .png" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--window", "100"), "--window 100: must be a multiple of 64 px from 128 on, or 0"),
        (("--window", "64"), "--window 64: must be a multiple"),
        (("--window", "-128"), "--window -128: must be a multiple"),
        (("--window", "none"), "--window none: must be a whole number"),
        (("--window", "9" * 19), "must be a multiple of 64"),
        (("--window-overlap", "1"), "--window-overlap 1: must be a multiple of 64 px, or 0"),
        (("--window", "128"), "--window-overlap 128: must be less than --window, 128"),
        ((*WINDOWS, "--adain-features"), "--adain-features"),
    ],
)
def test_windows_that_make_no_sense_are_refused_in_one_line(words, said, field, tmp_path, capsys):
    assert generate(*field, *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert files_in(tmp_path / "out") == []


class Interrupted(Reporter):
    """Ends the program, as an interrupt does, when the second step of the field is there."""

    def show(self, event):
        if isinstance(event, Progress) and event.reached is not None and event.reached.done == 2:
            raise KeyboardInterrupt
        super().show(event)


@dataclass(frozen=True)
class Begun:
    """A run that was interrupted after two of its steps: its words, folder and left file, and a whole run's pixels."""

    words: list[str]
    folder: Path
    content: bytes
    pixels: np.ndarray

    def restored(self) -> Path:
        """The file that was left, alone in the output's folder."""
        place = self.folder / "out" / ".field.tif.unfinished"
        shutil.rmtree(place.parent)
        place.parent.mkdir()
        place.write_bytes(self.content)
        return place


@pytest.fixture(scope="module")
def begun(tmp_path_factory, tiny_folder) -> Begun:
    folder = tmp_path_factory.mktemp("begun")
    words = [*write_field(folder, tiny_folder), *WINDOWS, "--batch-size", "1"]
    assert generate(*words) == 0
    pixels = read_image(folder / "out" / "field.tif")
    shutil.rmtree(folder / "out")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("commands.progress.Reporter", Interrupted)
        assert generate(*words) == 130
    assert files_in(folder / "out") == [".field.tif.unfinished"]
    return Begun(words, folder, (folder / "out" / ".field.tif.unfinished").read_bytes(), pixels)


def test_an_interrupted_field_goes_on_to_the_same_pixels_in_fewer_passes(begun, capsys, monkeypatch):
    seen = []
    real = generate_command.generate_series

    def watched(*arguments):
        for event in real(*arguments):
            seen.append(event)
            yield event

    monkeypatch.setattr(generate_command, "generate_series", watched)
    begun.restored()
    assert generate(*begun.words) == 0
    assert "field.tif: goes on where an earlier run ended, by" in capsys.readouterr().err
    assert files_in(begun.folder / "out") == ["field-panel.png", "field.tif"]
    np.testing.assert_array_equal(read_image(begun.folder / "out" / "field.tif"), begun.pixels)
    steps = [event for event in seen if isinstance(event, Progress) and event.phase == "denoise"]
    assert (steps[0].done, steps[-1].done, steps[-1].total) == (6, 12, 12)
    assert {event.total for event in seen if isinstance(event, Progress) and event.phase == "encode"} == {1}


@pytest.mark.parametrize(
    "change", ["another seed", "other weights", "flipped", "cut", "empty", "nan", "garbage", "pipe", "folder", "link"]
)
def test_what_another_run_or_damage_left_begins_anew(change, begun, capsys, monkeypatch):
    place, words, content = begun.restored(), begun.words, begun.content
    if change == "another seed":
        words = [*words, "--seed", "1"]
    elif change == "other weights":
        monkeypatch.setattr(generate_command, "weights_sha256", lambda source: "0" * 64)
    elif change == "flipped":
        place.write_bytes(content[:-9] + bytes([content[-9] ^ 16]) + content[-8:])
    elif change in ("pipe", "folder", "link"):
        place.unlink()
        make = {"pipe": os.mkfifo, "folder": os.mkdir, "link": lambda path: path.symlink_to("/dev/zero")}
        make[change](place)
    else:
        damaged = {"cut": content[:-1], "empty": b"", "garbage": b"\xff" * 100, "nan": content[:-4] + b"\0\0\xc0\x7f"}
        place.write_bytes(damaged[change])
    assert generate(*words) == 0
    assert "goes on" not in capsys.readouterr().err
    assert files_in(begun.folder / "out")[-2:] == ["field-panel.png", "field.tif"]
    same = read_image(begun.folder / "out" / "field.tif") == begun.pixels
    assert same.all() == (change != "another seed")
    # What is not this program's own stays where it is.
    assert os.path.lexists(place) == (change in ("cut", "empty", "garbage", "pipe", "folder", "link"))


def test_a_file_of_somebody_elses_is_never_written_over(field, tmp_path):
    place = tmp_path / "out" / ".field.tif.unfinished"
    place.parent.mkdir()
    place.write_text("mine")
    assert generate(*field, *WINDOWS) == 0
    assert place.read_text() == "mine"


def test_steps_are_written_as_time_goes_by_and_a_full_disk_stops_nothing(field, tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "SAVE_EVERY", 0.0)
    written = []
    real = unfinished.Unfinished._write
    monkeypatch.setattr(
        unfinished.Unfinished, "_write", lambda self, reached: (written.append(reached.done), real(self, reached))
    )
    assert generate(*field, *WINDOWS) == 0
    assert written == [1, 2, 3, 4]
    assert files_in(tmp_path / "out") == ["field-panel.png", "field.tif"]

    def full(*paths):
        raise InputError("the disk is full")

    monkeypatch.setattr(unfinished, "replacing", full)
    assert generate(*field, *WINDOWS, "--output", str(tmp_path / "more")) == 0
    assert files_in(tmp_path / "more") == ["field-panel.png", "field.tif"]


def test_memory_is_that_of_a_window():
    sides = [wanted_bytes(SD15, side, side, torch.float32, 512) for side in (1024, 4096)]
    assert sides[1] < 6e9
    assert wanted_bytes(SD15, 4096, 4096, torch.float32) > 2 * sides[1]


def test_a_field_that_does_not_fit_as_a_whole_may_fit_in_windows(monkeypatch):
    monkeypatch.setattr(machine, "free_bytes", lambda device: 8 * 10**9)
    arguments = (SD15, (4096, 4096), torch.float32, torch.device("cpu"), Path("field.tif"))
    check_memory(*arguments, window=512)
    with pytest.raises(InputError, match=r"field\.tif: 4096×4096 px would want about"):
        check_memory(*arguments)
