"""The estimate of a kernel's time from its machine code: reading the code, and code whose time can be told by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks.estimate import SHAPES, beside_measured, estimate, main
from benchmarks.machine_code import read_code
from benchmarks.record import COMPARABLE, RATIOS_ONLY
from benchmarks.scheduler import CHIPS, Scheduler, microseconds

NOTHING = 7


def line(opcode, operands="", *, stall=1, written=NOTHING, read=NOTHING, waits=0, predicate=""):
    upper = stall << 41 | written << 46 | read << 49 | waits << 52
    return f"        /*0010*/ {predicate} {opcode} {operands} ;  /* 0x0000000000000000 */\n  /* 0x{upper:016x} */"


def code(*lines):
    return read_code("\n".join(("\t.text", *lines, line("EXIT"))))


def clocks(made, *, trips=None, blocks=1, warps=1, chip="middle", rotate=False):
    return Scheduler(made, trips or {}, CHIPS[chip], blocks, warps, 300).clocks(rotate=rotate)


def test_code_is_read_with_its_bits_and_loops():
    made = code(
        line("MOV", "R1, R2", stall=5, written=3, waits=0b100001),
        ".L_x_1:",
        line("HGMMA.64x64x16.F32", "R4, gsb0", read=2),
        line("BRA", "`(.L_x_1)", predicate="@P0"),
        line("BRA", "`(.L_x_1)"),
    )
    first = made.instructions[0]
    assert (first.stall, first.sets_when_written, first.sets_when_read, first.waits_for) == (5, 3, NOTHING, 0b100001)
    assert made.loops() == made.product_loops() == [(1, 2)]
    assert made.path({1: 3}) == [0, 1, 2, 1, 2, 1, 2, 3, 4]
    for damaged in ("", "no code", line("MOV").splitlines()[0]):
        with pytest.raises(ValueError, match="instruction"):
            read_code(damaged)


def test_stalls_add_up():
    assert clocks(code(*[line("NOP2", stall=4)] * 10)) == pytest.approx(41, abs=2)


@pytest.mark.parametrize(
    ("opcode", "interval"), [("FFMA", 1), ("FMNMX", 2), ("MUFU.EX2", 8), ("LDS", 4), ("LDS.128", 16)]
)
def test_a_pipe_takes_an_instruction_each_interval(opcode, interval):
    made = code(*[line(opcode)] * 100)
    assert clocks(made) == pytest.approx(100 * interval, rel=0.1)
    assert clocks(made, blocks=2, warps=2) == pytest.approx(max(400 * interval, 300 + 200 * interval), rel=0.1)


def test_a_wait_lasts_until_the_result_is_there():
    read, use = line("LDG.E", written=0), line("FADD", waits=1)
    quick, slow = (clocks(code(read, use), chip=chip) for chip in ("optimistic", "pessimistic"))
    assert slow - quick == 500
    assert clocks(code(read, line("FADD"))) < 10


def test_products_keep_the_tensor_core_busy():
    made = code(
        *[line("HGMMA.64x64x16.F32", "R4")] * 9, line("HGMMA.64x64x16.F32", "R4, gsb0"), line("WARPGROUP.DEPBAR.LE")
    )
    assert clocks(made) == pytest.approx(10 * 32 + 24, abs=4)


def test_copies_are_waited_for_by_group():
    copy, commit = line("LDGSTS.E.128"), line("LDGDEPBAR")
    for open_groups, least, most in ((0, 550, 700), (1, 400, 549), (2, 0, 30)):
        wait = line("DEPBAR.LE", f"SB0, 0x{open_groups}")
        assert least <= clocks(code(copy, commit, *[line("NOP2", stall=15)] * 8, copy, commit, wait)) - 120 <= most


def test_warps_of_a_block_meet_at_its_barriers():
    slow = code(line("BAR.SYNC"), line("MUFU.EX2"))
    assert clocks(slow, warps=2) >= 25


def test_bandwidth_is_shared():
    made = code(*[line("LDGSTS.E.128")] * 50, line("LDGDEPBAR"), line("DEPBAR.LE", "SB0, 0x0"))
    for chip in CHIPS.values():
        found = Scheduler(made, {}, chip, 1, 1, 0).clocks(rotate=False)
        assert found == pytest.approx(50 * 4 * 512 / chip.bandwidth + chip.memory_latency, rel=0.05)


def test_a_loop_costs_its_trips():
    made = code(".L_x_0:", line("MUFU.EX2"), line("BRA", "`(.L_x_0)", predicate="@P0"))
    once, often = (clocks(made, trips={0: trips}) for trips in (10, 110))
    assert often - once == pytest.approx(800, rel=0.05)
    assert set(microseconds(made, {0: 2}, 1, 1)) == set(CHIPS)


def test_estimates_stand_beside_what_a_gpu_shows(tmp_path):
    estimates, results = tmp_path / "e.json", tmp_path / "kernels.jsonl"
    assert beside_measured(estimates, results) == []
    rows = [{"heads": 8, "positions": 4096, "width": 40, "classes": c, "us": {"middle": 100.0}} for c in (0, 2)]
    estimates.write_text(json.dumps({"rows": rows}))
    shape = {"batch": 1, "heads": 8, "tokens": 4096, "width": 40}
    row = {"what": "attention", "shape": shape, "device": "A chip"}
    lines = [
        row | {"impl": "ours", "p50": 9.0, "times_compare": COMPARABLE},
        row | {"impl": "ours", "p50": 120e-6, "times_compare": COMPARABLE},
        row | {"impl": "ours, with statistics", "p50": 7.0, "times_compare": RATIOS_ONLY},
    ]
    results.write_text("\n".join(json.dumps(each) for each in lines))
    (shown,) = beside_measured(estimates, results)
    assert "estimated 100.0 µs, 120.0 on A chip: 1.20" in shown


GOALS = {(40, 0): 112, (40, 2): 132, (80, 0): 20, (80, 2): 33, (160, 0): 11, (160, 2): 28}


@pytest.mark.slow
@pytest.mark.parametrize("classes", [0, 2])
@pytest.mark.parametrize("width", SHAPES)
def test_the_kernel_is_estimated_within_its_goal(width, classes):
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    assert estimate(width, classes=classes)["middle"] <= GOALS[width, classes]


def test_the_table_is_written(tmp_path, monkeypatch, capsys):
    pytest.importorskip("triton", reason="Triton is for Linux alone")
    monkeypatch.setattr("benchmarks.estimate.estimate", lambda width, classes: dict.fromkeys(CHIPS, 1.0 * width))
    assert main(["--output", str(tmp_path / "e.json")]) == 0
    assert len(json.loads((tmp_path / "e.json").read_text())["rows"]) == 6
    assert "(8, 4096, 40), plain" in capsys.readouterr().out
