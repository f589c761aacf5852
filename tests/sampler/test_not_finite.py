"""Values that leave the number type's range: told by step, with what to try, and no black image."""

from __future__ import annotations

import pytest
import torch

from sampler.errors import NotFiniteError
from sampler.execution import Execution
from sampler.series import check_finite, generate_series
from sampler.text_to_image import text_to_image
from tests.conftest import build_tiny
from tests.sampler.cases import SHORT, tasks


def test_a_network_that_overflows_is_told_by_its_first_step():
    model = build_tiny(torch.float32)
    model.unet.conv_out.bias.data.fill_(3e38)
    events = []
    with pytest.raises(NotFiniteError, match=r"not finite from denoising step \d+ of \d+ on"):
        events.extend(generate_series(model, tasks()[:1], SHORT, Execution()))
    sampled = text_to_image(model, "a", seed=0, size=(64, 64), count=3, scale=7.5, execution=Execution())
    with pytest.raises(NotFiniteError, match="not finite from denoising step 1 of 3"):
        list(sampled)


def test_an_autoencoder_that_overflows_is_told_before_and_after():
    model = build_tiny(torch.float32)
    model.vae.decoder.conv_out.bias.data.fill_(float("inf"))
    with pytest.raises(NotFiniteError, match="not finite from decoding"):
        list(generate_series(model, tasks()[:1], SHORT, Execution()))
    model.vae.quant_conv.bias.data.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="not finite from encoding"):
        list(generate_series(model, tasks()[:1], SHORT, Execution()))


@pytest.mark.parametrize(
    ("dtype", "advice"),
    [(torch.float16, "bf16 or fp32"), (torch.bfloat16, "try `dtype` fp32"), (torch.float32, "weights")],
)
def test_the_advice_is_a_wider_type_where_there_is_one(dtype, advice):
    flags = [torch.tensor(True), torch.tensor(True), torch.tensor(False), torch.tensor(False)]
    with pytest.raises(NotFiniteError, match="step 2 of 3") as caught:
        check_finite(flags, dtype)
    told = str(caught.value)
    assert told.startswith("values are not finite from denoising step 2 of 3 on, and nothing was written: try ")
    assert advice in told
    check_finite(flags[:2], dtype)
