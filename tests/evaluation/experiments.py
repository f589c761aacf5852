"""Small annotated worlds, and running experiments on them with a model that learns in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands.dataset import Line
from commands.experiment import run
from commands.experiment_requests import ExperimentRequest
from commands.notes import Note
from dataset.procedural import World, draw_world
from evaluation.experiment.segmenter import Segmenter
from tests.evaluation.plain_segmenter import Plain

METHOD = "--steps 4 --skip-steps 1 --cross-attn-64 1:3 --cross-attn-32 1:3 --adain-range 1:3"


def world(root: Path, slides: tuple[int, int, int] = (8, 3, 4), **more: Any) -> World:
    """A drawn world of small patches."""
    return draw_world(root, slides=slides, side=64, **more)


def request(drawn: World, output: Path, **more: Any) -> ExperimentRequest:
    """A quick experiment on ``drawn``, without the method unless arms are asked for that want it."""
    usual: dict[str, Any] = {
        "input": drawn.annotated,
        "test": drawn.test,
        "output": output,
        "classes": "epithelium=0,stroma=1",
        "arms": "copies,collage",
        "main": "collage@2:copies@2",
        "rounds": "1,2",
        "shares": "0.25,1",
        "draws": 2,
        "seeds": 2,
        "steps": 30,
        "learning_rate": 0.5,
        "threads": 1,
        "bootstrap": 200,
        "any_headroom": True,
        "method": METHOD,
        "dtype": "fp32",
        "device": "cpu",
    }
    return ExperimentRequest(**{**usual, **more})


def told(asked: ExperimentRequest, segmenter: Segmenter | None = None) -> Sequence[str]:
    """Run it; the lines and notes that a person would see."""
    events = list(run(asked, Plain() if segmenter is None else segmenter))
    return [event.text for event in events if isinstance(event, Line | Note)]
