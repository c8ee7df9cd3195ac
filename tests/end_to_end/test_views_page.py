"""The page shows two regions and two models of one stream apart, though they report the same label at the same time."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import open_tab, start_chromium
from support.hub_process import HubProcess, action, prediction, status
from support.service import Service

from streamclf.events.views import ViewDescription
from streamclf.producer.link import EventProducer
from streamclf.runtime.jobs import StreamDescription

pytest.importorskip("nicegui", reason="the extra [web] is not installed")

HOSTILE = "<img src=x onerror=document.title='broken'>"
GATE, HANDS = {"region": "gate"}, {"region": "yard", "model_name": "hands"}
VIEWS = (
    ViewDescription(region="gate", area=(0.1, 0.2, 0.5, 0.9), actions=("wave",)),
    ViewDescription(region="yard", model_name="hands", area=(0.5, 0.2, 0.9, 0.9), actions=("wave",)),
)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """The address of the page of a service with events of two views; they go on while the test runs."""
    with (
        HubProcess(streams={"door": StreamDescription(name="Front door", actions=("wave",), views=VIEWS)}) as hub,
        EventProducer(hub.link, "test") as link,
    ):
        link.post(status("door"))
        for view in (GATE, HANDS):
            link.post(action("start", **view))
        link.post(prediction("door", top=[["wave", 0.95], ["still", 0.05]], **GATE))
        done = threading.Event()

        def go_on() -> None:
            while not done.wait(0.2):
                link.post(status("door"))
                link.post(prediction("door", top=[["wave", 0.9], ["still", 0.1]], **GATE))
                link.post(prediction("door", top=[["wave", 0.8], [HOSTILE, 0.7]], labels=["wave", HOSTILE], **HANDS))

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            with Service("web", hub.events, "--port", "0", cwd=tmp_path) as service:
                yield service.wait_for_line(r"the page is on (\S+)")[1]
        finally:
            done.set()
            thread.join()


def test_views_are_apart_on_the_wall_in_the_timeline_and_in_the_list_of_events(base: str) -> None:
    with start_chromium() as browser, open_tab(browser, base, viewport={"width": 1280, "height": 800}) as tab:
        page: Any = tab.open("/live")
        page.wait_for_function("() => document.querySelectorAll('.chip').length === 2")
        page.wait_for_function("() => document.querySelectorAll('.chip')[1].textContent.includes('img')")
        assert page.locator(".chip").all_inner_texts() == ["gate\nwave", f"yard · hands\nwave, {HOSTILE}"]
        assert page.locator(".chip[data-action=yes]").count() == 2
        page.locator("a.tile-link").click()
        page.wait_for_function("() => document.querySelectorAll('.view-button').length === 2")
        page.wait_for_function("() => document.querySelector('.timeline h2')?.textContent.endsWith(': gate')")
        page.locator(".view-button").nth(1).click()
        page.wait_for_function("() => document.querySelector('.timeline h2')?.textContent.endsWith(': yard · hands')")
        page.wait_for_function("() => Number(document.querySelector('.chart')?.dataset.points) > 0")
        assert page.locator(".top-row[data-present=yes]").count() == 2
        assert page.locator(".regions rect").count() == 2
        assert not tab.find_violations()
        page = tab.open("/events?region=yard&model=hands")
        page.wait_for_function("() => document.querySelectorAll('.event-row').length === 1")
        assert "Front door · yard · hands" in page.locator(".event-row").inner_text()
        page.locator("#filter-region").select_option("=gate")
        page.wait_for_function("() => document.querySelectorAll('.event-row').length === 0")
        page.locator("#filter-model").select_option("=")
        page.wait_for_function("() => document.querySelectorAll('.event-row').length === 1")
        assert "Front door · gate" in page.locator(".event-row").inner_text()
        assert page.title() != "broken"
        assert not tab.find_violations()


def test_screen_readers_get_the_chart_as_text_which_changes_only_with_the_data_of_a_visible_page(base: str) -> None:
    with start_chromium() as browser, open_tab(browser, base) as tab:
        page: Any = tab.open("/live/door")

        def wait_for_label(wave: str, still: str) -> None:
            text = f"Chart of Front door. Probabilities of the last hour: gate. wave: {wave}; still: {still}"
            pattern = re.escape(text).replace("TIME", r"\d\d:\d\d:\d\d")
            page.get_by_role("img", name=re.compile(f"^{pattern}$")).wait_for()

        def wait_for_points(number: int) -> None:
            least = number + int(page.locator(".chart").get_attribute("data-points"))
            page.wait_for_function(
                "least => Number(document.querySelector('.chart').dataset.points) >= least", arg=least
            )

        wait_for_label("now 90 %, highest 95 % at TIME", "now 10 %, the highest value")
        page.evaluate("""() => {
            globalThis.changes = 0;
            const observer = new MutationObserver((found) => { globalThis.changes += found.length; });
            observer.observe(document.querySelector(".chart"), { attributeFilter: ["aria-label"] });
        }""")
        wait_for_points(3)
        page.evaluate("""() => {
            Object.defineProperty(document, "visibilityState", { value: "hidden", configurable: true });
            const now = Date.now;
            Date.now = () => now() + 60_000; // the newest predictions are a minute old
        }""")
        wait_for_points(3)
        assert page.evaluate("globalThis.changes") == 0
        page.evaluate("delete document.visibilityState")
        wait_for_label("last 90 % at TIME, highest 95 % at TIME", "last 10 % at TIME, the highest value")
        assert page.locator("[aria-live] .chart, [role=status] .chart, [role=alert] .chart").count() == 0
