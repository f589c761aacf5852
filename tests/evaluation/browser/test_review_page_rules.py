"""What the page must keep to: nothing leaves it, and WCAG's rules for all who read with keys, or see little."""

from __future__ import annotations

import http.server
import threading
from pathlib import Path
from typing import Any

import pytest

from evaluation.review.key import Key
from tests.evaluation.browser.driving import begin, press

pytestmark = pytest.mark.browser
MODES = pytest.mark.parametrize("mode", ["single", "pairs"])
CONTRASTS = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgb = (text) => {
        canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1); return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => colour.slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const ratio = (one, other) => {
        const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
        return (high + 0.05) / (low + 0.05);
    };
    const ground = (element) => {
        for (let each = element; each !== null; each = each.parentElement) {
            const colour = getComputedStyle(each).backgroundColor;
            if (!/, 0\\)$/.test(colour)) return rgb(colour);
        }
        return [255, 255, 255];
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        if (!text || !element.checkVisibility() || element.closest("script")) continue;
        found.push([text, ratio(rgb(getComputedStyle(element).color), ground(element))]);
    }
    for (const element of document.querySelectorAll("button, input[type=text], textarea, fieldset")) {
        if (element.checkVisibility()) {
            const border = rgb(getComputedStyle(element).borderTopColor);
            found.push([`border of ${element.id}`, 1.5 * ratio(border, ground(element.parentElement))]);
        }
    }
    return found;
}"""


class Listener(http.server.BaseHTTPRequestHandler):
    """Counts what gets through."""

    def do_GET(self) -> None:
        self.server.heard.append(self.path)  # type: ignore[attr-defined]
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def test_nothing_leaves_the_page_even_if_its_code_tried(browser: Any, studies: dict[str, tuple[Key, Path]]) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    server.heard = []  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    key, path = studies["single"]
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.split(",")[0]))
    page.goto(path.as_uri())
    begin(page)
    press(page, key, 0, 1)
    assert {each.split(":")[0] for each in asked} <= {"file", "data"}
    assert [each for each in asked if each.startswith("file")] == [path.as_uri()]
    page.evaluate(
        """async (place) => {
            await fetch(place + "/fetch", { mode: "no-cors" }).catch(() => null);
            try { navigator.sendBeacon(place + "/beacon", "x"); } catch { }
            try { new WebSocket(place.replace("http", "ws") + "/socket"); } catch { }
            try { new EventSource(place + "/events"); } catch { }
            for (const tag of ["img", "script", "iframe", "link", "video"]) {
                const element = document.createElement(tag);
                if (tag === "link") element.rel = "stylesheet";
                element[tag === "link" ? "href" : "src"] = place + "/" + tag;
                document.body.append(element);
            }
            const style = document.createElement("style");
            style.textContent = `body { background: url(${place}/style) }`;
            document.head.append(style);
            const form = document.createElement("form");
            form.action = place + "/form";
            form.method = "post";
            document.body.append(form);
            form.submit();
            document.body.insertAdjacentHTML("beforeend", `<p style="background: url(${place}/attribute)">x</p>`);
            await new Promise((done) => setTimeout(done, 500));
        }""",
        place,
    )
    assert server.heard == []  # type: ignore[attr-defined]
    page.evaluate("() => { document.getElementById('start').innerHTML = '<img src=x onerror=\"window.ran = 1\">'; }")
    page.wait_for_timeout(200)
    assert page.evaluate("window.ran") is None
    page.close()
    server.shutdown()


@MODES
def test_contrast_labels_focus_and_sizes_are_those_of_wcag_aa(
    open_page: Any, studies: dict[str, tuple[Key, Path]], mode: str
) -> None:
    """1.4.3 and 1.4.11 (4.5 to 1 for text, 3 to 1 for borders), 1.3.1, 2.4.7, 2.5.8 and 1.4.10."""
    _, path = studies[mode]
    page = open_page(path)
    for screen in ("start", "work", "missing"):
        if screen == "work":
            begin(page)
        elif screen == "missing":
            page.keyboard.press("Enter")
        else:
            page.get_by_text("Keys", exact=True).click()
        found = page.evaluate(CONTRASTS)
        assert len(found) > 10
        assert [each for each in found if each[1] < 4.5] == []
        fields = page.locator("input:visible, textarea:visible, button:visible, progress:visible")
        for each in fields.all():
            name = each.evaluate("e => e.labels?.length ? e.labels[0].textContent : e.ariaLabel ?? e.textContent")
            assert name.strip()
            box = each.bounding_box()
            assert each.evaluate("e => e.tagName") == "PROGRESS" or min(box["width"], box["height"]) >= 20
    assert page.locator("fieldset:visible > legend").count() == 3
    assert page.locator("html").get_attribute("lang") == "en"
    # Every stop of the tab key shows that it has the focus.
    stops = set()
    for _ in range(25):
        page.keyboard.press("Tab")
        here = page.evaluate(
            "() => { const e = document.activeElement; const s = getComputedStyle(e);"
            "return [e.id || e.className || e.tagName, s.outlineStyle, parseFloat(s.outlineWidth)]; }"
        )
        if here[0] != "BODY":
            stops.add(here[0])
            assert here[1] == "solid"
            assert here[2] >= 2
    assert {"stage", "larger", "comment", "next", "save", "shortcuts"} <= stops
    page.set_viewport_size({"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator("#next").bounding_box()["y"] < 760


def test_axe_finds_nothing(open_page: Any, studies: dict[str, tuple[Key, Path]]) -> None:
    """Deque's axe, where axe-playwright-python is installed."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    for mode in ("single", "pairs"):
        page = open_page(studies[mode][1])
        assert axe.run(page).response["violations"] == []
        begin(page)
        assert axe.run(page).response["violations"] == []
        for place, trial in enumerate(studies[mode][0].trials):
            press(page, studies[mode][0], place, studies[mode][0].truth(trial))
        assert axe.run(page).response["violations"] == []
