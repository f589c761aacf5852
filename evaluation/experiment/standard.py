"""The segmentation model of `segmentation train` as an experiment's."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from evaluation.experiment.segmenter import FieldDice, Stepped, Trained
from evaluation.samples import Sample
from evaluation.segmentation import training
from evaluation.segmentation.course import Step
from evaluation.segmentation.evaluation import load_model, predictions
from evaluation.segmentation.record import MODEL
from evaluation.segmentation.settings import TrainingSettings
from imaging.classes import ClassMap


@dataclass(frozen=True)
class Standard:
    """Trains as `segmentation train`, and keeps the best validation's model; ``workers`` processes read images."""

    device: str
    workers: int

    def train(
        self,
        real: Sequence[Sample],
        synthetic: Sequence[Sample],
        validation: Sequence[Sample],
        classes: ClassMap,
        options: Mapping[str, Any],
        folder: Path,
    ) -> Generator[Stepped | None, None, Trained]:
        """As `Segmenter`. Label maps of in-silico images are `Sample.trusted`, whatever an arm has put there."""
        known = {each.name for each in fields(TrainingSettings)}
        settings = TrainingSettings(
            **{name: value for name, value in options.items() if name in known},
            trusted=True,
            device=self.device,
            workers=self.workers,
        )
        for event in training.train(real, synthetic, validation, classes, settings, folder):
            if isinstance(event, training.Trained):
                return Trained(folder / MODEL, event.record.steps, event.record.dice)
            yield Stepped(event.done, event.total) if isinstance(event, Step) else None
        raise AssertionError("a training ends with its record")

    def judge(
        self, model: Path, samples: Sequence[Sample], classes: ClassMap, options: Mapping[str, Any]
    ) -> Iterator[FieldDice]:
        """As `Segmenter`. That test images are none that the model knows was checked for the experiment as a whole."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        with torch.inference_mode():
            for field in predictions(load_model(model, device), samples, classes, batch_size=options["batch_size"]):
                for each in field.scores:
                    yield FieldDice(each.sample, each.group, each.annotator, each.class_name, each.dice)
