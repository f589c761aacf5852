"""A setting's error says what is wrong, and of which field, apart and together."""

from __future__ import annotations

import pytest

from sampler.errors import SettingError


@pytest.mark.parametrize(("field", "text"), [("steps", "steps: must be 1 or more"), (None, "must be 1 or more")])
def test_field_and_reason_are_told(field: str | None, text: str) -> None:
    error = SettingError("must be 1 or more", field)
    assert (str(error), error.field, error.reason) == (text, field, "must be 1 or more")
    assert isinstance(error, ValueError)
