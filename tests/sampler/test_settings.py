from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sampler.errors import SettingError
from sampler.presets import PRESETS, choose
from sampler.settings import Settings, Span


def test_the_winter_preset_swaps_and_matches_in_the_papers_ranges():
    settings = PRESETS["winter"]
    assert [j for j in range(100) if 0 in settings.swapped_levels(j)] == list(range(10, 90))
    assert [j for j in range(100) if 1 in settings.swapped_levels(j)] == list(range(10, 70))
    assert [j for j in range(100) if settings.adain_classes(j, 2)] == list(range(20, 100))
    assert [settings.adain_classes(j, 3) for j in range(20, 26)] == [(2,), (0,), (1,), (2,), (0,), (1,)]
    assert (settings.start_step, settings.num_denoising_steps) == (32, 68)
    assert replace(settings, inversion="ddim").start_step == 0


def test_the_alaluf_preset_lags_one_step_and_takes_structure_at_11_to_36():
    settings = PRESETS["alaluf"]
    assert [j for j in range(settings.num_denoising_steps) if 0 in settings.swapped_levels(j)] == list(range(11, 68))
    swapped = [j for j in range(settings.num_denoising_steps) if settings.swapped_levels(j)]
    assert [j for j in swapped if settings.swaps_in_structure(j)] == [11, 16, 21, 26, 31, 36]
    assert settings.adain_classes(30, 3) == (0,)


def test_alpha_falls_linearly_over_all_executed_steps_and_acts_between_the_ranges_ends():
    settings = Settings(inversion="ddim")
    expected = np.linspace(3.5, 1.75, 100)
    acting = {j: settings.swap_guidance(j) for j in range(100) if settings.swap_guidance(j) is not None}
    assert sorted(acting) == list(range(10, 91))
    np.testing.assert_allclose(list(acting.values()), expected[10:91], rtol=1e-12)
    assert replace(settings, guidance=1.5).swap_guidance(90) == pytest.approx(1.5 - 0.5 * 90 / 99)
    assert replace(settings, cross_attn_64=None, cross_attn_32=None).swap_guidance(20) is None


def test_steps_before_the_first_change_are_known_and_need_no_computing():
    winter = PRESETS["winter"]
    assert winter.num_known_steps == 10
    assert PRESETS["alaluf"].num_known_steps == 11
    assert replace(winter, adain_range=Span(3, 100)).num_known_steps == 3
    assert replace(winter, cross_attn_64=None, cross_attn_32=None, adain="none").num_known_steps == 67, (
        "never the last step"
    )
    for changed in ({"fresh_noise": 0.1}, {"inversion_guidance": 3.5}, {"inversion": "ddim"}):
        assert replace(winter, **changed).num_known_steps == 0
    assert list(winter.structure_features()) == [42, 47, 52, 57, 62, 67]


def test_class_intensities_run_from_a_tenth_to_a_half():
    assert Settings().class_intensities(2) == pytest.approx((0.1, 0.5))
    assert Settings().class_intensities(3) == pytest.approx((0.1, 0.3, 0.5))
    assert Settings().class_intensities(1) == pytest.approx((0.1,))
    with pytest.raises(SettingError, match="2 values.*3 classes"):
        Settings(class_values=(0.1, 0.2)).class_intensities(3)


@pytest.mark.parametrize(
    ("text", "why"), [("10:10", "empty"), ("20:10", "reversed"), ("10", "A:B"), ("a:b", "A:B"), ("-1:5", "A:B")]
)
def test_a_range_that_makes_no_sense_is_refused(text, why):
    with pytest.raises(ValueError, match=why):
        Span.parse(text)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 0),
        ("steps", 1000),
        ("skip_steps", 100),
        ("skip_steps", -1),
        ("inversion", "null-text"),
        ("adain", "some"),
        ("fresh_noise", 1.5),
        ("mask_noise", -1.0),
        ("mask_noise", float("nan")),
        ("contrast", 0.0),
        ("contrast", float("inf")),
        ("guidance", float("nan")),
        ("inversion_guidance", float("inf")),
        ("structure_every", -5),
        ("class_values", (0.1, 1.5)),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_option(field, value):
    with pytest.raises(SettingError) as caught:
        choose("winter", {field: value})
    assert caught.value.field == field
    assert str(caught.value).startswith(f"`{field}` ")
