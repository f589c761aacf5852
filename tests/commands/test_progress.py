"""What a person sees of a run: seconds go to the phase that they were spent in, and every dataset has its own bar."""

from __future__ import annotations

from pathlib import Path

from commands import progress
from commands.dataset import Images
from commands.generate import Written
from commands.progress import Reporter
from sampler.progress import Progress


def test_seconds_go_to_the_phase_that_they_were_spent_in(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    told = [
        (1.0, Progress("encode", 0, 2)),  # what came before is nobody's
        (3.0, Progress("encode", 1, 2)),
        (2.0, Progress("encode", 2, 2)),
        (4.0, Progress("denoise", 0, 1)),
        (10.0, Progress("denoise", 1, 1)),
        (0.5, Progress("decode", 0, 1)),
        (7.0, Written(Path("a.png"), Path("a-panel.png"), None)),
    ]
    with Reporter() as reporter:
        for seconds, event in told:
            clock[0] += seconds
            reporter.show(event)
    assert "seconds: encode 9.0, denoise 10.5, decode 7.0\n" in capsys.readouterr().out


def test_every_dataset_of_an_experiment_has_its_own_bar() -> None:
    with Reporter() as reporter:
        seen = []
        for event in (Images(1, 4, 0), Images(3, 4, 0), Images(1, 4, 0), Images(2, 8, 1)):
            reporter.show(event)
            assert reporter.images is not None
            seen.append((id(reporter.images), reporter.images.n, reporter.images.total))
    assert seen[0][0] == seen[1][0] != seen[2][0] != seen[3][0]
    assert [each[1:] for each in seen] == [(1, 4), (3, 4), (1, 4), (2, 8)]
