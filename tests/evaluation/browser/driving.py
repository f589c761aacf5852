"""What a reader does with the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evaluation.review.key import Key


def begin(page: Any, name: str = "Dr A") -> None:
    page.get_by_label("Your name or a code for you").fill(name)
    page.get_by_role("button", name="Begin").click()
    page.get_by_role("heading", name="Question 1").wait_for()


def press(page: Any, key: Key, place: int, sign: int, more: str = "4") -> None:
    """Answer by keys alone; a digit is the confidence."""
    page.get_by_role("heading", name=f"Question {place + 1} of {len(key.trials)}", exact=True).wait_for()
    names = "rs" if key.mode == "single" else "lr"
    for each in (names[(sign + 1) // 2], *more, "Enter"):
        page.keyboard.press(each)


def saved(page: Any, button: str, folder: Path) -> Path:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button, exact=True).click()
    path = folder / waiting.value.suggested_filename
    waiting.value.save_as(path)
    return path
