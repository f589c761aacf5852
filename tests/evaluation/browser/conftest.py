"""Chromium, and studies to open in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluation.review.key import Key
from evaluation.review.page import build_page
from tests.evaluation.reviewing import sets, study_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright: pip install playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium, such as Debian's package chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Key, Path]]:
    """Key and page of a study of each mode."""
    folder = tmp_path_factory.mktemp("studies")
    given, found = sets(folder), {}
    for mode in ("single", "pairs"):
        study = study_of(given, mode=mode, count=6, repeats=0.2)
        path = folder / f"{mode}.html"
        path.write_text(build_page(study.key, study.pictures))
        found[mode] = (study.key, path)
    return found


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A function page file, script to run first -> the page; pages of a test share their storage, errors fail it."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    problems: list[str] = []

    def opened(path: Path, before: str = "") -> Any:
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        if before:
            page.add_init_script(before)
        page.goto(path.as_uri())
        return page

    yield opened
    context.close()
    assert problems == []
