"""The table and plot of docs/benchmarks.md: which rows count, and that a shared CPU's seconds never show."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.record import COMPARABLE, RATIOS_ONLY, Row, append

PAGE = f"# Title\n\n{table.START}\nold\n{table.END}\n\nafter\n"
SHAPE = {"height": 64, "width": 64, "classes": 2, "targets": 1, "steps": 10, "executed": 7}
CPU = {"device": "x86_64", "threads": 2, "times_compare": RATIOS_ONLY, "date": "2030-01-01T00:00:00+00:00"}
GPU = CPU | {"device": "NVIDIA Made-Up", "threads": None, "times_compare": COMPARABLE}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Results, a page with markers, and where the plot goes."""
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE)
    return tmp_path / "results", page, tmp_path / "docs" / "plot.png"


def write(results: Path, around: dict, what: str, impl: str, seconds: float, **shape: int) -> None:
    """A row whose processor time is twice ``seconds``, and whose memory is a million times that with the weights.

    With several targets each further one takes 1 s, and 3 s of diffusers.
    """
    row = Row(
        what=what,
        impl=impl,
        shape=SHAPE | shape,
        dtype="float32",
        p20=seconds,
        p50=seconds,
        p80=seconds,
        rounds=1,
        peak_bytes=int((seconds - 1) * 1e6),
        max_error=0.0,
        processor_p50=2 * seconds,
        against="ours",
        weight_bytes=1_000_000,
        marginal=None if shape.get("targets", 1) == 1 else {"ours": 1.0, "diffusers": 3.0}[impl],
    )
    append(results / f"{what}.jsonl".replace(" ", "_"), row, around)


def make(folders: tuple[Path, Path, Path]) -> int:
    results, page, plot = folders
    arguments = ["--results", results, "--page", page, "--plot", plot]
    return table.main([*map(str, arguments)])


def test_on_a_gpu_there_are_times_and_on_a_cpu_ratios_alone(folders, capsys):
    results, page, plot = folders
    for around in (CPU, GPU):
        write(results, around, "job", "ours", 17.0)
        write(results, around, "job", "diffusers", 51.0)
        write(results, around, "job", "ours", 30.0, targets=4)
        write(results, around, "job", "diffusers", 60.0, targets=4)
        write(results, around, "ablation", "nothing saved", 17.0)
        write(results, around, "ablation", "the product", 8.5)
        for targets in (1, 4):
            write(results, around, "scaling by targets", "ours", 17.0 * targets, targets=targets)
    assert make(folders) == 0
    text = page.read_text()
    assert text.startswith(f"# Title\n\n{table.START}\n\n![")
    assert text.endswith(f"{table.END}\n\nafter\n")
    assert "(docs/plot.png)" in text
    assert "old" not in text
    assert plot.stat().st_size > 10_000
    assert text == PAGE.replace("old\n", f"\n{capsys.readouterr().out}\n")
    gpu, cpu = text.split("**CPU, 2 threads, float32, 0 million parameters**")
    assert "**NVIDIA Made-Up, float32, 0 million parameters**" in gpu
    assert "| job, 64 px, 2 classes, 1 target, 10 steps | diffusers | 51 | 17 | 3.00 | 3.00 |" in gpu
    assert "| job, 64 px, 2 classes, 1 target, 10 steps | diffusers | 3.00 | 3.00 |" in cpu
    assert "| job, 64 px, 2 classes, 4 targets, 10 steps | diffusers | 2.00 | 2.00 |" in cpu
    assert "| job, 64 px, 2 classes, 4 targets, 10 steps: each further target | diffusers | 3.00 |  |" in cpu
    assert "| job, 64 px, 2 classes, 4 targets, 10 steps: each further target | diffusers | 3 | 1 | 3.00 |  |" in gpu
    assert "| the product | 8.5 | 0.50 | 8 | 0 |" in gpu
    assert "| the product | 0.50 | 8 | 0 |" in cpu
    assert "| targets of one origin (64 px, 2 classes, 10 steps) | 1: 17 s, 4: 68 s |" in gpu
    assert "| targets of one origin (64 px, 2 classes, 10 steps) | 1: 1.00, 4: 4.00 |" in cpu
    assert not {"17", "51", "34", "102", "68"} & set(cpu.replace(":", " ").split())


def test_the_latest_run_counts_and_ratios_stay_within_it(folders):
    results, page, _ = folders
    later = CPU | {"date": "2030-01-02T00:00:00+00:00"}
    latest = CPU | {"date": "2030-01-03T00:00:00+00:00"}
    write(results, later, "job", "ours", 20.0)
    write(results, later, "job", "diffusers", 50.0)
    write(results, CPU, "job", "ours", 1.0)
    write(results, CPU, "job", "diffusers", 9.0)
    write(results, CPU, "job", "diffusers optimised", 7.0)
    write(results, latest, "job", "ours", 2.0)
    write(results, CPU, "ablation", "nothing saved", 10.0)
    write(results, CPU, "ablation", "an old saving", 5.0)
    write(results, later, "ablation", "nothing saved", 10.0)
    write(results, later, "ablation", "a saving", 2.5)
    assert make(folders) == 0
    text = page.read_text()
    assert "| diffusers | 2.50 |" in text, "not the first run's 9, and not 25 with the last run's ours"
    assert "| diffusers optimised | 7.00 |" in text, "the only run that has it"
    assert "| a saving | 0.25 |" in text
    assert "an old saving" not in text


def test_a_variant_of_ours_is_beside_each_of_theirs_under_its_name(folders):
    results, page, _ = folders
    for name, seconds in (("ours", 2.0), ("ours, with CUDA graphs", 1.0), ("diffusers", 4.0)):
        write(results, GPU, "job", name, seconds)
    assert make(folders) == 0
    text = page.read_text()
    assert "10 steps | diffusers | 4 | 2 | 2.00 |" in text
    assert "10 steps, with CUDA graphs | diffusers | 4 | 1 | 4.00 |" in text


def test_making_it_again_changes_nothing(folders):
    results, page, plot = folders
    write(results, CPU, "ablation", "nothing saved", 2.0)
    assert make(folders) == 0
    first = page.read_bytes(), plot.read_bytes()
    assert make(folders) == 0
    assert (page.read_bytes(), plot.read_bytes()) == first


@pytest.mark.parametrize("text", ["# Title\n", f"{table.START}\n", f"{table.END}\n{table.START}\n", PAGE + PAGE])
def test_a_page_without_its_markers_is_refused_and_left_alone(text, folders, capsys):
    results, page, plot = folders
    page.write_text(text)
    write(results, CPU, "ablation", "nothing saved", 2.0)
    assert make(folders) == 2
    said = capsys.readouterr()
    assert "nothing saved" in said.out
    assert table.START in said.err
    assert page.read_text() == text
    assert not plot.exists()


def test_without_rows_there_is_nothing_to_show(folders, capsys):
    assert make(folders) == 2
    assert "no rows" in capsys.readouterr().err


def test_rows_of_kernels_are_passed_over_and_damaged_lines_named(folders):
    results, *_ = folders
    results.mkdir()
    (results / "attention.jsonl").write_text('{"what": "attention", "unit": "us"}\n')
    write(results, CPU, "ablation", "nothing saved", 2.0)
    assert make(folders) == 0
    (results / "job.jsonl").write_text('{"what": "job", "weight_bytes": 1}\n')
    with pytest.raises(ValueError, match=r"job\.jsonl, line 1"):
        make(folders)


def test_older_rows_are_read(folders):
    results, page, _ = folders
    for name, seconds in (("ours", 2.0), ("diffusers", 4.0)):
        write(results, CPU, "job", name, seconds, targets=2)
    file = results / "job.jsonl"
    older = file.read_text().replace('"marginal"', '"further"').replace('"what"', '"unit": "s", "what"')
    assert older.count("further") == 2
    file.write_text(older)
    assert make(folders) == 0
    assert "each further target | diffusers | 3.00 |" in page.read_text()
