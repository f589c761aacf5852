"""The method on CUDA tensors that are fake: real code, shapes and devices, no numbers and no GPU.

PyTorch's CUDA build is enough. What needs a value of the GPU's raises, what moves data between host and device is
counted, and Triton's kernels are stopped at their launch, where their arguments are looked at.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree

from kernels import adain_features, cross_image_attention, geglu, group_norm, masked_adain
from model import StableDiffusion
from model.checkpoint.tensors import build_empty
from model.clip import TextEncoder
from model.config import ModelConfig, TextConfig, UNetConfig, VAEConfig
from model.tokenizer import Tokenizer
from model.unet import UNet
from model.unet_blocks import Layer
from model.vae import VAE
from sampler.cuda_graphs import GraphedUNet
from sampler.execution import Execution
from sampler.progress import Progress
from sampler.self_segmentation import AttentionMap, Foreground
from sampler.series import generate_series
from sampler.tasks import GenerationTask
from sampler.text_to_image import text_to_image
from tests.sampler.cases import CASES, FOUND, SHORT, inputs, tasks

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="fake CUDA tensors need PyTorch's CUDA build")

# Heads wide enough for the kernels.
CONFIG = ModelConfig(
    unet=UNetConfig(block_out_channels=(32, 64, 64, 64), num_heads=2, cross_attention_dim=12, groups=8),
    vae=VAEConfig(block_out_channels=(8, 8, 16, 16), groups=4),
    text=TextConfig(width=12, mlp_width=24, layers=2, num_heads=2),
)
KERNEL_TYPES = (torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.uint8, torch.int32, torch.int64)


def fake_model(config: ModelConfig, dtype: torch.dtype) -> StableDiffusion:
    """A model as it lies on a GPU. Inside a `FakeGPU`."""
    parts = [build_empty(lambda: UNet(config.unet)), build_empty(lambda: VAE(config.vae))]
    parts.append(build_empty(lambda: TextEncoder(config.text)))
    for part in parts:
        fake = {name: torch.empty(t.shape, dtype=dtype, device="cuda") for name, t in part.state_dict().items()}
        laid_out = {n: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t for n, t in fake.items()}
        part.load_state_dict(laid_out, assign=True)
        part.eval().requires_grad_(False)
    unet, vae, text = parts
    unet.fuse()
    return StableDiffusion(unet, vae, text, Tokenizer(), config, "fake")


class FakeGPU(FakeTensorMode):
    """CUDA tensors are fake, those of the host are as always; counts what crosses between them.

    What reads a value raises by itself, since fake tensors have none.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.crossings: list[str] = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        leaves = pytree.tree_leaves((arguments, keywords))
        given = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        on_gpu = any(isinstance(leaf, torch.device) and leaf.type == "cuda" for leaf in leaves)
        if not on_gpu and not any(isinstance(t, FakeTensor) for t in given):
            return function(*arguments, **keywords)
        arguments, keywords = pytree.tree_map_only(Tensor, self._faked, (arguments, keywords))
        result = super().__torch_dispatch__(function, types, arguments, keywords)
        made = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor)]
        # Numbers of the host ride along as tensors without dimensions: those cost nothing.
        kinds = {t.device.type for t in given if t.ndim > 0} | {t.device.type for t in made}
        if len(kinds) > 1:
            self.crossings.append(f"{function}: {[(t.device.type, list(t.shape)) for t in (*given, *made)]}")
        return result

    def _faked(self, tensor: Tensor) -> Tensor:
        return tensor if isinstance(tensor, FakeTensor) else self.from_tensor(tensor)


class Launches:
    """Stands for a GPU that Triton's kernels are launched on: looks at what they are given, computes nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> None:
        from triton.runtime.jit import JITFunction

        self.names: set[str] = set()
        properties = SimpleNamespace(multi_processor_count=132)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device=None: properties)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())

        def run(kernel, *arguments, grid, warmup, **options):
            self._look(kernel.fn.__name__, arguments, grid)

        monkeypatch.setattr(JITFunction, "run", run)

    def _look(self, name, arguments, grid):
        self.names.add(name)
        width, height, depth = (*grid, 1, 1)[:3]
        assert 1 <= width < 2**31, (name, grid)
        assert 1 <= height < 2**16, (name, grid)
        assert 1 <= depth < 2**16, (name, grid)
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        assert tensors, name
        for t in tensors:
            assert t.device == torch.device("cuda", 0), (name, t.device)
            assert t.dtype in KERNEL_TYPES, (name, t.dtype)
            # Images, heads and programs are reached by 64-bit offsets, what lies within one by 32-bit ones.
            inner = sum((size - 1) * abs(stride) for size, stride in zip(t.shape[2:], t.stride()[2:], strict=True))
            assert inner < 2**31, (name, t.shape, t.stride())
        assert all(-(2**31) <= a < 2**31 for a in arguments if isinstance(a, int)), (name, arguments)


def events(model, settings, execution, work=None):
    """Everything up to and without the first pixels, which nobody can read."""
    for event in generate_series(model, work or [tasks()[0], tasks()[2]], settings, execution):
        assert isinstance(event, Progress)
        yield event
        if event.phase == "denoise" and event.done == event.total:
            return
    raise AssertionError("the last step was not reached")


QUICK = {("torch", "restricted, features"), ("triton", "winter")}
WAYS = [
    pytest.param(impl, name, marks=() if (impl, name) in QUICK else pytest.mark.slow)
    for impl in ("torch", "triton")
    for name in CASES
]


def follow(gpu, model, settings, execution, work=None):
    """Denoise to the last step. From the first step on, nothing may cross between host and GPU."""
    within = 0
    for event in events(model, settings, execution, work):
        if event.phase == "denoise" and event.done > 1:
            assert gpu.crossings[within:] == []
        within = len(gpu.crossings)


@pytest.mark.parametrize(("impl", "name"), WAYS)
def test_no_step_waits_for_the_gpu_or_mixes_devices(impl, name, monkeypatch):
    launches = Launches(monkeypatch)
    dtype = torch.float16 if impl == "triton" or name == "alaluf" else torch.bfloat16
    with FakeGPU() as gpu:
        follow(gpu, fake_model(CONFIG, dtype), replace(SHORT, **CASES[name]), Execution(impl=impl, batch=2))
    assert ({"attention_kernel", "masked_adain_kernel"} <= launches.names) == (impl == "triton")


def test_no_step_waits_where_the_method_finds_its_foreground(monkeypatch):
    """Which clusters are foreground is for the host to say, once for each image, before the first step: here it has
    been said. From then on nothing waits."""
    seen = []

    def said(pipeline, trajectory, image):
        for layer, tokens in trajectory.seen.items():
            q, k = pipeline.model.unet.queries_keys(layer, tokens, pipeline.text.conditioning)
            rows = AttentionMap(q[0], k[0], torch.float32).rows(slice(0, 5))
            assert rows.device.type == "cuda"
            seen.append((image, layer, *rows.shape))
        size = trajectory.latents.shape[-2:]
        return Foreground(torch.ones(size, dtype=torch.bool, device="cuda"), 9, ((0.5,),), 0.1)

    monkeypatch.setattr("sampler.prepare.Pipeline.foreground", said)
    monkeypatch.setattr(Foreground, "without", lambda found, ignored: replace(found, mask=found.mask & ~ignored))
    first, _, other, *_ = (replace(task, inputs=replace(task.inputs, origin_labels=None)) for task in tasks())
    with FakeGPU() as gpu:
        follow(gpu, fake_model(CONFIG, torch.float16), FOUND, Execution(batch=2), [first, other])
    text, own = Layer(1, 2, text=True), Layer(0, 2)
    structures = [("structure", own, 5, 64), ("structure", text, 5, 77)]
    assert seen == [("origin", own, 5, 128), ("origin", text, 5, 77), *structures, *structures]


class Called:
    """Stands for a recorded graph: what it was made of is called again where a graph is replayed."""

    replayed = 0

    def __init__(self, work, inputs):
        self.inputs = [tensor.clone() for tensor in inputs]
        self.outputs = list(work(*self.inputs))
        self._work = work

    def replay(self):
        Called.replayed += 1
        for slot, made in zip(self.outputs, self._work(*self.inputs), strict=True):
            assert slot.shape == made.shape
            assert slot.device == made.device
            slot.copy_(made)


@pytest.mark.parametrize("impl", ["torch", pytest.param("triton", marks=pytest.mark.slow)])
def test_graphs_are_fed_on_the_gpu(impl, monkeypatch):
    Launches(monkeypatch)
    monkeypatch.setattr("sampler.conditioned_unet.with_cuda_graphs", lambda unet: GraphedUNet(unet, Called))
    Called.replayed = 0
    with FakeGPU() as gpu:
        follow(gpu, fake_model(CONFIG, torch.float16), SHORT, Execution(impl=impl, batch=2, graphs=True))
    assert Called.replayed > 10


@pytest.mark.parametrize("side", [64, 128])
def test_kernels_reach_all_of_the_largest_images(side, monkeypatch):
    launches, batch, positions = Launches(monkeypatch), 16, side * side
    with FakeGPU():
        # As the projections lie: q, k and v of all heads side by side.
        together = torch.empty(batch, positions, 3, 8, 40, dtype=torch.float16, device="cuda")
        q, k, v = (part.transpose(1, 2) for part in together.unbind(2))
        labels = torch.zeros(positions, dtype=torch.int64, device="cuda")
        arguments = {"contrast": 1.67, "query_labels": labels, "key_labels": labels, "num_classes": 8, "impl": "triton"}
        result = cross_image_attention(q, k, v, **arguments)
        adain_features(result, labels, impl="triton")
        grid = torch.empty(batch, 320, side, side, dtype=torch.float16, device="cuda")
        for layout in (torch.contiguous_format, torch.channels_last):
            weight = torch.empty(320, dtype=torch.float16, device="cuda")
            group_norm(grid.to(memory_format=layout), 32, weight, weight, eps=1e-5, silu=True, impl="triton")
        geglu(torch.empty(batch, positions, 2560, dtype=torch.float16, device="cuda"), impl="triton")
        z, plan = torch.empty(batch, 4, side, side, device="cuda"), labels.view(side, side)
        masked_adain(z, z, plan, plan, classes=range(8), num_classes=8, impl="triton")
    assert len(launches.names) >= 5


@pytest.mark.parametrize("name", ["winter", "alaluf"])
def test_a_fields_steps_take_their_noise_from_the_host_and_wait_for_nothing_else(name, monkeypatch):
    Launches(monkeypatch)
    settings = replace(SHORT, **CASES[name], window=128, window_overlap=64)
    field = GenerationTask(inputs(1, 192, 192), 0)
    with FakeGPU() as gpu:
        within = 0
        for event in events(fake_model(CONFIG, torch.float16), settings, Execution(impl="triton", batch=3), [field]):
            if event.phase == "denoise" and event.done > 1:
                copies = gpu.crossings[within:]
                noise = "[('cpu', [4, 24, 24]), ('cuda', [4, 24, 24])]"
                assert all(copy.startswith("aten.") and copy.endswith(noise) for copy in copies), copies
                assert len(copies) <= 4  # two, each seen twice
            within = len(gpu.crossings)


def test_text_to_image_waits_for_nothing_before_its_end(monkeypatch):
    Launches(monkeypatch)
    with FakeGPU() as gpu:
        execution = Execution(impl="triton")
        model = fake_model(CONFIG, torch.float16)
        run = text_to_image(model, "a", seed=0, size=(64, 64), count=4, scale=7.5, execution=execution)
        next(run)
        begun = len(gpu.crossings)
        assert [next(run).done for _ in range(3)] == [2, 3, 4]
        assert gpu.crossings[begun:] == []


def test_a_mistake_would_show(monkeypatch):
    launches = Launches(monkeypatch)
    with FakeGPU() as gpu:
        far = torch.ones(2, device="cuda")
        for mistake in (lambda: far[0].item(), lambda: far.nonzero(), lambda: bool(far.any())):
            with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
                mistake()
        with pytest.raises(RuntimeError, match="device"):
            far + torch.ones(2)
        for crossing in (lambda: far.cpu(), lambda: torch.ones(2).to("cuda"), lambda: far.copy_(torch.ones(2))):
            gpu.crossings.clear()
            crossing()
            assert gpu.crossings
        q = torch.empty(1, 2, 64, 40, dtype=torch.float16, device="cuda")
        with pytest.raises(AssertionError):
            launches._look("a kernel", (q.expand(1, 2, 64, 40), 2**31), (1,))
        with pytest.raises(AssertionError):
            launches._look("a kernel", (q,), (1, 2**16))
        with pytest.raises(AssertionError):
            launches._look("a kernel", (torch.empty_strided((1, 1, 2, 1), (1, 1, 2**31, 1), device="cuda"),), (1,))
