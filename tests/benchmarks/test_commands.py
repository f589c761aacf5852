"""The benchmarks as commands, on tiny networks: that they run through and write rows."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import __main__ as entry
from benchmarks import kernels
from tests.benchmarks.running import rows, run

ROOT = Path(__file__).parents[2]


def test_without_a_name_the_benchmarks_are_listed(capsys):
    assert entry.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("kernels", "job", "networks", "ablation", "scaling", "table"))


def test_an_unknown_name_is_refused(capsys):
    assert entry.main(["speed"]) == 2
    assert "'speed'" in capsys.readouterr().err


def test_a_name_runs_that_benchmark():
    command = [sys.executable, "-m", "benchmarks", "job", "--help"]
    shown = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert "--targets" in shown


def test_the_job_of_several_targets_agrees_with_the_baselines(tiny_folder, tmp_path, monkeypatch, capsys):
    file = tmp_path / "job.jsonl"
    sides = ["ours", "diffusers", "diffusers optimised"]
    run(monkeypatch, "job", "--weights", tiny_folder, "--size", 64, "--targets", 2, "--output", file, "--sides", *sides)
    written = rows(file)
    assert [row["impl"] for row in written] == sides
    for row in written:
        assert row["shape"] == {"height": 64, "width": 64, "classes": 2, "targets": 2, "steps": 10, "executed": 7}
        assert 0 < row["marginal"] < row["processor_p50"]
        assert row["max_error"] < 1e-3  # float32 networks
    assert "pixels by 0.0" in capsys.readouterr().out


def test_networks_agree_with_diffusers(tiny_folder, tmp_path, monkeypatch):
    file = tmp_path / "networks.jsonl"
    options = ("--weights", tiny_folder, "--size", 64, "--batch", 1, 2, "--rounds", 1, "--output", file)
    run(monkeypatch, "networks", *options)
    written = rows(file)
    assert {row["what"] for row in written} == {"unet", "vae encode", "vae decode", "text to image"}
    assert len(written) == 2 * (2 * 3 + 1)
    for row in written:
        assert row["max_error"] <= (1 if row["what"] == "text to image" else 1e-4), row


def test_kernels_run_in_the_interpreter_and_say_what_they_are_held_to(tmp_path):
    file = tmp_path / "kernels.jsonl"
    command = [sys.executable, "-m", "benchmarks", "kernels", "--rounds", "2", "--output", str(file)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    written = rows(file)
    assert {row["what"] for row in written} == set(kernels.KINDS)
    for row in written:
        assert (row["against"], row["rounds"], row["weight_bytes"]) == ("float64", 2, None)
        assert row["max_error"] < 1e-2, "of half precision"
    attention = next(row for row in written if row["what"] == "attention")
    assert attention["shape"] == {"batch": 1, "heads": 1, "tokens": 33, "width": 40}
    assert "FlexAttention twice" in done.stdout


def test_without_a_gpu_kernels_want_a_file(monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert kernels.main([]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err
