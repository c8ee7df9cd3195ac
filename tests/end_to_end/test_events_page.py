"""The page Events on a real service with an RTSP camera: an action, and the film that the service saves of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.browser import open_tab, start_chromium
from support.bundles import make_brightness_bundle
from support.clips import film
from support.rtsp_server import RtspServer
from support.service import Service

pytest.importorskip("nicegui", reason="the extra [web] is not installed")

BRIGHT = (75, 125)
"""Pictures 75 to 124 of 200 are bright; the camera repeats its film of eight seconds."""


@pytest.fixture
def base(tmp_path: Path) -> Iterator[str]:
    """The address of the page of a service that saves films."""
    make_brightness_bundle(tmp_path / "brightness")
    with RtspServer({"door": film(frames=200, gop=20, bright=BRIGHT)}) as camera:
        config = {
            "model": "brightness",
            "engine": {"threads": 1},
            "streams": {"door": {"url": camera.url("door"), "name": "Front door"}},
            "actions": {"bright": {"on": 0.8, "off": 0.5, "min_s": 0.2}},
            "publish": {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"},
            "clips": {"before_s": 1, "after_s": 1},
            "outlets": {"web": {"port": 0}},
        }
        (tmp_path / "service.yaml").write_text(json.dumps(config))
        with Service("run", "service.yaml", cwd=tmp_path) as service:
            yield service.wait_for_line(r"the page is on (\S+)")[1]


def first_event(base: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{base}/api/events", timeout=20) as answer:
        event: dict[str, Any] = json.loads(answer.read())["events"][0]
    return event


def test_an_action_is_shown_while_it_runs_and_its_film_plays_when_it_is_over(base: str) -> None:
    with start_chromium() as browser, open_tab(browser, base, viewport={"width": 1280, "height": 800}) as tab:
        page = tab.open("/events")
        seen_ms = page.wait_for_function(
            "() => document.querySelector('.is-running') && Date.now()", polling="raf", timeout=30_000
        ).json_value()
        event = first_event(base)
        began = datetime.fromisoformat(event["began"].replace("Z", "+00:00"))
        delay_s = seen_ms / 1000 - began.timestamp()
        print(f"shown {delay_s:.3f} s after the event")
        assert 0 <= delay_s < 3, "within a second on a machine that is not busy"
        assert (event["name"], event["label"]) == ("Front door", "bright")
        page.locator(f"a.event-row[href*='/events/{event['offset']}?']").click()
        page.wait_for_function(
            "() => { const v = document.querySelector('video'); return v.readyState >= 2 && v.duration > 2 }"
        )
        page.keyboard.press("Escape")
        page.evaluate("document.querySelector('video').play()")
        page.wait_for_function("() => document.querySelector('video').currentTime > 0.3")
        assert page.locator(".is-running").count() == 0
