"""The goals of a GPU: what counts, what is missed, and what nobody has measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks import goals
from benchmarks.record import COMPARABLE, RATIOS_ONLY, Row, append

PAIR = {"height": 512, "width": 512, "classes": 2, "targets": 1, "steps": 100, "executed": 68}
ROW = Row(
    what="job",
    impl="ours",
    shape=PAIR,
    dtype="float16",
    p20=2.0,
    p50=2.0,
    p80=2.0,
    rounds=5,
    peak_bytes=3 * 2**30,
    max_error=0.0,
    against="ours",
    weight_bytes=2 * 2**30,
    device="NVIDIA Made-Up",
    times_compare=COMPARABLE,
    date="2030-01-01T00:00:00+00:00",
)
GOOD = [
    ROW,
    replace(ROW, impl="diffusers", dtype="float32", p50=50.0),
    replace(ROW, impl="diffusers optimised", p50=11.0),
    replace(ROW, impl="ours, with CUDA graphs", shape=PAIR | {"targets": 4}, p50=2.2),
    replace(ROW, what="unet", shape={"height": 64, "width": 64, "batch": 1}, p50=0.010),
    replace(ROW, what="unet", impl="diffusers compiled", shape={"height": 64, "width": 64, "batch": 1}, p50=0.014),
]


def run(rows, tmp_path):
    for number, row in enumerate(rows):
        append(tmp_path / f"{number}.jsonl", row, {})
    return goals.main(["--results", str(tmp_path)])


def test_all_goals_met(tmp_path, capsys):
    assert run(GOOD, tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[0].startswith("NVIDIA Made-Up")
    assert all(line.endswith("yes") for line in lines[1:])
    for measured in ("25 times", "5.5 times", "0.55 s", "1.4 times", "5 GiB"):
        assert measured in "\n".join(lines)


@pytest.mark.parametrize("missed", range(len(GOOD)))
def test_a_missed_goal_is_told(missed, tmp_path, capsys):
    slower = 0.1 if GOOD[missed].impl.startswith("diffusers") else 10.0
    rows = [replace(row, p50=row.p50 * (slower if number == missed else 1)) for number, row in enumerate(GOOD)]
    assert run(rows, tmp_path) == 1
    assert capsys.readouterr().out.count("NO") >= 1


def test_of_several_runs_the_latest_counts_and_of_our_ways_the_quickest(tmp_path, capsys):
    later = replace(ROW, p50=100.0, date="2031-01-01T00:00:00+00:00")
    graphs = replace(ROW, impl="ours, with CUDA graphs", p50=1.0)
    assert run([*GOOD, later, graphs], tmp_path) == 0
    assert "50 times" in capsys.readouterr().out


def test_what_was_not_measured_is_not_met(tmp_path, capsys):
    assert run(GOOD[:1], tmp_path) == 1
    assert capsys.readouterr().out.count("not measured") == 4


def test_rows_of_a_cpu_do_not_count(tmp_path, capsys):
    assert run([replace(row, times_compare=RATIOS_ONLY) for row in GOOD], tmp_path) == 2
    assert "make gpu" in capsys.readouterr().err
