"""The page in a real browser: no errors, no requests, and slider, hover, click, sort and download
work. Needs chromium and playwright (`uv run --group browser pytest tests/browser`); skipped without
them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sensitivity.cli.render.page.page import render_page

from support.reports import HOSTILE, WINNER, hostile_report

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
if CHROMIUM is None:
    pytest.skip("there is no chromium", allow_module_level=True)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Any]:
    """Opens a page by its path; at the end there must be no message, dialog or request."""
    seen: list[str] = []
    with sync_api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def open_page(frames: int = 0, **options: Any) -> Any:
            path = tmp_path / "page.html"
            path.write_text(render_page(hostile_report(tmp_path, frames=frames)), encoding="utf-8")
            page = browser.new_page(accept_downloads=True, **options)
            page.on("console", lambda message: seen.append(f"console: {message.text}"))
            page.on("pageerror", lambda error: seen.append(f"error: {error}"))
            page.on("dialog", lambda dialog: (seen.append("dialog"), dialog.dismiss()))
            own = (path.as_uri(), "data:", "blob:")
            page.on("request", lambda asked: asked.url.startswith(own) or seen.append(asked.url))
            page.goto(path.as_uri())
            if options.get("java_script_enabled", True):
                page.wait_for_selector("html[data-drawn]", timeout=60_000)
            return page

        yield open_page
        browser.close()
    assert seen == []


def test_hostile_names_do_nothing(opened: Any) -> None:
    """The page opens and draws; no name became an element."""
    page = opened()
    assert page.locator("img").count() == 0
    assert page.evaluate("document.scripts.length") == 4  # two of data, ours, and plotly
    assert "<script>alert(1)</script>" in page.locator("h1").inner_text()


def test_the_slider_moves_by_keys_and_lists_change(opened: Any) -> None:
    """Arrow keys move the slider; another list changes pictures and words."""
    page = opened()
    slider = page.locator(".cutter").first
    slider.focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    assert slider.input_value() == "60"
    assert "60%" in page.evaluate("document.querySelector('.right').style.clipPath")
    assert page.locator(".scene .value").first.text_content() == "0.0602"
    page.locator("#other").select_option(index=1)
    assert "not kept" in page.locator(".scene .who").first.text_content()


def test_a_point_is_hovered_clicked_and_saved(opened: Any) -> None:
    """Hovering names a list, a click shows it, and its layers are saved as JSON."""
    page = opened()
    page.locator("#chart-front .plot").scroll_into_view_if_needed()
    page.wait_for_timeout(800)
    point = page.locator("#chart-front .scatterlayer .trace:last-child .point").first
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector("#chart-front .hoverlayer text")
    assert WINNER in page.locator("#chart-front .hoverlayer").text_content()
    page.mouse.down()
    page.mouse.up()
    assert page.locator("#point h3").text_content() == WINNER
    with page.expect_download() as saved:
        page.get_by_text("Save this list as JSON").click()
    data = json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))
    assert set(data["skip"]) == {fqn for fqn, name in data["layers"].items() if name == "bf16"}


def test_tables_sort_and_the_recipe_is_downloaded(opened: Any) -> None:
    """A heading sorts up, then down; the recipe's link saves it."""
    page = opened()
    heading = page.locator("#trial-table th").nth(2)
    first = page.locator("#trial-table tbody tr td:nth-child(3)").first
    for _ in range(2):
        heading.locator("button").click()
    assert heading.get_attribute("aria-sort") == "descending"
    assert first.text_content() == "1.500×"
    with page.expect_download() as saved:
        page.locator("a.button[download]").click()
    assert json.loads(Path(saved.value.path()).read_text(encoding="utf-8"))["name"] == HOSTILE


def test_clips_play_together(opened: Any) -> None:
    """Playing moves every pane of a prompt to the same frame."""
    page = opened(frames=4)
    page.locator(".play").first.click()
    page.wait_for_timeout(600)
    page.locator(".play").first.click()
    panes = page.locator(".scene[data-scene] .panes use")
    places = [use.get_attribute("x") for use in panes.all()]
    assert len(set(places)) == 1
    assert places[0] != "0"


def test_without_scripts_charts_are_there(opened: Any) -> None:
    """Still charts are shown, and nothing that needs a script."""
    page = opened(java_script_enabled=False)
    assert page.locator("#chart-front > svg").is_visible()
    assert not page.locator("#other").is_visible()
