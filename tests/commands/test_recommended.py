"""`recommended.json`: every field checked, and what is wrong named with the file."""

from __future__ import annotations

import json
import random

import pytest

from commands.recommended import read_recommended
from imaging.errors import InputError
from model.errors import CheckpointError
from sampler.presets import PRESETS, choose, in_proportion
from sampler.settings import Settings, Span
from tests.fuzz.mutations import VALUES, json_bytes, mutate_json, seeds

WHOLE = {
    "prompt": "tissue",
    "steps": 50,
    "skip_steps": 16,
    "inversion": "ddpm",
    "inversion_guidance": 1,
    "cross_attn_64": "5:45",
    "cross_attn_32": "none",
    "adain_range": "10:50",
    "adain": "all",
    "guidance": 3.5,
    "contrast": 1.67,
    "structure_every": 5,
    "structure_until": 20,
    "class_values": [0.2, 0.6],
    "mask_noise": 1e-4,
    "fresh_noise": 0.7,
    "within_class_attention": True,
    "adain_features": False,
}


def test_recommended_settings_are_read_by_field(tmp_path):
    assert read_recommended(tmp_path) == {}
    (tmp_path / "recommended.json").write_text(json.dumps(WHOLE))
    values = read_recommended(tmp_path)
    assert values["cross_attn_64"] == Span(5, 45)
    assert values["cross_attn_32"] is None
    assert values["class_values"] == (0.2, 0.6)
    assert values["inversion_guidance"] == 1.0
    assert isinstance(choose("winter", values), Settings)


@pytest.mark.parametrize("text", ['{"stepps": 50}', "[1]", "{", '{"steps": 50, "steps": 60}'])
def test_what_is_no_table_of_settings_is_refused(text, tmp_path):
    (tmp_path / "recommended.json").write_text(text)
    with pytest.raises((InputError, CheckpointError), match="recommended.json"):
        read_recommended(tmp_path)


@pytest.mark.parametrize("name", WHOLE)
def test_a_field_of_another_type_is_refused_by_file_and_name_or_is_usable(name, tmp_path):
    path = tmp_path / "recommended.json"
    for value in VALUES:
        path.write_bytes(json_bytes({name: value}))
        message = ""
        try:
            values = read_recommended(tmp_path)
        except (InputError, CheckpointError) as refusal:
            message = str(refusal)
        assert message.isprintable()
        if message:
            assert "recommended.json" in message
        else:
            choose("winter", {**in_proportion(PRESETS["winter"], values), **values})


@pytest.mark.parametrize("seed", seeds(60))
def test_a_damaged_file_is_refused_in_one_line_or_is_usable(seed, tmp_path):
    (tmp_path / "recommended.json").write_bytes(json_bytes(mutate_json(WHOLE, random.Random(seed))))
    message = ""
    try:
        values = read_recommended(tmp_path)
    except (InputError, CheckpointError) as refusal:
        message = str(refusal)
    assert message.isprintable()
    if not message:
        choose("winter", {**in_proportion(PRESETS["winter"], values), **values})
