"""Series of images: each is what it is alone, however they are batched, and what they share is computed once."""

from __future__ import annotations

import tempfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from sampler.execution import Execution
from sampler.feature_cache import CacheBudget
from sampler.tasks import GenerationTask, plan_batches
from tests.conftest import build_tiny
from tests.sampler.cases import CASES, EVERYWHERE, SHORT, labels, run, tasks


@pytest.fixture(scope="module")
def exact():
    """The tiny model in float64, where rounding hides nothing."""
    return build_tiny(torch.float64)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("fresh noise", "global") else []) for name in CASES],
)
def test_images_of_a_series_are_what_they_are_alone(name, exact):
    settings, work = replace(SHORT, **CASES[name]), tasks()
    alone = [run(exact, [task], settings, Execution())[0] for task in work]
    for execution in (
        Execution(batch=3),
        Execution(batch=7, budget=EVERYWHERE),
        Execution(batch=2, budget=EVERYWHERE),
    ):
        together = run(exact, work, settings, execution)
        for index, single in enumerate(alone):
            difference = (together[index].latents - single.latents).norm() / single.latents.norm()
            assert difference < 1e-6, f"task {index} of {execution}: {difference:.1e}"  # latents leave as float32
            assert np.abs(together[index].image.astype(int) - single.image).max() <= 1
    spread = [
        (a.latents - b.latents).norm()
        for a in alone
        for b in alone
        if a is not b and a.latents.shape == b.latents.shape
    ]
    assert min(spread) > 1e-2, "two tasks have the same image: this comparison would prove nothing"


@pytest.mark.parametrize("name", ["winter", "alaluf"])
@pytest.mark.parametrize("place", ["device", "host", "disk", "some"])
def test_where_an_origin_is_kept_changes_its_images_nowhere(name, place, exact, tmp_path, monkeypatch):
    settings, work = replace(SHORT, **CASES[name]), tasks()[:1] * 3
    sizes = {"device": 300_000} if place == "some" else {place: 10**9}
    budget = CacheBudget(**sizes)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    plain = run(exact, work[:1], settings, Execution())[0]
    for result in run(exact, work, settings, Execution(batch=1, budget=budget)).values():
        torch.testing.assert_close(result.latents, plain.latents, rtol=1e-6, atol=1e-6)
    assert list(tmp_path.iterdir()) == [], "files are left behind"


def test_a_series_in_single_precision_rounds_as_single_images_do(tiny, exact):
    """Against float64, a batch's error is that of images made alone, within a factor of two."""
    work = tasks()[:1] + tasks()[2:3]
    truth = run(exact, work, SHORT, Execution())
    alone, together = (run(tiny, work, SHORT, Execution(batch=size)) for size in (1, 2))
    for index in truth:
        errors = [(r[index].latents - truth[index].latents).norm() for r in (alone, together)]
        assert errors[1] <= 2 * errors[0]


def count_features(model, work, settings, execution) -> int:
    """Images whose decoder ran for their features alone, in one run."""
    seen = []

    class Counting(type(model.unet)):
        def features(self, z, cond, levels):
            seen.append(len(z))
            return super().features(z, cond, levels)

    unet = Counting(model.config.unet)
    unet.load_state_dict(model.unet.state_dict())
    run(replace(model, unet=unet.requires_grad_(False)), work, settings, execution)
    return sum(seen)


def test_an_origin_that_is_kept_is_computed_once_for_all_its_targets(tiny):
    first = tasks()[0].inputs
    work = [GenerationTask(replace(first, target_labels=labels(seed, 64, 64)), 0) for seed in range(3)]
    steps = len(SHORT.origin_features())
    assert steps == 6
    token_bytes = 4 * 3 * (8 * 128 + 16 * 32)
    budgets = {0: 3 * steps, 10**9: steps, 2 * token_bytes: 2 + 3 * (steps - 2)}
    for size, expected in budgets.items():
        counted = count_features(tiny, work, SHORT, Execution(batch=1, budget=CacheBudget(device=size)))
        assert counted == expected, f"budget {size}"
    assert count_features(tiny, work, SHORT, Execution(batch=3)) == steps, "one batch shares without keeping"
    alaluf = replace(SHORT, redenoise=True)
    assert count_features(tiny, work[:1], alaluf, Execution(budget=EVERYWHERE)) == 0, "denoising again came by it"


def test_batches_hold_one_shape_and_keep_an_origins_targets_together():
    work = tasks()
    batches = plan_batches(work, SHORT, 2)
    assert sorted(index for batch in batches for index in batch) == list(range(7))
    for batch in batches:
        assert len({work[index].shapes for index in batch}) == 1
    assert batches == [[0, 2], [3, 6], [4, 5], [1]]
    deterministic = plan_batches(work, replace(SHORT, inversion="ddim"), 4)
    assert deterministic[0] == [0, 2, 4, 5], "without noise an origin is the same for every seed"
