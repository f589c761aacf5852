"""The full-size architecture (860 M parameters in the UNet): written by diffusers, loaded by us, compared.

Takes 9 GB of disk, 11 GB of memory and some minutes; `make parity`.
"""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor

import model
from model.config import SD15
from tests.model.checkpoints import PARTS, expected
from tests.parity.make_full_size import full_size_modules, write_full_size

pytestmark = pytest.mark.parity

# Two float32 evaluations of one network differ by a rounding in each of its about 100 layers.
BOUND = 100 * torch.finfo(torch.float32).eps


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Their modules, and the weights in both layouts."""
    directory = tmp_path_factory.mktemp("full-size")
    theirs = full_size_modules()
    folder, single = write_full_size(directory, theirs)
    yield theirs, folder, single
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def loaded(full):
    """The folder, loaded by us."""
    return model.load(full[1])


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    error = ((ours - theirs).double().norm() / theirs.double().norm()).item()
    print(f"relative error {error:.2e}")
    assert error <= BOUND, f"relative error {error:.2e}"
    assert ours.std() > 1e-3 * ours.abs().max(), "the output is constant: this comparison would prove nothing"


def assert_holds(ours, theirs) -> None:
    assert ours.config == SD15
    counts = {}
    for part in PARTS:
        tensors, wanted = getattr(ours, part).state_dict(), expected(theirs, part)
        assert tensors.keys() == wanted.keys()
        assert not [key for key in tensors if not torch.equal(tensors[key], wanted[key])]
        counts[part] = len(tensors)
    assert counts == {"unet": 686, "vae": 248, "text_encoder": 196}


def test_single_file_is_loaded(full):
    # First, so that its weights are gone before those of the folder come.
    assert_holds(model.load(full[2]), full[0])


def test_folder_is_loaded(full, loaded):
    assert_holds(loaded, full[0])


def test_unet_agrees_with_diffusers(full, loaded):
    z, context, t = randn(1, 1, 4, 64, 64), randn(2, 1, 77, 768), torch.tensor([501])
    with torch.no_grad():
        assert_same(loaded.unet(z, t, context), full[0].unet(z, t, context).sample)


def test_vae_agrees_with_diffusers(full, loaded):
    image, latents = randn(3, 1, 3, 256, 256).clamp(-1, 1), randn(4, 1, 4, 32, 32)
    with torch.no_grad():
        assert_same(loaded.vae.encode(image), full[0].vae.encode(image).latent_dist.mode() * 0.18215)
        assert_same(loaded.vae.decode(latents), full[0].vae.decode(latents / 0.18215).sample)


def test_text_encoder_agrees_with_transformers(full, loaded):
    ids = loaded.tokenizer(["an immunohistochemistry image of colon tissue", ""])
    with torch.no_grad():
        assert_same(loaded.text_encoder(ids), full[0].text_encoder(ids).last_hidden_state)
