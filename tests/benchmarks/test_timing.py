"""Sides take turns, warm, and are compared with the first."""

from __future__ import annotations

import pytest
import torch

from benchmarks import timing
from benchmarks.timing import Phases, take_turns

CPU = torch.device("cpu")


def side(calls: list[str], name: str, value: float):
    def call():
        calls.append(name)
        return (torch.full((2,), value), torch.zeros(3))

    return call


def test_sides_are_warmed_up_and_then_alternate():
    calls: list[str] = []
    outcomes = take_turns({"a": side(calls, "a", 1.0), "b": side(calls, "b", 1.5)}, CPU, rounds=2)
    assert calls == ["a", "b"] * 3
    assert [len(outcome.times) for outcome in outcomes.values()] == [2, 2]
    assert outcomes["a"].differences == (0.0, 0.0)
    assert outcomes["b"].differences == (0.5, 0.0)


def test_brief_calls_are_looked_at_in_the_first_turn_alone(monkeypatch):
    looks = []
    watch = timing.Watch
    monkeypatch.setattr(timing, "Watch", lambda device: looks.append(device) or watch(device))
    calls: list[str] = []
    outcome = take_turns({"a": side(calls, "a", 1.0)}, CPU, rounds=3, warm_ups=0, brief=True)["a"]
    assert len(calls) == len(outcome.times) == 3
    assert len(looks) == 1
    assert outcome.outputs[0].tolist() == [1.0, 1.0]


def test_an_output_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="b: output of shape"):
        take_turns({"a": lambda: (torch.zeros(2),), "b": lambda: (torch.zeros(3),)}, CPU, rounds=1)


def test_no_rounds_are_refused():
    with pytest.raises(ValueError, match="rounds"):
        take_turns({}, CPU, rounds=0)


def test_phases_add_up():
    phases = Phases(CPU)
    for name in ("encode", "denoise", "encode"):
        phases.finished(name)
    assert list(phases.seconds) == ["encode", "denoise"]
    assert all(seconds >= 0 for seconds in phases.seconds.values())
    assert phases.marginal is None


def test_marginal_images_share_the_time_after_the_first(monkeypatch):
    clock = iter((10.0, 13.0, 14.0))
    monkeypatch.setattr("time.process_time", lambda: next(clock))
    phases = Phases(CPU)
    for _ in range(3):
        phases.image()
    assert phases.marginal == 2.0
