"""What images cost at the full SD-1.5 size, counted in FLOPs on the meta device: nothing is computed, nothing timed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model import StableDiffusion
from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.config import SD15
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from sampler.execution import Execution
from sampler.inputs import TransferInputs
from sampler.presets import PRESETS
from sampler.progress import Progress
from sampler.series import generate_series
from sampler.settings import Settings, Span
from sampler.tasks import GenerationTask

FORWARD = 803.3e9
"""FLOPs of one whole pass of the UNet at 512×512 px, time embedding and keys and values of the text included."""
ENCODE, DECODE = 1.12e12, 2.51e12
LABELS = np.zeros((512, 512), dtype=np.int64)


@dataclass(frozen=True)
class Cost:
    """In whole passes of the UNet, and of the VAE's encoder."""

    passes: float
    encodings: float


@pytest.fixture(scope="module")
def hollow() -> StableDiffusion:
    """SD-1.5 without any numbers."""
    unet, vae = build_empty(lambda: UNet(SD15.unet)), build_empty(lambda: VAE(SD15.vae))
    return StableDiffusion(unet, vae, build_empty(lambda: TextEncoder(SD15.text)), Tokenizer(), SD15, "hollow")


def inputs() -> TransferInputs:
    return TransferInputs(np.zeros((512, 512, 3), dtype=np.uint8), LABELS.copy(), LABELS.copy(), 2)


def cost(
    model: StableDiffusion, tasks: list[GenerationTask], settings: Settings, execution: Execution | None = None
) -> Cost:
    """Of all that comes before decoding, where the numbers would be needed."""
    counter = FlopCounterMode(display=False)
    denoised = 0
    with counter:
        for event in generate_series(model, tasks, settings, execution or Execution(batch=8)):
            assert isinstance(event, Progress)
            if event.phase == "denoise" and event.done == event.total:
                denoised += event.images
            if denoised == len(tasks):
                break
    by_module = counter.get_flop_counts()
    vae = sum(sum(by_module[name].values()) for name in by_module if name in ("Encoder", "VAE.encoder"))
    text = sum(by_module.get("TextEncoder", {}).values())
    return Cost((counter.get_total_flops() - vae - text) / FORWARD, vae / ENCODE)


def test_one_whole_pass_costs_what_performance_tables_say(hollow):
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        hollow.unet(torch.empty(1, 4, 64, 64), torch.empty(1, dtype=torch.int64), torch.empty(1, 77, 768))
    assert counter.get_total_flops() == pytest.approx(FORWARD, rel=1e-3)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        hollow.vae.decode(torch.empty(1, 4, 64, 64))
    assert counter.get_total_flops() == pytest.approx(DECODE, rel=5e-3)


@pytest.mark.slow
def test_one_pair_costs_at_most_190_passes_and_each_further_target_142(hollow):
    settings, first = PRESETS["winter"], inputs()
    one = cost(hollow, [GenerationTask(first, 0)], settings)
    assert one.passes <= 190
    assert one.encodings == pytest.approx(2, rel=0.01)
    two = cost(
        hollow, [GenerationTask(first, 0), GenerationTask(replace(first, target_labels=LABELS.copy()), 0)], settings
    )
    assert two.passes - one.passes <= 142
    assert two.encodings == pytest.approx(3, rel=0.01), "the origin once, each mask once"
    print(f"one pair {one.passes:.1f}, a further target {two.passes - one.passes:.1f}")


SHORT = Settings(
    steps=16,
    skip_steps=5,
    cross_attn_64=Span(2, 14),
    cross_attn_32=Span(2, 11),
    adain_range=Span(3, 16),
    structure_every=3,
    structure_until=6,
)


def test_a_further_origin_of_the_same_mask_costs_less_by_the_masks_inversion(hollow):
    first = inputs()
    other = TransferInputs(first.origin.copy(), LABELS.copy(), first.target_labels, 2)
    one, two = (cost(hollow, [GenerationTask(pair, 0) for pair in pairs], SHORT) for pairs in ([first], [first, other]))
    inversion = SHORT.steps - 1 - SHORT.start_step - SHORT.num_known_steps
    assert inversion == 8
    # The mask's features serve both, and each image makes its own keys and values from them.
    assert two.passes - one.passes == pytest.approx(one.passes - inversion, abs=0.1)
    assert two.encodings == pytest.approx(3, rel=0.01)
