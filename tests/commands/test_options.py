"""Options: said once at their fields, and the same in the parser, in help, in JSON, in records and in the README."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest

import cli
from commands.options import (
    add_options,
    by_present_names,
    flag_of,
    read_json_options,
    read_options,
    settings_record,
    table,
    with_flags,
)
from commands.requests import REQUESTS, GenerateRequest, SampleRequest
from sampler.errors import SettingError
from sampler.option import options_of
from sampler.presets import PRESETS
from sampler.settings import Settings, Span
from tests.commands.running import ROOT

NAMES = [field.name for field, _ in options_of(Settings)]
OTHER = Settings(
    prompt="tissue",
    domain="cat",
    nouns=("cat", "Hund"),
    steps=50,
    skip_steps=3,
    inversion="ddim",
    inversion_guidance=2.5,
    cross_attn_64=None,
    cross_attn_32=Span(1, 2),
    adain_range=Span(3, 4),
    adain="all",
    guidance=1.25,
    contrast=1e-6,
    structure_every=0,
    structure_until=7,
    class_values=(0.1, 1 / 3),
    mask_noise=0.5,
    fresh_noise=0.123456789,
    within_class_attention=True,
    adain_features=True,
    window=256,
    window_overlap=64,
)


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_options(parser.add_argument_group("all"), Settings)
    return parser.parse_args(words)


def test_every_option_of_the_tests_settings_differs_from_the_default():
    assert all(getattr(OTHER, name) != getattr(Settings(), name) for name in NAMES)


@pytest.mark.parametrize("settings", [OTHER, Settings(), PRESETS["alaluf"]], ids=["other", "winter", "alaluf"])
def test_a_record_reads_back_as_the_same_settings(settings):
    words = []
    for name, value in settings_record(settings).items():
        words += [f"--{name}"] if value is True else [] if value is False else [f"--{name}", str(value)]
    values = read_options(Settings, vars(parsed(*words)))
    expected = {name: getattr(settings, name) for name in NAMES} | {"skip_steps": settings.start_step}
    assert {name: getattr(replace(Settings(), **values), name) for name in NAMES} == expected


def test_json_reads_back_as_the_same_settings():
    content = {name: getattr(OTHER, name) for name in NAMES}
    for name in ("cross_attn_64", "cross_attn_32", "adain_range"):
        content[name] = "none" if content[name] is None else str(content[name])
    assert replace(Settings(), **read_json_options(json.loads(json.dumps(content)))) == OTHER


def test_an_old_name_still_works_and_is_not_shown(capsys):
    assert read_options(Settings, vars(parsed("--restrict-attention"))) == {"within_class_attention": True}
    assert read_json_options({"restrict_attention": True}) == {"within_class_attention": True}
    for words in (["generate", "--help"], ["sample", "--help"]):
        with pytest.raises(SystemExit):
            cli.main(words)
    shown = capsys.readouterr().out
    assert "--cache" in shown
    assert "--keep" not in shown
    assert "restrict" not in shown


def test_an_old_record_is_read_by_present_names():
    old = {"restrict-attention": True, "steps": "50", "origin": "a.png"}
    assert by_present_names(old) == {"within-class-attention": True, "steps": "50", "origin": "a.png"}


@pytest.mark.parametrize(
    ("command", "kinds"), [("generate", (Settings, GenerateRequest)), ("sample", (SampleRequest,))]
)
def test_help_names_every_option(command, kinds, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for kind in kinds:
        for field, _ in options_of(kind):
            assert f"{flag_of(field.name)} " in shown


def test_help_gives_defaults(capsys):
    with pytest.raises(SystemExit):
        cli.main(["generate", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    for default in ("(1.67)", "(10:90)", "(32 with ddpm, 0 with ddim)", "(winter)", "(100)", "(output)"):
        assert default in shown


def test_fields_in_messages_become_flags_and_nothing_else_does():
    text = "`class_values` 3: as in `classes`, not `this` or `__init__`"
    assert with_flags(text, REQUESTS) == "--class-values 3: as in --classes, not `this` or `__init__`"


def test_a_json_name_or_value_that_is_none_is_refused_by_its_field():
    for content in ({"stepps": 5}, {"steps": 5.0}, {"steps": True}, {"cross_attn_64": 7}, {"class_values": [True]}):
        with pytest.raises(SettingError) as caught:
            read_json_options(content)
        assert caught.value.field in content


def test_the_readmes_table_is_that_of_the_settings():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shown = readme[readme.index("<!-- options -->") :].partition("<!-- /options -->")[0]
    first = [name for name in NAMES if f"`{flag_of(name)}`" in shown]
    assert len(first) >= 6
    assert shown == f"<!-- options -->\n\n{table(Settings, first)}\n\n"
