"""`generate --preset alaluf` without the origin's mask, from end to end on tiny weights."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
from PIL import Image

import cli
from imaging.provenance import read_provenance
from tests.commands.running import files_in, generate

MASKS = ("origin_foreground", "target_foreground")


@pytest.fixture
def baseline(job):
    """The arguments of the small job without its origin's mask."""
    at = job.index("--origin-mask")
    return [*job[:at], *job[at + 2 :], "--preset", "alaluf"]


def test_the_baseline_does_without_a_mask_and_says_what_it_found(baseline, tmp_path, capsys):
    assert generate(*baseline, "--domain", "lung", "--save-masks", "--variants", "2") == 0
    captured = capsys.readouterr()
    folder = tmp_path / "out"
    wanted = [f"wanted-{n}{end}.png" for n in (1, 2) for end in ("", "-panel", *(f"-{name}" for name in MASKS))]
    assert files_in(folder) == sorted(wanted)
    assert f"mask:    {folder / 'wanted-1-origin_foreground.png'}" in captured.out
    assert captured.err.count("has fewer than 2 latent positions") == 1, "random weights find nothing; said once"
    record = read_provenance(folder / "wanted-1.png")
    assert record.arguments["prompt"] == "A photo of a lung"
    assert record.arguments["domain"] == "lung"
    assert record.details["adain-used"] == "global"
    for name, mask in zip(("origin", "target"), MASKS, strict=True):
        scores = record.details[f"{name}-noun-scores"]
        assert len(scores) == 5
        assert all(0.0 <= score <= 1.0 for row in scores for score in row)
        assert record.details[f"{name}-score-above"] >= max(max(row) for row in scores)
        assert record.details[f"{name}-foreground-share"] == 0.0
        picture = Image.open(folder / f"wanted-1-{mask}.png")
        assert picture.size == ((128, 64) if name == "origin" else (90, 70))
        assert (np.array(picture) == 255).all()
        assert read_provenance(folder / f"wanted-1-{mask}.png") == record


def test_the_shown_command_makes_the_same_image_again(baseline, tmp_path, capsys):
    assert generate(*baseline, "--prompt", "cat and dog", "--nouns", "dog,cat") == 0
    first = tmp_path / "out" / "wanted.png"
    pixels = np.array(Image.open(first))
    first.rename(tmp_path / "kept.png")
    capsys.readouterr()
    assert cli.main(["show", str(tmp_path / "kept.png")]) == 0
    command = shlex.split(capsys.readouterr().out)
    assert "--origin-mask" not in command
    assert command[command.index("--nouns") + 1] == "dog,cat"
    assert cli.main(command[2:]) == 0
    np.testing.assert_array_equal(np.array(Image.open(first)), pixels)


def test_a_mask_that_was_found_can_be_given(baseline, tmp_path, monkeypatch):
    half = np.zeros((8, 16), dtype=int)
    half[:, 8:] = 1

    def halves(rows, image):
        count = rows.matrix.shape[0]
        return rows.matrix.new_tensor(half.flatten() if image == "origin" else range(count)).long() % 5

    def first_is_foreground(clusters, nouns, size):
        found = real(clusters, nouns, size)
        return found.__class__(clusters.view(size) == 0, int((clusters == 0).sum()), found.scores, found.threshold)

    from sampler import prepare

    real = prepare.label
    monkeypatch.setattr(prepare, "clusters_of", halves)
    monkeypatch.setattr(prepare, "label", first_is_foreground)
    assert generate(*baseline, "--save-masks") == 0
    path = tmp_path / "out" / "wanted-origin_foreground.png"
    expected = np.kron(half, np.ones((8, 8))) * 255
    np.testing.assert_array_equal(np.array(Image.open(path)), expected)
    record = read_provenance(tmp_path / "out" / "wanted.png")
    assert record.details["adain-used"] == "foreground"
    assert record.details["origin-foreground-share"] == 0.5
    assert generate(*baseline, "--origin-mask", str(path), "--classes", "epithelium=0,stroma=255,c=1") == 0


def test_masks_of_another_run_do_not_stay_beside_a_new_image(baseline, tmp_path, capsys):
    assert generate(*baseline, "--save-masks") == 0
    capsys.readouterr()
    assert generate(*baseline) == 0
    assert files_in(tmp_path / "out") == ["wanted-panel.png", "wanted.png"]
    assert "wanted-target_foreground.png: the mask of that image will be removed" in capsys.readouterr().err


def test_the_example_is_the_baselines_too(tiny_folder, tmp_path):
    from tests.commands.running import QUICK

    assert generate("--preset", "alaluf", "--weights", str(tiny_folder), "--output", str(tmp_path), *QUICK) == 0
    record = read_provenance(tmp_path / "target_a.png")
    assert record.arguments["origin-mask"] is None
    assert "adain-used" in record.details


BAD = {
    "the winter preset": (["--preset", "winter"], "belong together: give all three, or none; only --preset alaluf"),
    "classes that take turns": (["--adain", "alternating"], "--adain alternating: knows the origin's classes"),
    "all classes": (["--adain", "all"], "give --origin-mask"),
    "attention by class": (["--within-class-attention"], "--within-class-attention True: knows the origin's classes"),
    "features by class": (["--adain-features"], "--adain-features"),
    "no such noun": (["--prompt", "A photo of a dog"], "--domain tissue: the word tissue is not in the prompt"),
    "a noun of other case": (["--nouns", "Tissue"], "--nouns Tissue: the word Tissue is not in the prompt"),
    "two words": (["--domain", "lung tumour"], "--domain lung tumour: must be one word of letters"),
    "no word": (["--domain", ""], "--domain : must be one word of letters"),
    "an escape": (["--domain", "\x1b[2K"], "must be one word of letters"),
    "a lone surrogate": (["--domain", "\udcff"], "must be one word of letters"),
    "no text as prompt": (["--prompt", "\udcff tissue"], "not valid Unicode"),
    "an endless noun": (["--domain", "x" * 5000], "must be one word of letters, 64 at most"),
    "endless nouns": (
        ["--nouns", ",".join(chr(0x4E00 + n) for n in range(5000))],
        "must be different words of letters",
    ),
    "nouns with a gap": (["--nouns", "tissue,,photo"], "must be different words of letters"),
    "the same noun twice": (["--nouns", "tissue,tissue"], "must be different words"),
    "masks that nobody finds": (["--save-masks", "--adain", "none"], "--save-masks: there are none to save"),
    "a mask over a stranger": (["--save-masks"], "is no mask that this program wrote"),
    "a mask over an input": (
        ["--save-masks", "--target-mask", "{tmp}/out/wanted-origin_foreground.png"],
        "is an input",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2_before_any_work(name, baseline, tmp_path, capsys, monkeypatch):
    stranger = tmp_path / "out" / "wanted-origin_foreground.png"
    if "mask over" in name:
        stranger.parent.mkdir()
        Image.new("L", (90, 70)).save(stranger)
    monkeypatch.setattr("model.load", lambda *_, **__: pytest.fail("weights were loaded"))
    words, message = BAD[name]
    assert generate(*baseline, *(word.format(tmp=tmp_path) for word in words)) == 2
    captured = capsys.readouterr()
    errors = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "\x1b" not in captured.err
    assert captured.out == ""
    assert files_in(tmp_path / "out") == ([stranger.name] if "mask over" in name else [])


def test_masks_are_not_saved_where_one_is_given(job, capsys):
    assert generate(*job, "--preset", "alaluf", "--save-masks") == 2
    assert "--save-masks: there are none to save" in capsys.readouterr().err
