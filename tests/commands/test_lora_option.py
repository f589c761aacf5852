"""`--lora` of generate and sample: what is merged, recorded, shown again, refused and never written over."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import cli
from commands.loras import absolute, read_loras, split_weight
from imaging.errors import InputError
from imaging.provenance import command_line, read_provenance
from tests.commands.running import files_in, generate


@pytest.fixture
def lora(tiny_lora: Path) -> Path:
    """A LoRA for the tiny model. Not to be changed."""
    return tiny_lora


def test_the_image_changes_is_recorded_and_made_again(job, lora, tmp_path, capsys) -> None:
    out = tmp_path / "out" / "wanted.png"
    assert generate(*job) == 0
    plain = out.read_bytes()
    assert "lora" not in read_provenance(out).arguments
    assert generate(*job, "--lora", f"{lora}:0.5") == 0
    changed, record = out.read_bytes(), read_provenance(out)
    assert changed != plain
    assert record.arguments["lora"] == [f"{lora}:0.5"]
    assert record.inputs[str(lora)] == hashlib.sha256(lora.read_bytes()).hexdigest()
    assert "others in lora" in capsys.readouterr().err
    assert cli.main(["show", str(out)]) == 0
    shown = capsys.readouterr().out
    assert f"--lora {lora}:0.5" in shown
    out.unlink()
    words = shlex.split(shown)
    assert cli.main(words[words.index("generate") :]) == 0
    assert out.read_bytes() == changed


def test_a_weight_of_0_gives_the_plain_image(job, lora, tmp_path) -> None:
    from PIL import Image

    out = tmp_path / "out" / "wanted.png"
    assert generate(*job) == 0
    plain = Image.open(out).tobytes()
    assert generate(*job, "--lora", f"{lora}:0") == 0
    assert Image.open(out).tobytes() == plain
    assert generate(*job, "--lora", str(lora)) == 0
    assert Image.open(out).tobytes() != plain


def test_several_in_one_option_or_many(job, lora, tmp_path, capsys) -> None:
    other = tmp_path / "-b:2"
    other.write_bytes(lora.read_bytes())
    words = ["--lora", f"{lora}:0.25", str(lora), f"--lora={other}", f"--lora={other}:-1e-1"]
    assert generate(*job, *words) == 0
    out = tmp_path / "out" / "wanted.png"
    record = read_provenance(out)
    assert record.arguments["lora"] == [f"{lora}:0.25", str(lora), str(other), f"{other}:-1e-1"]
    assert {str(lora), str(other)} <= record.inputs.keys()
    capsys.readouterr()
    assert cli.main(["show", str(out)]) == 0
    shown = capsys.readouterr()
    assert f"--lora {lora}:0.25 {lora} {other} {other}:-1e-1" in shown.out
    assert "has changed since" not in shown.err
    other.write_bytes(b"else")
    assert cli.main(["show", str(out)]) == 0
    assert f"{other} is missing or has changed since" in capsys.readouterr().err


def test_names_that_begin_with_a_dash_are_shown_so_that_they_are_read_again() -> None:
    from imaging.provenance import Provenance

    line = command_line(Provenance("0", "generate", {"lora": ["-a:0.5", "b"], "seed": 1}))
    assert line == "python cli.py generate --lora=-a:0.5 --lora b --seed 1"


def test_sample_takes_it_too(lora, tiny_folder, tmp_path, capsys) -> None:
    def sample(*more: str) -> bytes:
        words = ["--weights", str(tiny_folder), "--size", "64", "--steps", "2", "--output", str(tmp_path)]
        assert cli.main(["sample", *words, "--dtype", "fp32", *more]) == 0
        return (tmp_path / "sample.png").read_bytes()

    assert sample() != sample("--lora", str(lora))
    record = read_provenance(tmp_path / "sample.png")
    assert record.arguments["lora"] == [str(lora)]
    assert record.inputs == {str(lora): hashlib.sha256(lora.read_bytes()).hexdigest()}


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("a.safetensors", "a.safetensors", 1.0),
        ("a.safetensors:0.8", "a.safetensors", 0.8),
        ("a.safetensors:-1.5", "a.safetensors", -1.5),
        ("a.safetensors:+2", "a.safetensors", 2.0),
        ("a.safetensors:.5", "a.safetensors", 0.5),
        ("a.safetensors:1.", "a.safetensors", 1.0),
        ("a.safetensors:5e-1", "a.safetensors", 0.5),
        ("b:c", "b:c", 1.0),
        ("b:c:0.5", "b:c", 0.5),
        ("d:3", "d:3", 1.0),
        ("d:3:0.5", "d:3", 0.5),
        ("a.safetensors:0:0.5", "a.safetensors:0", 0.5),
        ("folder", "folder/pytorch_lora_weights.safetensors", 1.0),
        ("folder/:0.5", "folder/pytorch_lora_weights.safetensors", 0.5),
    ],
)
def test_the_last_colon_counts_if_a_number_follows_and_no_such_file_is_there(
    text: str, path: str, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    for name in ("a.safetensors", "a.safetensors:0", "b:c", "d:3", "folder/pytorch_lora_weights.safetensors"):
        Path(name).write_text(name)
    (given,) = read_loras([text])
    assert (str(given.lora.file), given.lora.weight) == (path, weight)
    assert given.sha256 == hashlib.sha256(path.encode()).hexdigest()
    monkeypatch.chdir("/")
    (elsewhere,) = read_loras([str(tmp_path / text)])
    assert elsewhere.content == given.content
    monkeypatch.chdir(tmp_path)
    from_here = absolute(text)
    monkeypatch.chdir("/")
    assert read_loras([from_here])[0].content == given.content


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", ":0.8", "0.8", "missing.safetensors", "missing.safetensors:0.8", "a:nan", "a:inf", "a:0,8", "a:"),
        *("a:1_0", "a:0x1", "a: 1", "a:1e9", "a:-101", "a:٣", "nul\0byte", "a:1e99999"),
    ],
)
def test_words_that_mean_nothing_are_refused(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").write_text("a")
    with pytest.raises(ValueError, match=r"no such file|the weight must be|cannot be read") as caught:
        read_loras([text])
    assert str(caught.value).isprintable()
    assert split_weight("a:٣") == ("a:٣", "")


def test_a_refused_file_ends_the_run_before_anything_is_written(job, tmp_path, capsys) -> None:
    bad = tmp_path / "xl.safetensors"
    save_file({"lora_te2_x.lora_down.weight": torch.zeros(1)}, bad)
    assert generate(*job, "--lora", str(bad)) == 2
    assert "this is for Stable Diffusion XL" in capsys.readouterr().err
    save_file({f"odd.{number}": torch.zeros(1) for number in range(3)}, bad)
    assert generate(*job, "--lora", str(bad)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "left over" in line] == [
        f"error: {bad}: left over: odd.{number}" for number in range(3)
    ]
    assert lines[-1].startswith(f"error: {bad}: 3 of 3 tensors are for no layer of this model")
    assert files_in(tmp_path / "out") == []


def test_a_lora_as_weights_says_where_it_belongs(lora, job, capsys) -> None:
    assert generate(*job, "--weights", str(lora)) == 2
    assert "this is a LoRA, which only changes another model (give it as --lora, and" in capsys.readouterr().err


def test_results_never_take_the_place_of_a_lora(job, lora, tmp_path, capsys) -> None:
    own = tmp_path / "own.safetensors"
    own.write_bytes(lora.read_bytes())
    assert generate(*job, "--lora", f"{own}:0.5", "--save-latents", str(own)) == 2
    assert f"{own}: is an input and would be overwritten" in capsys.readouterr().err
    assert own.read_bytes() == lora.read_bytes()
    picture = tmp_path / "own.png"
    picture.write_bytes(lora.read_bytes())
    assert generate(*job, "--lora", str(picture), "--output", str(picture)) == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err


def test_errors_are_of_the_command_line(job, lora) -> None:
    with pytest.raises(InputError, match=r"--lora .*: no such file; give a LoRA's .safetensors file, or FILE:0.8"):
        read_loras([f"{lora}:0,8"])
