"""Ablation and scaling as commands, on tiny networks."""

from __future__ import annotations

from benchmarks.optimizations import NOTHING, ORDER
from benchmarks.variants import PACKED, PRODUCT
from tests.benchmarks.running import rows, run


def test_the_ablation_leads_from_nothing_saved_to_the_product(tiny_folder, tmp_path, monkeypatch, capsys):
    file = tmp_path / "ablation.jsonl"
    run(monkeypatch, "ablation", "--weights", tiny_folder, "--size", 64, "--output", file)
    written = rows(file)
    # Without a GPU norms and gates have one implementation.
    between = [says for name, says in ORDER.items() if name != "fused"]
    assert [row["impl"] for row in written] == [NOTHING, *between, PACKED, PRODUCT]
    for row in written:
        assert (row["what"], row["against"]) == ("ablation", NOTHING)
        assert row["shape"] == {"height": 64, "width": 64, "classes": 2, "targets": 1, "steps": 10, "executed": 7}
        assert row["max_error"] <= 1, "levels of 255"
    assert PRODUCT in capsys.readouterr().out


def test_each_axis_has_rows_that_differ_in_it_alone(tiny_folder, tmp_path, monkeypatch):
    file = tmp_path / "scaling.jsonl"
    options = ("--sizes", 64, 128, "--classes", 2, 4, "--targets", 1, 3, "--size", 64)
    run(monkeypatch, "scaling", "--weights", tiny_folder, *options, "--output", file)
    one = {"height": 64, "width": 64, "classes": 2, "targets": 1, "steps": 10, "executed": 7}
    expected = [
        ("scaling by size", one),
        ("scaling by size", one | {"height": 128, "width": 128}),
        ("scaling by classes", one),
        ("scaling by classes", one | {"classes": 4}),
        ("scaling by targets", one),
        ("scaling by targets", one | {"targets": 3}),
    ]
    assert [(row["what"], row["shape"]) for row in rows(file)] == expected


def test_an_axis_without_values_is_left_out(tiny_folder, tmp_path, monkeypatch):
    file = tmp_path / "scaling.jsonl"
    options = ("--sizes", "--classes", "--targets", 2, "--size", 64)
    run(monkeypatch, "scaling", "--weights", tiny_folder, *options, "--output", file)
    assert [row["shape"]["targets"] for row in rows(file)] == [2]
