"""Sides take turns, warm, and are compared with the first."""

from __future__ import annotations

import pytest
import torch

from benchmarks import timing
from benchmarks.record import Recorder
from benchmarks.timing import Setting

CPU = torch.device("cpu")


@pytest.fixture
def setting(tmp_path):
    return lambda rounds: Setting(CPU, torch.float32, rounds, Recorder(tmp_path / "rows.jsonl", CPU))


def side(calls: list[str], name: str, value: float):
    def call():
        calls.append(name)
        return (torch.full((2,), value), torch.zeros(3))

    return call


def test_sides_are_warmed_up_and_then_alternate(setting):
    calls: list[str] = []
    sides = {"a": side(calls, "a", 1.0), "b": side(calls, "b", 1.5)}
    rows, outputs = setting(2).compare("both", sides, {}, against="a")
    assert calls == ["a", "b"] * 3
    assert [(row.impl, row.rounds, row.max_error) for row in rows] == [("a", 2, 0.0), ("b", 2, 0.5)]
    assert outputs["b"][0].tolist() == [1.5, 1.5]


def test_every_turn_but_the_warm_ups_is_timed(setting, monkeypatch):
    seconds = iter((1.0, 10.0, 2.0, 20.0, 4.0, 30.0))
    monkeypatch.setattr(timing, "timed", lambda call, device: (next(seconds), 7.0, call()))
    sides = {"a": lambda: torch.zeros(1), "b": lambda: torch.zeros(1)}
    rows, _ = setting(3).compare("both", sides, {}, against="a")
    assert [(row.p50, row.processor_p50) for row in rows] == [(2.0, 7.0), (20.0, 7.0)]
    assert (rows[0].p20, rows[0].p80) == pytest.approx((1.4, 3.2))


def test_memory_is_counted_in_the_first_turn_alone(setting, monkeypatch):
    looks = []
    held = timing.held_bytes
    monkeypatch.setattr(timing, "held_bytes", lambda device: looks.append(device) or held(device))
    calls: list[str] = []
    setting(3).compare("one", {"a": side(calls, "a", 1.0)}, {}, against="a", warm_ups=0)
    assert len(calls) == 3
    assert len(looks) == 1


def test_an_output_of_another_shape_is_refused(setting):
    with pytest.raises(ValueError, match="b: output of shape"):
        setting(1).compare("both", {"a": lambda: torch.zeros(2), "b": lambda: torch.zeros(3)}, {}, against="a")


def test_no_rounds_are_refused(setting):
    with pytest.raises(ValueError, match="rounds"):
        setting(0).compare("none", {}, {}, against="a")
