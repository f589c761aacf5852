"""The page in Chromium: a study clicked and typed through, paused, resumed, saved and scored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.review.answers import FINDINGS, read_answers
from evaluation.review.key import Key
from evaluation.review.score import score
from tests.evaluation.browser.driving import begin, press, saved
from tests.evaluation.reviewing import answer_rows, truths, write_answers

pytestmark = pytest.mark.browser
MODES = pytest.mark.parametrize("mode", ["single", "pairs"])
BLOCKED = """Object.defineProperty(window, "localStorage", {
    get() { throw new DOMException("blocked", "SecurityError"); }
});"""


@MODES
def test_a_study_is_answered_by_mouse_and_scored(
    open_page: Any, studies: dict[str, tuple[Key, Path]], mode: str, tmp_path: Path
) -> None:
    key, path = studies[mode]
    page = open_page(path)
    begin(page)
    labels = {"single": ("Real", "In silico (made by a computer)"), "pairs": ("The left one", "The right one")}[mode]
    for place, trial in enumerate(key.trials):
        assert page.locator(".stage img").count() == len(trial.images)
        assert page.locator(".stage img").first.evaluate("e => e.complete && e.naturalWidth") == key.size[1]
        page.get_by_label(labels[key.truth(trial) > 0], exact=True).check()
        page.get_by_label("5 certain").check()
        if place == 0:
            page.get_by_label(FINDINGS["membranes"]).check()
            page.get_by_label("Anything else").fill("no membranes, größer")
        page.get_by_role("button", name="Finish" if place == len(key.trials) - 1 else "Next").click()
    page.get_by_role("heading", name="All is answered").wait_for()
    file = saved(page, "Save the answers", tmp_path)
    assert file.name == f"answers-Dr-A-{key.study[:8]}.json"
    answers = read_answers([file], key)
    assert {trial: answer.sign for trial, answer in answers[0].by_trial.items()} == truths(key)
    first = answers[0].by_trial[key.trials[0].id]
    assert (first.confidence, first.findings, first.comment) == (5, ("membranes",), "no membranes, größer")
    assert 0 < first.seconds < 60
    found = score(key, answers).readers[0]
    assert (found.told.accuracy.value, found.with_self.share.value) == (1.0, 1.0)
    # Three of six images by chance, or six coins.
    assert found.told.above == pytest.approx(1 / 20 if mode == "single" else 1 / 64)


@MODES
def test_a_study_is_answered_by_keys_alone_over_two_visits(
    open_page: Any, studies: dict[str, tuple[Key, Path]], mode: str, tmp_path: Path
) -> None:
    key, path = studies[mode]
    signs = truths(key)
    page = open_page(path)
    for each in ("Tab", "R", "e", "Enter"):
        page.keyboard.press(each)
    for place, trial in enumerate(key.trials[:3]):
        press(page, key, place, signs[trial.id], "2ca")
    page.keyboard.press("3")
    page.reload()
    page.get_by_role("button", name=f"Go on as Re (3 of {len(key.trials)} answered)").focus()
    page.keyboard.press("Enter")
    assert page.get_by_label("3 fairly").is_checked()
    for place, trial in list(enumerate(key.trials))[3:]:
        press(page, key, place, signs[trial.id])
    page.get_by_role("heading", name="All is answered").wait_for()
    with page.expect_download() as waiting:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
    waiting.value.save_as(tmp_path / "a.json")
    (answers,) = read_answers([tmp_path / "a.json"], key)
    assert {trial: answer.sign for trial, answer in answers.by_trial.items()} == signs
    assert [answers.by_trial[trial.id].confidence for trial in key.trials] == [2] * 3 + [4] * (len(key.trials) - 3)
    assert answers.by_trial[key.trials[0].id].findings == ("crowded", "anisokaryosis")


def test_nothing_is_left_open_and_what_is_changed_later_is_counted(
    open_page: Any, studies: dict[str, tuple[Key, Path]], tmp_path: Path
) -> None:
    key, path = studies["single"]
    page = open_page(path)
    page.get_by_role("button", name="Begin").click()
    assert "give a name" in page.get_by_role("alert").inner_text()
    begin(page)
    page.keyboard.press("Enter")
    assert page.get_by_text("Please choose an answer first.").is_visible()
    page.keyboard.press("r")
    page.keyboard.press("Enter")
    assert page.get_by_text("Please say how sure you are first.").is_visible()
    press(page, key, 0, -1)
    page.keyboard.press("b")
    press(page, key, 0, 1, "5")
    page.keyboard.press("b")
    # In the text field, keys are text.
    page.get_by_label("Anything else").press("r")
    assert page.get_by_label("In silico (made by a computer)").is_checked()
    page.get_by_label("Single keys").uncheck()
    page.get_by_label("5 certain").press("r")
    assert page.get_by_label("In silico (made by a computer)").is_checked()
    (answers,) = read_answers([saved(page, "Save to file", tmp_path)], key)
    first = answers.by_trial[key.trials[0].id]
    assert (first.sign, first.confidence, first.comment, first.revisions) == (1, 5, "r", 1)


def test_where_the_browser_keeps_nothing_a_file_does(
    open_page: Any, studies: dict[str, tuple[Key, Path]], tmp_path: Path
) -> None:
    key, path = studies["single"]
    page = open_page(path, BLOCKED)
    assert "keeps nothing" in page.get_by_role("alert").inner_text()
    begin(page)
    press(page, key, 0, 1)
    page.get_by_role("button", name="Pause").click()
    page.get_by_role("button", name="Go on as Dr A (1 of").click()
    file = saved(page, "Save to file", tmp_path)
    assert page.get_by_role("status").first.inner_text() == f"Saved as {file.name}."
    other = open_page(path, BLOCKED)
    other.get_by_label("Go on from a saved file").set_input_files(file)
    press(other, key, 1, -1)
    other.get_by_role("heading", name="Question 3").wait_for()
    (answers,) = read_answers([saved(other, "Save to file", tmp_path)], key)
    assert [answers.by_trial[trial.id].sign for trial in key.trials[:2]] == [1, -1]


def test_hostile_files_are_refused_and_change_nothing(
    open_page: Any, studies: dict[str, tuple[Key, Path]], tmp_path: Path
) -> None:
    key, path = studies["single"]
    other = studies["pairs"][0]
    rows = answer_rows(key, truths(key))
    files = {
        "another study": write_answers(tmp_path / "o.json", other, "a", answer_rows(other, truths(other))),
        "or twice": write_answers(tmp_path / "t.json", key, "a", [*rows, rows[0]]),
        "none that can be given": write_answers(tmp_path / "c.json", key, "a", [{**rows[0], "choice": "<img src=x>"}]),
        "no file of answers": write_answers(tmp_path / "f.json", key, "a", rows, format="x"),
        "is damaged.": write_answers(tmp_path / "n.json", key, "\u202e\u0000", rows),
    }
    (tmp_path / "j.json").write_text("{" * 1000)
    files["cannot be read as JSON"] = tmp_path / "j.json"
    page = open_page(path)
    for what, file in files.items():
        page.get_by_label("Go on from a saved file").set_input_files(file)
        page.get_by_role("alert").filter(has_text=what).wait_for()
        assert page.get_by_role("heading", name="Before you begin").is_visible()
    good = write_answers(tmp_path / "g.json", key, "<b>x</b>", rows[:1])
    page.get_by_label("Go on from a saved file").set_input_files(good)
    page.get_by_role("button", name="Pause").click()
    assert page.get_by_role("button", name="Go on as <b>x</b> (1 of").is_visible()


def test_another_tab_ends_this_one(open_page: Any, studies: dict[str, tuple[Key, Path]]) -> None:
    key, path = studies["single"]
    one = open_page(path)
    begin(one)
    press(one, key, 0, 1)
    other = open_page(path)
    other.get_by_role("button", name="Go on as Dr A (1 of").click()
    press(other, key, 1, 1)
    one.get_by_role("alert").filter(has_text="another tab").wait_for()
    other.get_by_role("heading", name="Question 3").wait_for()
    one.get_by_role("button", name="Go on as Dr A (2 of").click()
    press(one, key, 2, 1)
    other.get_by_role("alert").filter(has_text="another tab").wait_for()
    other.get_by_role("button", name="Go on as Dr A (3 of").wait_for()


@MODES
def test_images_are_zoomed_and_moved_together(open_page: Any, studies: dict[str, tuple[Key, Path]], mode: str) -> None:
    key, path = studies[mode]
    page = open_page(path)
    begin(page)

    def transforms() -> set[str]:
        return {each.evaluate("e => getComputedStyle(e).transform") for each in page.locator(".stage img").all()}

    whole = transforms()
    page.keyboard.press("+")
    (closer,) = transforms()
    assert closer.startswith("matrix(1.4,")
    page.locator(".stage").first.press("ArrowRight")
    assert transforms() != {closer}
    page.keyboard.press("0")
    assert transforms() == whole
    stage = page.locator(".stage").first
    stage.hover()
    page.mouse.wheel(0, -500)
    page.wait_for_function("document.getElementById('zoom').textContent !== '100 %'")
    before = transforms()
    page.mouse.down()
    page.mouse.move(300, 300)
    page.mouse.up()
    assert len(transforms()) == 1
    assert transforms() != before
    for _ in range(20):
        page.get_by_role("button", name="Zoom in").click()
    assert page.locator("#zoom").inner_text() == "800 %"
    press(page, key, 0, 1)
    assert transforms() == whole


def test_the_answers_that_a_page_keeps_are_those_it_saves(
    open_page: Any, studies: dict[str, tuple[Key, Path]], tmp_path: Path
) -> None:
    key, path = studies["single"]
    page = open_page(path)
    begin(page, "  Ä" + "x" * 100)
    press(page, key, 0, 1)
    kept = page.evaluate("() => Object.values(localStorage)")
    file = json.loads(saved(page, "Save to file", tmp_path).read_text())
    assert len(kept) == 1
    assert file["reader"] == "Ä" + "x" * 57
    assert json.loads(kept[0])["answers"][0]["choice"] == file["answers"][0]["choice"] == "synthetic"
    assert (file["answered"], file["complete"]) == (1, False)
