"""Fields of the demonstration weights have no seams where windows begin and end: twenty fields, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

import model
from commands.places import DEMO_WEIGHTS, SMALL
from commands.recommended import read_recommended
from dataset.fields import gaussian_field
from imaging.images import read_image
from imaging.labels import read_label_set
from sampler.execution import Execution
from sampler.field_denoising import layout_of
from sampler.inputs import TransferInputs
from sampler.latent_windows import Layout
from sampler.presets import PRESETS, in_proportion
from sampler.series import Result, generate_series
from sampler.settings import Settings
from sampler.tasks import GenerationTask
from tests.sampler.seams import seam_auc

SIDE, FIELDS = 384, 20


def quick() -> Settings:
    """What the weights recommend, in fewer steps and smaller windows, which overlap as the default's."""
    settings = replace(PRESETS["winter"], **read_recommended(DEMO_WEIGHTS))
    shorter = {"steps": 12, **in_proportion(settings, {"steps": 12})}
    return replace(settings, **shorter, window=256)


def fields(settings: Settings) -> Iterator[np.ndarray]:
    """New images of twenty label maps of blobs, and of as many seeds."""
    loaded = model.load(str(DEMO_WEIGHTS), dtype=torch.float32, device=torch.device("cpu"))
    loaded.prepack()
    origin = read_image(SMALL / "ihc.png")
    (labels,) = read_label_set([SMALL / "ihc_mask.png"], None).maps
    for seed in range(FIELDS):
        target = (gaussian_field(np.random.default_rng(seed), SIDE, 40.0) > 0).astype(np.int64)
        task = GenerationTask(TransferInputs(origin, labels, target, 2), seed)
        events = generate_series(loaded, [task], settings, Execution())
        yield next(event for event in events if isinstance(event, Result)).image


@pytest.mark.slow
def test_borders_of_windows_differ_from_no_other_lines():
    settings = quick()
    layout = layout_of(settings, (SIDE, SIDE), 8)
    assert len(layout.windows) == 4
    auc = seam_auc(fields(settings), layout, 8)
    print(f"AUC {auc:.3f}")
    assert auc <= 0.55


@pytest.mark.slow
def test_seams_would_show(monkeypatch):
    """Where each position is taken from one window alone, borders are told from other lines."""

    def alone(layout: Layout, like: torch.Tensor) -> dict:
        owner = torch.zeros(layout.height, layout.width)
        for number, window in enumerate(layout.windows):
            window.of(owner).fill_(number)
        return {window: (window.of(owner) == number).to(like) for number, window in enumerate(layout.windows)}

    monkeypatch.setattr(Layout, "weights", alone)
    settings = quick()
    edges = Layout.of(SIDE // 8, SIDE // 8, 32, 16)
    auc = seam_auc(fields(settings), edges, 8)
    print(f"AUC {auc:.3f}")
    assert auc > 0.57


def test_the_measure_tells_fields_with_seams():
    layout, rng = Layout.of(48, 48, 32, 16), np.random.default_rng(0)
    smooth = [rng.normal(size=(384, 384, 3)) for _ in range(20)]
    assert 0.45 < seam_auc(smooth, layout, 8) < 0.55
    seamed = []
    for field in smooth:
        seamed.append(field.copy())
        seamed[-1][128:256] += 0.5
        seamed[-1][:, 128:256] += 0.5
    assert seam_auc(seamed, layout, 8) > 0.9
