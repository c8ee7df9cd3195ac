"""The page Health of a real service: its streams, processes, journal and log."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import open_tab, start_chromium
from support.hub_process import wait_until
from support.live import Setup
from support.service import Service

pytest.importorskip("nicegui", reason="the extra [web] is not installed")

PASSWORD = "not-for-any-log-17"


class Site:
    """A service with a page."""

    def __init__(self, service: Service, base: str, folder: Path) -> None:
        self.service, self.base, self.folder = service, base, folder

    def health(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.base}/api/health", timeout=20) as answer:
            body = answer.read()
        assert PASSWORD.encode() not in body
        report: dict[str, Any] = json.loads(body)
        return report

    def stream(self, name: str) -> dict[str, Any]:
        found = [each for each in self.health()["streams"] if each["stream"] == name]
        return found[0] if found else {"state": "", "predictions_per_s": 0}  # before the first heartbeat


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("health")
    setup = Setup(folder)
    path = setup.write(
        streams={
            "door": {**setup.film, "name": "Front <b>door</b>"},
            "gone": {"url": f"rtsp://user:{PASSWORD}@127.0.0.1:9/x"},
            "hall": {**setup.film, "enabled": False},
        },
        outlets={"web": {"port": 0}},
    )
    with Service("run", str(path), cwd=folder, env=setup.env) as service:
        base = service.wait_for_line(r"the page is on (\S+)")[1]
        yield Site(service, base, folder)


def test_streams_processes_journal_and_log_are_those_of_the_service(site: Site) -> None:
    wait_until(lambda: site.stream("door")["predictions_per_s"] > 0, "predictions")
    wait_until(lambda: any(each["cpu"] is not None for each in site.health()["processes"] or ()), "two samples")
    wait_until(lambda: site.stream("gone")["state"] == "offline", "the stream without a camera")
    report = site.health()
    door, gone, hall = report["streams"]
    assert (door["state"], door["codec"], door["width"], door["decoding"]) == ("live", "h264", 160, "CPU, fast")
    assert door["latency_p50_ms"] <= door["latency_p99_ms"]
    assert door["since"] is not None
    assert "connection refused" in gone["reason"]
    assert (hall["state"], hall["paused"]) == ("offline", True), "a paused stream is no problem"
    assert report["problems"] == [f"stream gone: offline ({gone['reason']})"]
    ours = {site.service.process.pid, *site.service.descendants()}
    processes = {(each["name"], each["subject"]): each for each in report["processes"]}
    assert {each["pid"] for each in report["processes"]} <= ours
    assert {("supervisor", None), ("hub", None), ("classifier", None), ("capture", "door"), ("outlet", "web")} <= set(
        processes
    )
    assert processes["capture", "door"]["memory_bytes"] > 10_000_000
    journal = report["journal"]["file"]
    assert Path(journal["path"]) == site.folder / "streamclf.db"
    assert journal["bytes"] >= (site.folder / "streamclf.db").stat().st_size
    assert any("publishing on" in line for line in report["log"])
    assert {line.split()[3].partition("[")[0] for line in report["log"]} >= {"service", "classifier", "hub", "outlet"}


def test_the_page_shows_it_without_violations_on_any_width(site: Site) -> None:
    with (
        start_chromium() as browser,
        open_tab(browser, site.base, viewport={"width": 360, "height": 740}, color_scheme="light") as tab,
    ):
        page = tab.open("/health")
        page.get_by_role("cell", name="Front <b>door</b> (door)").wait_for()
        page.get_by_text("publishing on").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert tab.find_violations() == []
        page.set_viewport_size({"width": 1400, "height": 900})
        page.get_by_role("cell", name="capture door").wait_for()
        assert page.get_by_text("No node of the fleet").is_hidden(), "a single service has no nodes"
        assert tab.find_violations() == []
