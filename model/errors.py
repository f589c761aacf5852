"""The one kind of error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """Something given from outside cannot be used. The message is one line and names the thing and the fix."""
