"""Arguments and names that nobody would give on purpose: one line, code 2, nothing written, nothing forged."""

from __future__ import annotations

import contextlib
import io
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import cli
from imaging.errors import one_line
from tests.commands.running import ROOT, files_in, generate, instead
from tests.fuzz.mutations import TEXTS, seeds

BAD = {
    "a value of two dashes": (["--steps=--"], "--steps: needs a value"),
    "endless variants": (["--variants", "1000000000"], "--variants 1000000000: must be from 1 to 10000"),
    "more digits than numbers have": (["--variants", "9" * 5000], "must be a whole number"),
    "a seed beyond 64 bits": (["--seed", str(2**63)], "--seed"),
    "seeds beyond 64 bits": (["--seed", str(2**63 - 1), "--variants", "2"], "--seed"),
    "digits of another script": (["--seed", "١٢"], "must be a whole number"),
    "contrast beyond float32": (["--contrast", "1e300"], "--contrast 1e+300: must be from 1e-06 to 1e+06"),
    "hardly any contrast": (["--contrast", "1e-300"], "--contrast"),
    "guidance beyond float32": (["--guidance", "1e300"], "--guidance 1e+300: must be from -1000 to 1000"),
    "no number as guidance": (["--guidance", "nan"], "--guidance nan"),
    "infinite inversion guidance": (["--inversion-guidance", "inf"], "--inversion-guidance inf"),
    "a variance of white": (["--mask-noise", "1e300"], "--mask-noise"),
    "a range of many digits": (["--cross-attn-64", f"1:{'9' * 5000}"], "must be a range A:B"),
    "a huge batch": (["--batch-size", "9" * 5000], "must be auto or a whole number from 1 to 1024"),
    "endless room": (["--cache", f"disk={'9' * 5000}GB"], "--cache"),
    "room beyond floats": (["--cache", "disk=1e999GB"], "--cache"),
    "a device of many digits": (["--device", "cuda:99999999999999999999"], "--device"),
    "an output name too long": (["--output", "{tmp}/" + "x" * 252 + ".png"], "choose a shorter name"),
    "a panel name too long": (["--output", "{tmp}/" + "x" * 249 + ".png"], "-panel.png: cannot be written"),
    "a null character": (["--output", "{tmp}/a\0b.png"], "choose another name"),
    "a loop of links": (["--output", "{tmp}/loop/a.png"], "loop"),
    "a pipe as output": (["--output", "{tmp}/pipe.png"], "a device or pipe has the name of a result"),
    "latents over a mask": (["--save-latents", "{tmp}/mask.safetensors"], "holds no latents"),
    "latents among the weights": (
        ["--save-latents", "{weights}/unet/new.safetensors"],
        "lies in the folder of the weights",
    ),
    "latents over the weights": (
        ["--save-latents", "{weights}/unet/diffusion_pytorch_model.safetensors"],
        "lies in the folder of the weights",
    ),
    "latents over weights elsewhere": (["--save-latents", "{tmp}/linked.safetensors"], "holds no latents"),
    "an escape in a name": (["--origin", "{tmp}/\x1b[2Kgone\nerror: all is well"], "\\x1b[2Kgone\\nerror: all is well"),
    "no text as prompt": (["--prompt", "\udcff"], "not valid Unicode"),
}


@pytest.mark.parametrize("name", BAD)
def test_hostile_arguments_are_one_line_and_code_2_and_damage_nothing(name, job, tmp_path, tiny_folder, capsys):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.png")
    save_file({"a": torch.zeros(1)}, tmp_path / "mask.safetensors")
    weights = tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"
    os.link(weights, tmp_path / "linked.safetensors")
    content, before = weights.read_bytes(), files_in(tmp_path)
    words, message = BAD[name]
    assert generate(*instead(job, [word.format(tmp=tmp_path, weights=tiny_folder) for word in words])) == 2
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert message in lines[-1]
    assert "\x1b" not in captured.err
    assert captured.out == ""
    assert weights.read_bytes() == content
    assert [entry for entry in files_in(tmp_path) if entry != "out"] == before
    os.unlink(tmp_path / "linked.safetensors")


def test_classes_without_masks_are_refused(capsys):
    assert generate("--classes", "a=0,b=1") == 2
    assert "--classes: belongs to masks of your own" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--guidance", "nan"], "--guidance nan"),
        (["--guidance", "1e39"], "--guidance"),
        (["--size", "99999999936"], "--size"),
        (["--steps", "0"], "--steps"),
        (["--seed", "-1"], "--seed"),
        (["--prompt", "\ud800"], "not valid Unicode"),
    ],
    ids=str,
)
def test_text_to_image_refuses_before_it_loads_anything(words, message, tmp_path, capsys):
    missing = ["--weights", str(tmp_path / "none")]
    assert cli.main(["sample", *missing, *words, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "none" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["float32", "torch.float32", "float"])
def test_types_by_the_names_that_torch_has(name, job, tmp_path):
    assert generate(*job, "--dtype", name) == 0


def test_the_number_of_steps_alone_scales_what_counts_steps_and_says_so(job, tmp_path, capsys):
    alone = job[: job.index("--steps")]
    assert generate(*alone, "--steps", "10") == 0
    note = (
        "--steps 10: in proportion --skip-steps 3 --structure-until 4 --cross-attn-64 1:9 --cross-attn-32 1:7 "
        "--adain-range 2:10"
    )
    assert note in capsys.readouterr().err
    cli.main(["show", str(tmp_path / "out" / "wanted.png")])
    shown = capsys.readouterr().out
    assert "--skip-steps 3 " in shown
    assert "--cross-attn-64 1:9 " in shown


def test_an_image_in_place_of_one_of_other_settings_is_said_so(job, tmp_path, capsys):
    assert generate(*job) == 0
    capsys.readouterr()
    assert generate(*job) == 0
    assert "takes the place" not in capsys.readouterr().err, "the same settings make the same image"
    assert generate(*job, "--seed", "1") == 0
    assert "wanted.png: takes the place of an image of other settings (others in seed)" in capsys.readouterr().err
    Image.new("RGB", (4, 4)).save(tmp_path / "out" / "wanted.png")
    assert generate(*job, "--seed", "1") == 0
    assert "takes the place of a file that this program did not write" in capsys.readouterr().err


def test_latents_of_another_run_do_not_stay_beside_a_new_image(job, tmp_path, capsys):
    latents = tmp_path / "z.safetensors"
    assert generate(*job, "--save-latents", str(latents)) == 0
    assert generate(*job) == 0
    assert not latents.exists()
    assert "z.safetensors: the latents of that image will be removed" in capsys.readouterr().err
    save_file({"latents": torch.zeros(1)}, latents)
    assert generate(*job, "--save-latents", str(latents)) == 0
    assert load_file(latents)["latents"].shape == (1, 4, 16, 16), "latents may take the place of latents"


def test_results_have_the_modes_that_the_umask_gives(job, tmp_path):
    before = os.umask(0o027)
    try:
        assert generate(*job, "--save-latents", str(tmp_path / "z.safetensors")) == 0
    finally:
        os.umask(before)
    for path in (tmp_path / "z.safetensors", *(tmp_path / "out").iterdir()):
        assert path.stat().st_mode & 0o777 == 0o640, path


def test_names_that_are_no_text_and_an_output_that_is_ascii(job, tmp_path):
    odd = os.fsdecode(str(tmp_path).encode() + b"/gr\xfc\xdfe\x1b[31m")
    Path(odd).mkdir()
    words = [sys.executable, str(ROOT / "cli.py"), "generate", *job, "--output", odd + "/ä.png"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    done = subprocess.run(words, capture_output=True, env=environment, check=True)
    assert b"\x1b" not in done.stdout
    assert b"gr\\udcfc" in done.stdout
    show = [sys.executable, str(ROOT / "cli.py"), "show", odd + "/ä.png"]
    shown = subprocess.run(show, capture_output=True, env=environment, check=True).stdout
    assert shown.isascii()
    image = Path(odd) / "ä.png"
    pixels = np.array(Image.open(image))
    image.unlink()
    subprocess.run(["bash", "-c", shown.decode().replace("python ", f"{sys.executable} ", 1)], check=True, cwd=ROOT)
    np.testing.assert_array_equal(np.array(Image.open(image)), pixels)


def test_what_nobody_foresaw_is_one_line_and_a_way_to_the_traceback(monkeypatch, capsys):
    def fault(arguments: object, end: object) -> None:
        raise ZeroDivisionError("by\nzero")

    monkeypatch.setitem(cli.COMMANDS, "show", fault)
    assert cli.main(["show", "a.png"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "unforeseen ZeroDivisionError" in error
    assert "STAINLOOM_TRACEBACK=1" in error
    monkeypatch.setenv("STAINLOOM_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["show", "a.png"])


def test_running_out_of_memory_is_told_with_what_to_try(monkeypatch, capsys):
    def fault(arguments: object, end: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setitem(cli.COMMANDS, "show", fault)
    assert cli.main(["show", "a.png"]) == 2
    assert "out of memory: give smaller patches" in capsys.readouterr().err


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: repr(text[:12]))
def test_printed_text_is_one_line_of_printable_characters(text):
    assert one_line(text).isprintable()


def test_the_command_line_loads_no_torch():
    script = "import sys, cli; cli.build_parser(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


OPTIONS = [
    "--origin", "--origin-mask", "--target-mask", "--classes", "--save-latents", "--variants", "--output", "--weights",
    "--seed", "--device", "--dtype", "--impl", "--batch-size", "--cache", "--preset", "--steps", "--skip-steps",
    "--inversion", "--inversion-guidance", "--cross-attn-64", "--cross-attn-32", "--adain-range", "--adain",
    "--guidance", "--contrast", "--structure-every", "--structure-until", "--class-values", "--mask-noise",
    "--fresh-noise", "--size",
]  # fmt: skip


@pytest.mark.parametrize("seed", seeds(150))
def test_any_arguments_end_in_one_line(seed, tmp_path, monkeypatch):
    """Weights that are not there end every run that nothing else ends."""
    monkeypatch.chdir(tmp_path)
    rng = random.Random(seed)
    command = rng.choice(["generate", "generate", "sample", "show", rng.choice(TEXTS)])
    words = [command, *(["--weights", "none"] if command in ("generate", "sample") else [])]
    for _ in range(rng.randint(1, 3)):
        option, text = rng.choice(OPTIONS), rng.choice((*TEXTS, str(rng.randint(-5, 10**9))))
        words += [f"{option}={text}"] if rng.random() < 0.5 else [option, text]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.main(words)
    assert code == 2, (words, err.getvalue())
    last = err.getvalue().split("\n")
    assert last[-1] == ""
    assert last[-2].startswith("error: ")
    assert last[-2].isprintable()
    assert "unforeseen" not in last[-2]
    assert not list(tmp_path.rglob("*.png"))
