"""The command `embed`: from folders to a table, features, distances, pictures and a page; killed and hostile runs."""

from __future__ import annotations

import base64
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import cli
from commands.embed import arm_names
from commands.places import DEMO_WEIGHTS
from tests.commands.running import ROOT
from tests.evaluation.embedded import EACH, SLIDES, draw_made, draw_real

pytest.importorskip("matplotlib", reason="needs the extra [evaluate]")
RESULTS = {"embedding.csv", "features.safetensors", "distances.json", "pca.png", "pca.svg", "report.html"}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """real/, made/ and bright/, the last far from the real images. Not to be changed."""
    root = tmp_path_factory.mktemp("sets")
    names = draw_real(root / "real")
    draw_made(root / "made", names)
    draw_made(root / "bright", names, rounds=1, shift=120)
    return root


def arguments(sets: Path, output: Path, *more: str) -> list[str]:
    folders = [str(sets / name) for name in ("real", "made", "bright")]
    return ["embed", *folders, "--output", str(output), "--projection", "pca", *more]


@pytest.fixture(scope="module")
def done(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a whole run. Not to be changed."""
    output = tmp_path_factory.mktemp("done") / "out"
    assert cli.main(arguments(sets, output)) == 0
    return output


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_every_image_has_a_row_and_features(done: Path) -> None:
    assert set(contents(done)) == RESULTS
    rows = list(csv.DictReader((done / "embedding.csv").open(encoding="utf-8")))
    count = SLIDES * EACH
    assert len(rows) == count * (1 + 2 + 1)
    assert [row["arm"] for row in rows] == ["real"] * count + ["made"] * 2 * count + ["bright"] * count
    assert {row["round"] for row in rows if row["arm"] == "made"} == {"1", "2"}
    made = next(row for row in rows if row["arm"] == "made")
    assert (made["origin"], made["slide"]) == ("images/slide0-0.png", "slide0")
    for row in rows:
        assert float(row["share of class 0"]) + float(row["share of class 1"]) == pytest.approx(1, abs=2e-6)
        assert np.isfinite([float(row["x"]), float(row["y"])]).all()
    features = load_file(done / "features.safetensors")["features"]
    assert features.shape[0] == len(rows)
    # Principal components: as far apart as the features allow, and no farther.
    points = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    variances = np.linalg.svd(centred, compute_uv=False)[:2] ** 2
    np.testing.assert_allclose((points**2).sum(axis=0), variances, rtol=1e-4)


def test_a_set_that_was_shifted_is_the_farther_one(done: Path) -> None:
    found = json.loads((done / "distances.json").read_text())
    assert found["encoder"]["kind"] == "diffusion"
    assert found["encoder"]["t"] == 250
    assert found["unit"] == "slide"
    sets = {each["name"]: each for each in found["sets"]}
    assert list(sets) == ["made", "made, round 1", "made, round 2", "bright"]
    assert sets["bright"]["differs"]
    assert sets["bright"]["kernel"]["value"] > 3 * abs(sets["made"]["kernel"]["value"])
    assert sets["bright"]["frechet"]["value"] > 1.2 * sets["made"]["frechet"]["value"]
    for each in sets.values():
        assert each["frechet"]["low"] <= each["frechet"]["value"] <= each["frechet"]["high"]
        assert each["size"] >= 2


class Loaded(HTMLParser):
    """What a page would load from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]


def test_the_page_opens_offline_and_shows_the_picture(done: Path) -> None:
    page = Loaded()
    text = (done / "report.html").read_text(encoding="utf-8")
    page.feed(text)
    (source,) = page.sources
    start = "data:image/png;base64,"
    assert source.startswith(start)
    assert base64.b64decode(source.removeprefix(start)) == (done / "pca.png").read_bytes()
    assert "url(" not in text


def test_the_same_run_gives_the_same_bytes_from_kept_features(sets, done, tmp_path, capsys) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "work").rglob("*.features")}
    results = contents(done)
    assert cli.main(arguments(sets, done)) == 0
    assert "results of an earlier run" in capsys.readouterr().err
    assert contents(done) == results
    assert {path: path.stat().st_mtime_ns for path in (done / "work").rglob("*.features")} == before
    assert len(before) == len({path.read_bytes() for path in (sets).rglob("images/*.png")})


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(sets, done, tmp_path) -> None:
    output = tmp_path / "out"
    words = [sys.executable, str(ROOT / "cli.py"), *arguments(sets, output)]
    kept: set[Path] = set()
    for wanted in (3, 12):
        child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while len(kept) < wanted and child.poll() is None:
            time.sleep(0.01)
            kept = set((output / "work").rglob("*.features"))
        child.kill()
        child.wait()
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    assert cli.main(words[2:]) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps
    assert contents(output) == contents(done)


@pytest.mark.skipif(not hasattr(signal, "SIGTERM") or os.name != "posix", reason="signals")
def test_a_signal_leaves_whole_files_alone(sets, tmp_path) -> None:
    output = tmp_path / "out"
    words = [sys.executable, str(ROOT / "cli.py"), *arguments(sets, output)]
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not list((output / "work").rglob("*.features")) and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate()
    assert child.returncode == 128 + signal.SIGTERM
    assert "nothing is half-written" in told
    assert [path for path in output.rglob("*") if path.name.endswith(".part")] == []
    assert set(contents(output)) == set()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What is said, in one line of code 2."""
    assert cli.main(list(words)) == 2
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if not line.startswith(("note: ", "read:", "embed:", "\r"))]
    assert errors[-1].startswith("error: ")
    assert all(line.isprintable() for line in errors)
    return errors[-1]


BAD = {
    "no such real images": (["{tmp}/none", "{made}"], "none"),
    "no such set": (["{real}", "{tmp}/none"], "none"),
    "made images as real ones": (["{made}", "{made}"], "made in silico, and among the real images"),
    "no such split": (["{real}", "{made}", "--split", "test"], "there is no such split"),
    "a timestep that was never trained": (["{real}", "{made}", "--t", "1000"], "--t 1000: must be from 0 to 999"),
    "a timestep that is none": (["{real}", "{made}", "--t", "nan"], "--t nan: must be a whole number"),
    "no such projection": (["{real}", "{made}", "--projection", "tsne"], "--projection tsne: must be one of umap, pca"),
    "an output among the inputs": (["{real}", "{made}", "--output", "{made}/x"], "must not lie among the inputs"),
    "an output that holds the inputs": (["{real}", "{made}", "--output", "{made}/.."], "must not lie among the inputs"),
    "somebody's folder": (["{real}", "{made}", "--output", "{tmp}/theirs"], "not empty, and no embedding"),
    "a file as output": (["{real}", "{made}", "--output", "{tmp}/theirs/a.txt"], "cannot be written to"),
    "a NUL in the output": (["{real}", "{made}", "--output", "{tmp}/a\0b"], "no possible path"),
    "no such weights": (["{real}", "{made}", "--weights", "{tmp}/none"], "none"),
    "classes that are not there": (["{real}", "{made}", "--classes", "a=5,b=6"], "problem"),
    "a forged line": (["{real}", "{tmp}/\x1b[2K\nerror: well"], "\\x1b[2K\\nerror: well"),
    "a pipe as a set": (["{real}", "{tmp}/pipe"], "pipe"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str, sets: Path, tmp_path: Path, capsys) -> None:
    words, expected = BAD[name]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "a.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    places = {"tmp": tmp_path, "real": sets / "real", "made": sets / "made"}
    filled = [re.sub(r"\{(\w+)\}", lambda found: str(places[found[1]]), word) for word in words]
    more = [] if "--projection" in words else ["--projection", "pca"]
    more += [] if "--weights" in words else ["--weights", str(DEMO_WEIGHTS)]
    more += [] if "--output" in words else ["--output", str(tmp_path / "out")]
    assert expected in refused(capsys, "embed", *filled, *more)
    assert contents(tmp_path / "theirs") == {"a.txt": b"mine"}
    assert not (tmp_path / "out" / "embedding.csv").exists()


def test_loras_change_diffusion_features_alone(sets, tmp_path, tiny_folder, tiny_lora, capsys) -> None:
    found = {}
    for name, lora in (("plain", ()), ("none", (f"{tiny_lora}:0",)), ("merged", (str(tiny_lora),))):
        more = ["--lora", *lora] if lora else []
        assert cli.main(arguments(sets, tmp_path / name, "--weights", str(tiny_folder), *more)) == 0
        encoder = json.loads((tmp_path / name / "distances.json").read_text())["encoder"]
        found[name] = load_file(tmp_path / name / "features.safetensors")["features"], encoder.get("lora")
    assert np.array_equal(found["plain"][0], found["none"][0])
    assert np.abs(found["plain"][0] - found["merged"][0]).max() > 1e-2
    assert found["plain"][1] is None
    assert found["merged"][1][0].endswith(":1.0")
    words = ("--lora", str(tiny_lora), "--encoder", "timm:vit_tiny_patch16_224")
    assert "--lora: changes diffusion weights" in refused(capsys, *arguments(sets, tmp_path / "out", *words))


def test_an_encoder_that_is_refused_leaves_nothing(sets, tmp_path, capsys) -> None:
    refused(capsys, *arguments(sets, tmp_path / "out", "--encoder", str(tmp_path / "nowhere")))
    assert not (tmp_path / "out").exists()


def test_without_umap_one_line_says_what_to_install(sets, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    words = arguments(sets, tmp_path / "out", "--projection", "umap")
    assert "pip install umap-learn" in refused(capsys, *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "encoder"),
    [("matplotlib.figure", "diffusion"), ("scipy.special", "diffusion"), ("timm.data", "timm:vit_tiny_patch16_224")],
)
def test_without_what_it_needs_one_line_says_what_to_install(
    sets, tmp_path, capsys, monkeypatch, part: str, encoder: str
) -> None:
    monkeypatch.setitem(sys.modules, part, None)
    said = refused(capsys, *arguments(sets, tmp_path / "out", "--encoder", encoder))
    assert f"this wants the library {part.split('.')[0]}: pip install 'stainloom[evaluate]'" in said
    assert not (tmp_path / "out").exists()


def test_names_of_folders_and_classes_are_text_alone(tmp_path) -> None:
    """Not formulas in the picture, tags in the page, or lines of a table."""
    names = draw_real(tmp_path / "real")
    odd = tmp_path / '_$\\frac{1}{$<b>\n,"x'
    draw_made(odd, names, rounds=1)
    output = tmp_path / "out"
    words = ["embed", str(tmp_path / "real"), str(odd), "--output", str(output)]
    assert cli.main([*words, "--projection", "pca", "--classes", "$\\x$=0,_<i>=1"]) == 0
    page = (output / "report.html").read_text()
    assert "<b>\\n" not in page
    assert "&lt;b&gt;" in page
    rows = list(csv.reader((output / "embedding.csv").open(newline="")))
    assert {len(row) for row in rows} == {len(rows[0])}
    assert rows[-1][1] == odd.name
    assert "$\\x$" in (output / "pca.svg").read_text()


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a", "b"], ["a", "b"]),
        (["x/out", "y/out"], ["x/out", "y/out"]),
        (["x/real", "b"], ["x/real", "b"]),
        (["a", "a"], ["a 1", "a 2"]),
        (["p/x/out", "q/x/out", "c"], ["p/x/out", "q/x/out", "c"]),
    ],
)
def test_sets_are_named_so_that_they_can_be_told_apart(paths: list[str], names: list[str], tmp_path: Path) -> None:
    assert arm_names([tmp_path / path for path in paths]) == names


def test_umap_with_a_seed_is_the_same_each_time_and_keeps_groups_together() -> None:
    pytest.importorskip("umap", reason="needs the extra [evaluate]")
    from evaluation.embedding.projection import project

    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 20)) + np.repeat([0.0, 30.0], 30)[:, None]
    first, second = (project(features, "umap", seed=2**40) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    middles = [first[:30].mean(axis=0), first[30:].mean(axis=0)]
    within = max(first[:30].std(), first[30:].std())
    assert np.linalg.norm(middles[0] - middles[1]) > 2 * within
    project(features[25:33], "umap", seed=1)  # hardly any images
