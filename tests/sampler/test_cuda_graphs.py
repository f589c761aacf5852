"""What a GPU asks of the code, shown without one.

A CUDA graph bakes in every number that is not among its inputs. Tracing bakes in the same: work that is traced once and
replayed on other inputs gives the right result only if all that changes goes through the inputs. On the meta device,
which has shapes but no numbers, reading a value back to the host raises, and so does mixing devices.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode

from kernels import cross_image_attention, group_norm, masked_adain
from model import StableDiffusion
from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.vae import VAE
from sampler.cuda_graphs import GraphedUNet
from sampler.execution import Execution
from sampler.progress import Progress
from sampler.series import Result, generate_series
from sampler.text_to_image import text_to_image
from tests.conftest import TINY, build_tiny
from tests.sampler.cases import CASES, SHORT, tasks


class Traced:
    """Recorded work as a graph of PyTorch operations."""

    made = 0

    def __init__(self, work, inputs):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.graph = make_fx(work)(*self.inputs)
        self.outputs = [torch.full_like(tensor, torch.nan) for tensor in self.graph(*self.inputs)]
        Traced.made += 1

    def replay(self):
        for slot, tensor in zip(self.outputs, self.graph(*self.inputs), strict=True):
            slot.copy_(tensor)


def results(model, work, settings, execution):
    events = generate_series(model, work, settings, execution)
    return {event.index: event.latents for event in events if isinstance(event, Result)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["winter", "alaluf"])
def test_recorded_work_depends_on_nothing_but_its_inputs(name, monkeypatch):
    model, settings, work = build_tiny(torch.float64), replace(SHORT, **CASES[name]), tasks()[:1]
    eager = results(model, work, settings, Execution(batch=4))
    monkeypatch.setattr("sampler.conditioned_unet.with_cuda_graphs", lambda unet: GraphedUNet(unet, Traced))
    Traced.made = 0
    replayed = results(model, work, settings, Execution(batch=4, graphs=True))
    torch.testing.assert_close(replayed[0], eager[0], rtol=1e-6, atol=1e-6)
    if name == "winter":
        # Inversion with and without features (2); the origin's runs of 1, 3 and 2 steps, the last at one level (3);
        # both passes with the origin's tokens, at one level, and with the structure's, which are fewer (3); none (1).
        assert Traced.made == 9


def hollow_tiny(*, fused: bool) -> StableDiffusion:
    """The tiny model in half precision on the meta device."""
    unet, vae = build_empty(lambda: UNet(TINY.unet)), build_empty(lambda: VAE(TINY.vae))
    text = build_empty(lambda: TextEncoder(TINY.text))
    for network in (unet, vae, text):
        network.half().requires_grad_(False)
    if fused:
        unet.fuse()
    return StableDiffusion(unet, vae, text, Tokenizer(), TINY, "hollow")


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("winter", True),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("winter", False), ("ddim", True), ("alaluf", True))
        ),
    ],
)
def test_no_step_reads_a_value_back_or_mixes_devices(name, fused):
    work = [tasks()[0], tasks()[2]]
    for event in generate_series(hollow_tiny(fused=fused), work, replace(SHORT, **CASES[name]), Execution(batch=2)):
        assert isinstance(event, Progress)
        if event.phase == "denoise" and event.done == event.total:
            return
    raise AssertionError("the last step was not reached")


class NothingFromTheHost(TorchFunctionMode):
    """Refuses tensors made of Python numbers: on a GPU a copy that each call would wait for, and no graph records."""

    def __torch_function__(self, function, types, arguments=(), keywords=None):
        assert function not in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
        return function(*arguments, **(keywords or {}))


@pytest.mark.parametrize("contrast", [1.0, 1.67])
def test_attention_and_statistics_make_no_tensor_of_numbers_on_the_host(contrast):
    q, z = torch.ones(1, 2, 16, 8, device="meta"), torch.ones(1, 4, 8, 8, device="meta")
    labels, weight = torch.zeros(8, 8, dtype=torch.int64, device="meta"), torch.ones(4, device="meta")
    with NothingFromTheHost():
        cross_image_attention(q, q, q, contrast=contrast)
        masked_adain(z, z, labels, labels, classes=(0, 1), num_classes=2)
        group_norm(z, 2, weight, weight, eps=1e-5, silu=True)
        for make in (torch.tensor, torch.as_tensor, q.new_tensor):
            with pytest.raises(AssertionError):
                make(0.5)


def test_text_to_image_reads_nothing_back_before_its_end():
    run = text_to_image(hollow_tiny(fused=True), "a", seed=0, size=(64, 64), count=4, scale=7.5, execution=Execution())
    assert [next(run).done for _ in range(4)] == [1, 2, 3, 4]


def test_a_value_read_back_and_a_mixture_of_devices_would_show():
    far = torch.ones(2, device="meta")
    for mistake in (lambda: far[0].item(), lambda: far.nonzero(), lambda: far + torch.ones(2), lambda: far.cpu()):
        with pytest.raises((RuntimeError, NotImplementedError)):
            mistake()
