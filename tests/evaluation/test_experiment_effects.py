"""Effects that were planted are found by the whole command, and none where none was."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset.procedural import World
from evaluation.experiment.segmenter import FieldDice, Stepped, Trained
from evaluation.samples import Sample
from imaging.classes import ClassMap
from tests.evaluation.experiments import request, told, world


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A world of eight slides. Not to be changed."""
    return world(tmp_path_factory.mktemp("world"))


@dataclass
class Planted:
    """A model that needs no images: its Dice is a base, an effect of the arm, and chance of subset and slide."""

    effect: float
    key: int

    def train(
        self,
        real: Sequence[Sample],
        synthetic: Sequence[Sample],
        validation: Sequence[Sample],
        classes: ClassMap,
        options: Mapping[str, Any],
        folder: Path,
    ) -> Generator[Stepped | None, None, Trained]:
        """Remember what decides the Dice."""
        folder.mkdir(parents=True, exist_ok=True)
        of_collages = any("collage" in each.image.parts for each in synthetic)
        arm = "collage" if of_collages else "copies" if synthetic else "real"
        model = folder / "model.json"
        model.write_text(json.dumps([arm, sorted({each.group for each in real}), options["seed"], len(real)]))
        yield None
        return Trained(model, options["steps"], 0.5)

    def judge(
        self, model: Path, samples: Sequence[Sample], classes: ClassMap, options: Mapping[str, Any]
    ) -> Iterator[FieldDice]:
        """The planted numbers."""
        arm, groups, seed, count = json.loads(model.read_text())

        def chance(deviation: float, *what: object) -> float:
            number = abs(hash_of((self.key, *what)))
            return deviation * float(np.random.default_rng(number).standard_normal())

        base = 0.6 + 0.02 * count + chance(0.03, groups) + chance(0.01, arm, groups, seed)
        base += (arm == "collage") * (self.effect + chance(0.01, "interaction", groups))
        for each in samples:
            own = chance(0.05, each.group) + (arm == "collage") * chance(0.02, "slide", each.group)
            for annotator, _ in each.masks:
                for name in classes.names:
                    yield FieldDice(each.name, each.group, annotator, name, min(1.0, max(0.0, base + own)))


def hash_of(content: object) -> int:
    """The same in every process."""
    import hashlib

    return int(hashlib.sha256(repr(content).encode()).hexdigest()[:15], 16)


@pytest.mark.parametrize(("effect", "word"), [(0.12, "helps"), (-0.12, "hurts")])
def test_a_planted_effect_is_found_by_the_whole_command(drawn: World, tmp_path: Path, effect: float, word: str) -> None:
    words = []
    for key in range(4):
        asked = request(drawn, tmp_path / str(key), draws=4)
        told(asked, Planted(effect, key))
        words.append(json.loads((asked.output / "verdict.json").read_text())["verdict"])
    assert words.count(word) >= 3
    assert set(words) <= {word, "cannot tell"}


def test_no_effect_is_not_called_one_by_the_whole_command(drawn: World, tmp_path: Path) -> None:
    words = []
    for key in range(4):
        asked = request(drawn, tmp_path / str(key), draws=4)
        lines = told(asked, Planted(0.0, key))
        words.append(json.loads((asked.output / "verdict.json").read_text())["verdict"])
        verdict = next(line for line in lines if line.startswith("verdict"))
        assert words[-1] != "cannot tell" or "would tell a difference of 0.02" in verdict or "takes both" in verdict
    assert words.count("cannot tell") >= 3
