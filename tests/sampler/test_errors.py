"""The sampler's errors say what is wrong, of which field, and what to try, apart and together."""

from __future__ import annotations

import pytest

from sampler.errors import SettingError


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0, "0"), (1.5, "1.5"), ("null-text", "null-text"), ((0.1, 2.0), "0.1,2.0"), ("a\n\x1b[31m", "'a\\n\\x1b[31m'")],
)
def test_field_value_and_reason_are_told_in_one_line(value: object, shown: str) -> None:
    error = SettingError("steps", value, "must be 1 or more")
    assert str(error) == f"`steps` {shown}: must be 1 or more"
    assert (error.field, error.value, error.reason) == ("steps", value, "must be 1 or more")


def test_an_endless_value_is_shortened() -> None:
    assert len(str(SettingError("adain", "x" * 10_000, "must be one of a, b"))) < 200
