"""`segmentation`: train a model on real and in-silico images, and judge it against annotators' label maps."""

from __future__ import annotations

from collections.abc import Iterator

from commands.dataset import Event
from commands.evaluation_requests import EvaluateRequest, TrainRequest
from sampler.option import check_options


def train(request: TrainRequest) -> Iterator[Event]:
    """Train a model. Raises InputError or SettingError for bad input, before the first step."""
    check_options(request)
    yield from ()


def evaluate(request: EvaluateRequest) -> Iterator[Event]:
    """Judge models. Raises InputError or SettingError for bad input, before anything is written."""
    check_options(request)
    yield from ()
