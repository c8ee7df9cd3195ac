"""The page in headless Chromium, on a real service that reads real RTSP streams."""

from __future__ import annotations

import http.client
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import Tab, open_tab, start_chromium
from support.bundles import make_brightness_bundle
from support.clips import film
from support.hub_process import wait_until
from support.ports import free_port
from support.rtsp_server import RtspServer
from support.service import Service

pytest.importorskip("nicegui", reason="the extra [web] is not installed")

DARK_LABEL = "<img src=x onerror=\"document.title='broken'\">"
BRIGHT_LABEL = "明るい & ساطع"
NAME = "Halle <b>2</b>"


class PageService:
    """A service with two RTSP cameras, one dark and one bright, and one that cannot be reached; and its page."""

    def __init__(self, folder: Path, rtsp: RtspServer, port: int) -> None:
        self.folder, self.port = folder, port
        self.base = f"http://127.0.0.1:{port}"
        make_brightness_bundle(folder / "brightness", labels=(DARK_LABEL, BRIGHT_LABEL))  # type: ignore[arg-type]
        config = {
            "model": "brightness",
            "engine": {"threads": 1},
            "defaults": {"frozen_s": 0},
            "streams": {
                "night": {"url": rtsp.url("night"), "name": NAME},
                "day": {"url": rtsp.url("day")},
                "lost": {"url": "rtsp://127.0.0.1:1/none"},
            },
            "publish": {"events": f"tcp://127.0.0.1:{free_port()}", "replay": f"tcp://127.0.0.1:{free_port()}"},
            "outlets": {"web": {"port": port}},
        }
        (folder / "service.yaml").write_text(json.dumps(config))
        self.process = self._start()

    def _start(self) -> Service:
        return Service("run", "service.yaml", cwd=self.folder).__enter__()

    def wait(self) -> None:
        """Wait until the page answers, and both cameras are live."""
        wait_until(lambda: self.live() >= {"night", "day"}, "cameras on the page", 60.0)

    def live(self) -> set[str]:
        try:
            return {
                each["stream"]
                for each in json.loads(self.get("/api/streams")[1])
                if each["state"] == "live" and each["top"]
            }
        except (OSError, http.client.HTTPException, ValueError):
            return set()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            body = answer.read()
        connection.close()
        return answer.status, body

    def stop(self) -> None:
        self.process.__exit__(None, None, None)

    def restart(self) -> None:
        self.stop()
        self.process = self._start()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_chromium() as made:
        yield made


@pytest.fixture(scope="module")
def service(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageService]:
    films = {"night": film(fps=10, frames=50, gop=10, light=50), "day": film(fps=10, frames=50, gop=10, light=210)}
    with RtspServer(films) as rtsp:
        made = PageService(tmp_path_factory.mktemp("page"), rtsp, free_port())
        try:
            made.wait()
            yield made
        finally:
            made.stop()


def pictures(tab: Tab, stream: str) -> int:
    """Return the number of pictures that the page has drawn of a stream."""
    found = tab.page.locator(f"[data-stream={stream}] canvas.picture:visible").get_attribute("data-pictures")
    return int(found or 0)


def brightness(tab: Tab, stream: str) -> float:
    """Return the mean grey of the picture that the page shows of a stream."""
    script = """stream => {
        const canvas = document.querySelector(`[data-stream=${stream}] canvas`);
        const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
        let sum = 0;
        for (let at = 0; at < data.length; at += 4) sum += data[at + 1];
        return sum / (data.length / 4);
    }"""
    return float(tab.page.evaluate(script, stream))


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_wall_shows_moving_pictures_and_the_labels_of_the_events(
    service: PageService, browser: Any, scheme: str
) -> None:
    with open_tab(browser, service.base, color_scheme=scheme) as tab:
        page = tab.open("/live")
        for stream, label in (("night", DARK_LABEL), ("day", BRIGHT_LABEL)):
            before = pictures(tab, stream)
            wait_until(lambda stream=stream, before=before: pictures(tab, stream) >= before + 5, "moving pictures")  # type: ignore[misc]
            tile = page.locator(f".tile[data-stream={stream}]")
            assert tile.locator(".label").inner_text() == label
            state = json.loads(service.get(f"/api/streams/{stream}")[1])
            assert state["top"][0][0] == label
            assert re.fullmatch(r"(> )?\d+ %", tile.locator(".probability").inner_text())
        assert abs(brightness(tab, "night") - 50) < 20
        assert abs(brightness(tab, "day") - 210) < 25
        assert page.locator(".tile[data-stream=night] .name").inner_text() == NAME
        assert "refused" in page.locator(".tile[data-stream=lost] .lost").inner_text()
        assert page.evaluate("document.documentElement.dataset.theme") == scheme
        assert tab.find_violations() == []
        assert page.title() == "Live · streamclf"


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_one_camera_shows_its_labels_and_the_last_hour(service: PageService, browser: Any, scheme: str) -> None:
    with open_tab(browser, service.base, color_scheme=scheme) as tab:
        page = tab.open("/live")
        page.locator(".tile[data-stream=day] a").focus()
        page.keyboard.press("Enter")
        page.wait_for_url("**/live/day")
        wait_until(lambda: pictures(tab, "day") >= 3, "pictures of the large camera")
        rows = page.locator(".top-row:visible .label").all_inner_texts()
        assert rows == [BRIGHT_LABEL, DARK_LABEL]
        assert "brightness@1" in page.locator(".facts").inner_text()
        page.wait_for_function("Number(document.querySelector('.chart').dataset.points) > 0")
        before = int(page.locator(".chart").get_attribute("data-points"))
        wait_until(lambda: int(page.locator(".chart").get_attribute("data-points")) > before, "new points")
        assert tab.find_violations() == []
        page.keyboard.press("ArrowLeft")
        page.wait_for_url("**/live/night")
        page.keyboard.press("Escape")
        page.wait_for_url("**/live")
        assert page.evaluate("document.activeElement.closest('.tile').dataset.stream") == "night"
        page.go_back()
        page.wait_for_url("**/live/night")
        page.locator(".panel[data-stream=night]").wait_for()


def test_a_link_opens_a_camera_and_an_unknown_one_is_named(service: PageService, browser: Any) -> None:
    with open_tab(browser, service.base) as tab:
        page = tab.open("/live/night")
        page.locator(".panel[data-stream=night]").wait_for()
        page = tab.open("/live/unknown")
        page.get_by_text("The service has no stream unknown.").wait_for()


def test_only_cameras_in_sight_are_requested(service: PageService, browser: Any) -> None:
    """A capture process decodes more while somebody watches it, so the page must not watch in vain."""
    with open_tab(browser, service.base) as tab:
        page = tab.open("/live/night")
        page.locator(".panel[data-stream=night]").wait_for()
        wait_until(lambda: pictures(tab, "night") >= 3, "pictures")
        frames = page.evaluate("""async () => {
            const { connection } = await import("/static/page.js");
            const seen = new Set();
            connection.addEventListener("picture", event => seen.add(event.detail.stream));
            await new Promise(resolve => setTimeout(resolve, 700));
            return [...seen];
        }""")
        assert frames == ["night"]


def test_a_phone_shows_everything_without_scrolling_sideways(service: PageService, browser: Any) -> None:
    with open_tab(browser, service.base, viewport={"width": 360, "height": 740}, has_touch=True) as tab:
        for path in ("/live", "/live/day"):
            page = tab.open(path)
            page.locator(".tile[data-state=live]:visible, .panel[data-state=live]:visible").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            assert page.locator(".tab").all_inner_texts() == ["Live", "Events", "Teach", "Health", "Settings"]
            assert tab.find_violations() == []


def test_the_choice_of_dark_or_light_is_kept(service: PageService, browser: Any) -> None:
    with open_tab(browser, service.base, color_scheme="dark") as tab:
        page = tab.open("/live")
        page.get_by_role("button", name="Change between dark and light").click()
        page.wait_for_function("document.documentElement.dataset.theme === 'light'")
        page = tab.open("/events")
        page.wait_for_function("document.body.classList.contains('body--light')")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_rest_answers_with_pictures_and_a_description(service: PageService) -> None:
    status, body = service.get("/api/streams/day/picture")
    assert (status, body[:3]) == (200, b"\xff\xd8\xff")
    assert service.get("/api/streams/none/picture")[0] == 404
    assert service.get("/api/streams/%3Cb%3E")[0] == 422
    assert service.get("/api/nothing")[0] == 404
    document = json.loads(service.get("/api/openapi.json")[1])
    assert "/api/streams/{name}/picture" in document["paths"]
    assert not [path for path in document["paths"] if not path.startswith(("/api/", "/shared/"))]
    timeline = json.loads(service.get("/api/streams/day/timeline")[1])
    assert timeline["series"][0]["label"] == BRIGHT_LABEL
    assert len(timeline["times"]) == len(timeline["series"][0]["values"])


def test_other_names_and_addresses_with_tokens_are_refused(service: PageService) -> None:
    assert service.get("/api/streams", Host="evil.example")[0] == 403
    assert service.get("/live?token=secret-secret-secret", Accept="text/html")[0] == 400
    assert not [line for line in service.process.lines if "secret-secret" in line]


def test_paths_that_do_not_exist_cost_no_page(service: PageService) -> None:
    for number in range(70):  # the page keeps 64 pages in memory
        assert service.get(f"/shared/{number}")[0] == service.get(f"/none/{number}")[0] == 404
    status, body = service.get("/none", Accept="text/html")
    assert (status, b"No such page" in body) == (404, True)
    assert service.get("/live", Accept="text/html")[0] == 200


def test_200_connections_and_a_reader_that_never_reads_do_not_stop_the_page(service: PageService) -> None:
    silent = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(200)]
    try:
        for each in silent[:100]:
            each.sendall(b"GET /live HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/html\r\n\r\n")  # never read
        codes = [service.get("/live", Accept="text/html")[0] for _ in range(5)]
        assert set(codes) <= {200, 503}
        assert service.get("/api/streams")[0] == 200
    finally:
        for each in silent:
            each.close()
    wait_until(lambda: service.get("/live", Accept="text/html")[0] == 200, "room for browsers again", 30.0)


def test_beyond_loopback_a_token_is_required_and_opens_the_page(
    service: PageService, browser: Any, tmp_path: Path
) -> None:
    with Service("web", service.process.endpoint, "--host", "0.0.0.0", "--port", "0", cwd=tmp_path) as refused:
        refused.wait_for_line("host 0.0.0.0: anybody in the network could use the page; give --token-file FILE")
        assert refused.wait() == 2
    token = "page-token-" + "0123456789abcdef"
    (tmp_path / "token").write_text(token)
    (tmp_path / "token").chmod(0o600)
    arguments = ["--host", "0.0.0.0", "--port", "0", "--token-file", "token"]
    with Service("web", service.process.endpoint, *arguments, cwd=tmp_path) as page_process:
        port = page_process.wait_for_line(r"the page is on http://0\.0\.0\.0:(\d+)")[1]
        with open_tab(browser, f"http://127.0.0.1:{port}") as tab:
            page = tab.open("/live/day")
            page.wait_for_url("**/login?next=/live/day")
            assert tab.find_violations() == []
            page.get_by_label("Token").fill("wrong")
            page.get_by_role("button", name="Log in").click()
            page.get_by_text("Wrong token.").wait_for()
            assert [each for each in tab.faults if "401" not in each] == []
            tab.faults.clear()
            page.get_by_label("Token").fill(token)
            page.keyboard.press("Enter")
            page.wait_for_url("**/live/day")
            wait_until(lambda: pictures(tab, "day") >= 2, "pictures after the login")
            page.get_by_role("button", name="Log out").click()
            page.wait_for_url("**/login")
        assert not [line for line in page_process.lines if token in line]


def test_the_page_connects_again_after_a_restart(service: PageService, browser: Any) -> None:
    with open_tab(browser, service.base) as tab:
        page = tab.open("/live")
        page.locator(".tile[data-stream=day][data-state=live]").wait_for()
        service.stop()
        page.locator("#notice", has_text="had no connection").wait_for()
        assert page.locator(".tile[data-stream=day]").get_attribute("data-state") != "live"
        service.restart()
        page.locator(".tile[data-stream=day][data-state=live]").wait_for(timeout=60_000)
        before = pictures(tab, "day")
        wait_until(lambda: pictures(tab, "day") > before, "pictures after the restart", 30.0)
        page.locator("#notice").wait_for(state="hidden")
        # While the server was away, the browser reported requests and WebSockets that failed.
        tab.faults = [each for each in tab.faults if not each.startswith("error: ")]
        before = pictures(tab, "day")
        wait_until(lambda: pictures(tab, "day") > before, "pictures without further errors")
