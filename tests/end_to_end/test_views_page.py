"""The page shows two regions and two models of one stream apart, though they report the same label at the same time."""

from __future__ import annotations

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
