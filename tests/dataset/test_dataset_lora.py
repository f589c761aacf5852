"""A dataset with a LoRA is another dataset: its ids, settings and rows say so, and runs without it are refused."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest
import torch

import cli
from tests.conftest import build_theirs, build_tiny
from tests.dataset.annotated import arguments, contents, rows, run
from tests.model.lora_files import kohya, random_pairs, write


@pytest.fixture(scope="module")
def loras(tmp_path_factory):
    """Two files for the tiny model."""
    folder, theirs = tmp_path_factory.mktemp("loras"), build_theirs(build_tiny(torch.float32))
    return [write(folder / f"{seed}.safetensors", kohya(random_pairs(theirs, seed, only="attn"))) for seed in (0, 1)]


@pytest.fixture(scope="module")
def made(source, tiny_folder, loras, tmp_path_factory):
    """A finished dataset. Not to be changed."""
    output = tmp_path_factory.mktemp("made") / "out"
    assert run(source, tiny_folder, output, f"--lora={loras[0]}:0.5", "--subset", "0.5") == 0
    return output


def test_rows_and_settings_name_it_by_its_contents(loras, made) -> None:
    digest = hashlib.sha256(loras[0].read_bytes()).hexdigest()
    assert {row["settings"]["lora"] for row in rows(made)} == {f"{digest}:0.5"}
    settings = json.loads((made / "settings.json").read_text())
    assert (settings["lora"], settings["lora_files"]) == (f"{digest}:0.5", "0.safetensors:0.5")


@pytest.mark.parametrize("other", [[], ["{0}"], ["{0}:0.6"], ["{1}:0.5"], ["{0}:0.5", "{1}"]])
def test_a_folder_begun_with_it_refuses_others(other, source, tiny_folder, loras, made, capsys) -> None:
    before = contents(made)
    words = [f"--lora={word.format(*loras)}" for word in other]
    assert run(source, tiny_folder, made, *words, "--subset", "0.5") == 2
    assert "holds a dataset of other settings (lora " in capsys.readouterr().err
    assert contents(made) == before


def test_a_folder_begun_without_refuses_it(source, tiny_folder, loras, tmp_path, capsys) -> None:
    assert run(source, tiny_folder, tmp_path / "out", "--subset", "0.25") == 0
    assert "lora" not in json.loads((tmp_path / "out" / "settings.json").read_text())
    assert "lora" not in rows(tmp_path / "out")[0]["settings"]
    assert run(source, tiny_folder, tmp_path / "out", "--subset", "0.25", f"--lora={loras[0]}") == 2
    assert "lora None, not " in capsys.readouterr().err


def test_ids_differ_by_it(source, tiny_folder, loras, made, tmp_path) -> None:
    def ids(*more: str) -> list[str]:
        output = tmp_path / str(len(more))
        assert run(source, tiny_folder, output, "--plan", "--subset", "0.5", *more) == 0
        return sorted(line.split(",")[0] for line in (output / "plan.csv").read_text().splitlines()[1:])

    plain, same = ids(), ids("--lora", f"{loras[0]}:0.5", "--seed", "0")
    assert not set(plain) & {row["id"] for row in rows(made)}
    assert same == sorted(row["id"] for row in rows(made))


def test_an_image_is_made_again_with_it_alone(tiny_folder, loras, made, tmp_path, capsys) -> None:
    root = tmp_path / "copy"
    shutil.copytree(made, root)
    found = rows(root)[0]
    path = root / found["file_name"]
    whole = path.read_bytes()
    path.unlink()
    again = ["dataset", "--remake", found["id"], "--weights", str(tiny_folder), str(root)]
    assert cli.main(again) == 2
    assert "--lora: the dataset was made with others (0.safetensors:0.5)" in capsys.readouterr().err
    assert cli.main([*again, f"--lora={loras[0]}:0.25"]) == 2
    assert not path.exists()
    renamed = tmp_path / "renamed:1"
    renamed.write_bytes(loras[0].read_bytes())
    assert cli.main([*again, f"--lora={renamed}:0.5"]) == 0
    assert path.read_bytes() == whole


def test_bad_words_are_refused_before_the_folder_is_made(source, tiny_folder, tmp_path, capsys) -> None:
    assert cli.main([*arguments(tiny_folder, tmp_path / "out", "--lora=missing"), str(source)]) == 2
    assert "--lora missing: no such file" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_input_taken_for_a_lora_is_told(source, tiny_folder, loras, tmp_path, capsys) -> None:
    words = arguments(tiny_folder, tmp_path / "out", "--lora", str(loras[0]), str(source))
    assert cli.main(words) == 2
    assert "give a folder or a manifest before --lora, which takes all names that follow it" in capsys.readouterr().err
