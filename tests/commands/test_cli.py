"""The command line from end to end, on tiny weights: what it writes, and what it says of bad input."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import cli
from tests.commands.running import ROOT, files_in, generate, instead


def test_an_image_has_the_size_of_its_mask_and_paths_and_times_are_printed(job, tmp_path, capsys):
    assert generate(*job) == 0
    out = capsys.readouterr().out
    assert files_in(tmp_path / "out") == ["wanted-panel.png", "wanted.png"]
    assert Image.open(tmp_path / "out" / "wanted.png").size == (90, 70)
    assert str(tmp_path / "out" / "wanted.png") in out
    assert str(tmp_path / "out" / "wanted-panel.png") in out
    for phase in ("encode", "invert", "denoise", "decode"):
        assert f"{phase} " in out


def test_the_shown_command_makes_the_same_image_again(job, tmp_path, capsys):
    assert (
        generate(*job, "--seed", "7", "--class-values", "0.2,0.7", "--cross-attn-32", "none", "--restrict-attention")
        == 0
    )
    first = tmp_path / "out" / "wanted.png"
    pixels = np.array(Image.open(first))
    first.rename(tmp_path / "kept.png")
    capsys.readouterr()

    assert cli.main(["show", str(tmp_path / "kept.png")]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert command[:3] == ["python", "cli.py", "generate"]
    assert cli.main(command[2:]) == 0
    np.testing.assert_array_equal(np.array(Image.open(first)), pixels)

    assert generate(*job, "--seed", "8") == 0
    assert (np.array(Image.open(first)) != pixels).mean() > 0.1, "another seed must give another image"


def test_an_image_of_several_origins_is_made_again_by_the_shown_command(job, tmp_path, capsys):
    rng = np.random.default_rng(4)
    Image.fromarray(rng.integers(0, 256, (80, 64, 3), dtype=np.uint8)).save(tmp_path / "second.png")
    Image.fromarray(rng.integers(0, 2, (80, 64)).astype(np.uint8)).save(tmp_path / "second_mask.png")
    more = ["--origin", str(tmp_path / "patch.png"), str(tmp_path / "second.png")]
    more += ["--origin-mask", str(tmp_path / "patch_mask.png"), str(tmp_path / "second_mask.png")]
    assert generate(*job) == 0
    alone = np.array(Image.open(tmp_path / "out" / "wanted.png"))
    assert generate(*instead(job, more)) == 0
    image = tmp_path / "out" / "wanted.png"
    first = np.array(Image.open(image))
    assert np.abs(first.astype(int) - alone).max() > 3
    assert Image.open(tmp_path / "out" / "wanted-panel.png").width > 2 * 128 + 2 * 64 + 2 * 90
    capsys.readouterr()
    assert cli.main(["show", str(image)]) == 0
    command = shlex.split(capsys.readouterr().out)
    image.unlink()
    assert cli.main(command[2:]) == 0
    assert np.array_equal(np.array(Image.open(image)), first)


def test_show_tells_of_an_input_that_changed(job, tmp_path, capsys):
    assert generate(*job) == 0
    Image.new("L", (90, 70), 1).save(tmp_path / "wanted.png")
    assert cli.main(["show", str(tmp_path / "out" / "wanted.png")]) == 0
    assert "wanted.png is missing or has changed" in capsys.readouterr().err


def test_several_masks_and_variants_give_one_image_each_with_their_own_seed(job, tmp_path):
    Image.new("L", (64, 64), 1).save(tmp_path / "other.png")
    more = ["--target-mask", str(tmp_path / "other.png"), "--variants", "2", "--seed", "3"]
    assert generate(*job, *more) == 0
    assert [name for name in files_in(tmp_path / "out") if "panel" not in name] == [
        "other-1.png",
        "other-2.png",
        "wanted-1.png",
        "wanted-2.png",
    ]
    assert generate(*job, "--seed", "4", "--output", str(tmp_path / "alone.png")) == 0
    second, alone = (np.array(Image.open(p)) for p in (tmp_path / "out" / "wanted-2.png", tmp_path / "alone.png"))
    np.testing.assert_allclose(second, alone, atol=1, err_msg="batches round differently, and no more")


def test_saved_latents_are_float32_and_decode_to_the_image(job, tmp_path, tiny):
    path = tmp_path / "z.safetensors"
    assert generate(*job, "--save-latents", str(path), "--output", str(tmp_path / "a.png")) == 0
    tensors = load_file(path)
    assert list(tensors) == ["latents"]
    assert tensors["latents"].dtype == torch.float32
    assert tensors["latents"].shape == (1, 4, 16, 16)
    image = ((tiny.vae.decode(tensors["latents"])[0] + 1) * 127.5).round().clamp(0, 255)
    np.testing.assert_allclose(
        image.permute(1, 2, 0).numpy()[:70, :90], np.array(Image.open(tmp_path / "a.png")), atol=1
    )


def test_recommended_settings_act_until_a_preset_is_named(job, tmp_path, tiny_folder, capsys):
    folder = tmp_path / "weights"
    folder.symlink_to(tiny_folder)
    own = tmp_path / "own"
    own.mkdir()
    for entry in tiny_folder.iterdir():
        (own / entry.name).symlink_to(entry)
    (own / "recommended.json").write_text(json.dumps({"fresh_noise": 0.5, "steps": 9}))
    arguments = [*job, "--weights", str(own), "--output", str(tmp_path / "a.png")]
    assert generate(*arguments) == 0
    assert "recommend --fresh-noise 0.5" in capsys.readouterr().err
    cli.main(["show", str(tmp_path / "a.png")])
    shown = capsys.readouterr().out
    assert "--fresh-noise 0.5" in shown
    assert "--steps 6" in shown, "what the user gave comes before what is recommended"
    assert generate(*arguments, "--preset", "winter") == 0
    assert "weights recommend" not in capsys.readouterr().err


def test_text_to_image_writes_an_image_that_can_be_made_again(tiny_folder, tmp_path, capsys):
    arguments = ["--weights", str(tiny_folder), "--size", "64", "--steps", "3", "--seed", "5"]
    assert cli.main(["sample", *arguments, "--output", str(tmp_path / "s.png")]) == 0
    pixels = np.array(Image.open(tmp_path / "s.png"))
    assert pixels.shape == (64, 64, 3)
    capsys.readouterr()
    cli.main(["show", str(tmp_path / "s.png")])
    assert cli.main(shlex.split(capsys.readouterr().out)[2:]) == 0
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "s.png")), pixels)


def test_a_class_that_the_origin_lacks_is_warned_of_once_and_left_alone(job, tmp_path, capsys):
    labels = np.array(Image.open(tmp_path / "wanted.png"))
    labels[:32] = 2
    Image.fromarray(labels).save(tmp_path / "wanted.png")
    assert generate(*job, "--variants", "2") == 0
    assert capsys.readouterr().err.count("class 2 covers fewer than 2") == 1


def test_batches_and_what_is_kept_change_no_image(job, tmp_path):
    Image.new("L", (90, 70), 1).save(tmp_path / "other.png")
    more = ["--target-mask", str(tmp_path / "other.png"), "--variants", "2"]
    images = {}
    for size, room in (("1", "0"), ("1", "device=1MB,disk=2.5GB"), ("3", "auto")):
        assert generate(*job, *more, "--batch-size", size, "--cache", room) == 0
        for path in (tmp_path / "out").glob("*[0-9].png"):
            images.setdefault(path.name, []).append(np.array(Image.open(path)))
    assert sorted(images) == ["other-1.png", "other-2.png", "wanted-1.png", "wanted-2.png"]
    for first, *others in images.values():
        for other in others:
            np.testing.assert_allclose(other, first, atol=1)


BAD = {
    "no batch": (["--batch-size", "0"], "--batch-size '0'"),
    "no room": (["--cache", "attic=3GB"], "--cache 'attic=3GB'"),
    "graphs on the CPU": (["--device", "cpu", "--graphs"], "--graphs: CUDA graphs need"),
    "missing origin": (["--origin", "{tmp}/none.png"], "none.png: no such file"),
    "mask not an image": (["--origin-mask", "{tmp}/text.png"], "text.png"),
    "mask of another size": (["--origin-mask", "{tmp}/wanted.png"], "wanted.png: 90×70 px"),
    "label without a value": (["--classes", "a=0,b=5"], "patch_mask.png: the label 1"),
    "one pixel": (["--origin", "{tmp}/dot.png"], "dot.png: 1×1 px"),
    "huge image": (["--target-mask", "{tmp}/huge.png"], "GiB"),
    "missing weights": (["--weights", "{tmp}/weights"], "weights: no such file"),
    "pickle": (["--weights", "{tmp}/model.ckpt"], "model.ckpt"),
    "half precision on the CPU": (["--device", "cpu", "--dtype", "fp16"], "--dtype fp16"),
    "unknown type": (["--dtype", "int8"], "--dtype int8"),
    "unknown device": (["--device", "tpu"], "--device tpu"),
    "triton on the CPU": (["--device", "cpu", "--impl", "triton"], "--impl triton"),
    "output below a file": (["--output", "{tmp}/patch.png/out"], "patch.png/out"),
    "output over an input": (["--output", "{tmp}/patch.png"], "patch.png: is an input"),
    "latents under another name": (["--save-latents", "{tmp}/z.pt"], "z.pt: the name"),
    "empty range": (["--cross-attn-64", "5:5"], "--cross-attn-64 5:5: the range is empty"),
    "reversed range": (["--adain-range", "9:5"], "--adain-range 9:5: the range is reversed"),
    "too many skipped steps": (["--skip-steps", "6"], "--skip-steps 6"),
    "no number": (["--steps", "many"], "--steps many: must be a whole number"),
    "no seed": (["--seed", "-1"], "--seed"),
    "no variants": (["--variants", "0"], "--variants"),
    "intensities for other classes": (["--class-values", "0.1,0.2,0.3"], "--class-values 0.1,0.2,0.3: has 3 values"),
    "unknown preset": (["--preset", "summer"], "--preset summer"),
    "an origin without a mask": (["--origin", "{tmp}/patch.png", "{tmp}/dot.png"], "--origin names 2 images"),
    "too many origins": (["--origin", *["{tmp}/patch.png"] * 33], "at most 32"),
    "a mask without an origin": (["--origin-mask", "{tmp}/patch_mask.png", "{tmp}/wanted.png"], "label maps; give one"),
    "unknown option": (["--cross-attn-16", "1:2"], "--cross-attn-16"),
    "missing value": (["--seed"], "--seed"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2_and_writes_nothing(name, job, tmp_path, capsys):
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    if name == "huge image":
        Image.new("1", (20000, 20000)).save(tmp_path / "huge.png")
    before = files_in(tmp_path)
    words, message = BAD[name]
    assert generate(*instead(job, [word.format(tmp=tmp_path) for word in words])) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert [n for n in files_in(tmp_path) if n != "out"] == before
    assert files_in(tmp_path / "out") == []


def test_only_some_of_the_three_inputs_are_refused(job, capsys):
    assert generate("--origin", job[1]) == 2
    assert "--target-mask belong together" in capsys.readouterr().err


def test_an_empty_mask_is_one_class_and_said_so(job, tmp_path, capsys):
    for name, size in (("patch_mask", (128, 64)), ("wanted", (90, 70))):
        Image.new("L", size).save(tmp_path / f"{name}.png")
    assert generate(*job) == 0
    assert "is a mask empty" in capsys.readouterr().err


def test_an_interrupt_leaves_finished_images_and_no_half_written_file(job, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), "generate", *job, "--variants", "500"]
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores interrupts and would hand that down to the program.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "image:" in line, process.stderr.read() if process.stderr else ""
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    written = files_in(tmp_path / "out")
    assert 2 <= len(written) < 1000
    assert not [name for name in written if name.endswith(".part")]
    for name in written:
        Image.open(tmp_path / "out" / name).load()


def test_starting_the_program_imports_none_of_the_heavy_libraries():
    heavy = "('diffusers', 'transformers', 'triton', 'huggingface_hub')"
    script = f"import sys, cli; cli.build_parser(); print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_and_show_load_no_torch(job, tmp_path):
    assert generate(*job) == 0
    image = tmp_path / "out" / "wanted.png"
    script = "import sys, cli; cli.build_parser(); assert cli.main(sys.argv[1:]) == 0; print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "show", str(image)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    shown, loaded = done.stdout.strip().splitlines()
    assert "generate --origin" in shown
    assert loaded == "False"
