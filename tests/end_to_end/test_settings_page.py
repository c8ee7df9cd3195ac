"""The page Settings against a real service: edits of its file take effect, and previews equal its journal."""

from __future__ import annotations

import json
import re
import signal
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import av
import pytest
from support.browser import Tab, open_tab, start_chromium
from support.clips import draw_light, film
from support.hub_process import read_journal, wait_until
from support.live import Setup
from support.rtsp_server import RtspServer
from support.service import DEADLINE_S, Service

from streamclf.classifier.action_tracker import ActionTracker
from streamclf.config.actions import ActionConfig
from streamclf.config.file_version import file_signature

pytest.importorskip("nicegui", reason="the extra web is not installed")

PASSWORD = "geheim-4711"
THRESHOLDS = {"on": 0.8, "off": 0.5, "min_s": 0.2, "cooldown_s": 0.5}
FILE = """\
# Cameras of the office
model: brightness
engine: {threads: 1}
streams:
  blinks: {url: lights.mp4, pace: fast}  # a film of a lamp
  # the second one
  stays:
    url: lights.mp4
    loop: true
actions:
  bright: {on: 0.8, off: 0.5, min_s: 0.2, cooldown_s: 0.5}  # the lamp
publish: {events: "tcp://127.0.0.1:*", replay: "tcp://127.0.0.1:*", journal: events.db}
outlets: {web: {port: 0}}
"""


def write_lights(path: Path) -> None:
    """Write some 100 s at 10 frames per second, in which the light is on for times of many lengths."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        lengths = [(3 + 5 * number % 17, 4 + 3 * number % 23) for number in range(40)]
        lights = [light for on, off in lengths for light in [200] * on + [40] * off]
        for number, light in enumerate(lights):
            frame = av.VideoFrame.from_ndarray(draw_light(number, 64, 48, light), "rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


class RunningPage:
    """A service with a page, and requests to its REST."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder, self.service = folder, service
        self.base = service.wait_for_line(r"the page is on (http://\S+)")[1]
        service.wait_for_line("publishing on")

    @property
    def path(self) -> Path:
        return self.folder / "service.yaml"

    def call(self, path: str, body: Any = None) -> Any:
        """Send a request; return the answer's JSON, or (status, detail) for a refusal."""
        headers = {"Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/api/settings{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)["detail"]

    def edit(self, **edit: Any) -> Any:
        return self.call("/edits", {"version": self.call("")["version"], "edit": edit})

    def wait_outcome(self, saved: str) -> Any:
        """Wait until the service has read a save of the file; return the result."""
        results: list[Any] = []

        def is_read() -> bool:
            results.append(self.call(f"/result?saved={saved}"))
            return bool(results[-1]["outcome"] in ("applied", "refused"))

        wait_until(is_read, "the service reads the file", DEADLINE_S)
        return results[-1]

    def wait_state(self, stream: str, state: str) -> None:
        def is_there() -> bool:
            found = {each["stream"]: each for each in self.call("")["streams"]}
            return stream in found and found[stream]["state"] == state

        wait_until(is_there, f"{stream} is {state}", DEADLINE_S)


@contextmanager
def reload_at_once(path: Path, service: Service) -> Iterator[None]:
    """Send SIGHUP to the service after each change of the file: it would read the file two seconds later by itself."""
    done = threading.Event()

    def watch() -> None:
        seen = file_signature(path)
        while not done.wait(0.05):
            if (now := file_signature(path)) != seen:
                seen = now
                service.process.send_signal(signal.SIGHUP)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(DEADLINE_S)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    folder = tmp_path_factory.mktemp("settings")
    Setup(folder)
    write_lights(folder / "lights.mp4")
    path = folder / "service.yaml"
    path.write_text(FILE)
    with Service("run", str(path), cwd=folder) as service, reload_at_once(path, service):
        running = RunningPage(folder, service)
        running.wait_state("stays", "live")
        yield running


@pytest.fixture
def tab(page: RunningPage, browser: Any) -> Iterator[Tab]:
    page.path.write_text(FILE)
    (page.folder / "service.env").unlink(missing_ok=True)
    wait_until(lambda: page.call("")["service"]["outcome"] == "applied", "the file of the test is applied", DEADLINE_S)
    with open_tab(browser, page.base, viewport={"width": 1280, "height": 900}) as tab:
        tab.open("/settings")
        tab.page.wait_for_selector("[data-stream=stays]")
        yield tab
        # A browser's console lists every refused request; the tests check what the page shows of it.
        tab.faults = [each for each in tab.faults if not re.search(r"status of (409|422) ", each)]
        assert tab.faults == []


def wait_text(tab: Tab, selector: str, text: str) -> None:
    from playwright.sync_api import expect

    expect(tab.page.locator(selector)).to_contain_text(re.compile(text), timeout=1000 * DEADLINE_S)


def starts_in_journal(events: list[dict[str, Any]], stream: str) -> list[tuple[float, float]]:
    """Return (started_s, at_s) of each start of an action."""
    return [
        (event["started_s"], event["at_s"])
        for event in events
        if event["type"] == "action" and event["stream"] == stream and event["phase"] == "start"
    ]


def predictions_in_journal(events: list[dict[str, Any]], stream: str) -> list[dict[str, Any]]:
    return [event for event in events if event["type"] == "prediction" and event["stream"] == stream]


def test_a_preview_equals_the_actions_in_the_journal_and_a_recount_of_it(page: RunningPage) -> None:
    page.path.write_text(FILE)  # for a second attempt
    wait_until(lambda: len(starts_in_journal(read_journal(page.folder / "events.db"), "blinks")) > 15, "16 actions", 90)
    paused = page.edit(change="pause_stream", stream="blinks", paused=True)
    assert page.wait_outcome(paused["settings"]["saved"])["outcome"] == "applied"
    page.wait_state("blinks", "offline")
    body = {"stream": "blinks", "label": "bright", **THRESHOLDS}
    preview = page.call("/preview", body)
    events = read_journal(page.folder / "events.db")
    predictions = predictions_in_journal(events, "blinks")
    times = {each["window"]["end_s"]: each["time"] for each in predictions}
    assert len(preview["tried"]) == preview["tried_count"] == preview["present_count"] > 15
    assert preview["tried"] == preview["present"]
    real = starts_in_journal(events, "blinks")
    assert len(real) == len(preview["tried"])
    assert preview["predictions"] == len(predictions)
    if len(times) == len(predictions):  # in a second attempt, the film was played twice
        expected = [times[at_s] for _, at_s in real]
        assert [time_text(firing["fired_s"]) for firing in preview["tried"]] == expected

    others = {"on": 0.6, "off": 0.3, "min_s": 0.9, "cooldown_s": 4.0}
    tried = page.call("/preview", {**body, **others})
    tracker = ActionTracker({"bright": ActionConfig(**others)})
    recount = []
    for event in predictions:
        window = event["window"]
        changes = tracker.update(dict(event["top"]), window["start_s"], window["end_s"], window["segment"])
        recount += [event["time"] for change in changes if change.phase == "start"]
    assert [time_text(firing["fired_s"]) for firing in tried["tried"]] == recount
    assert 0 < len(recount) < len(real)
    assert 0 < len(tried["curve"]) <= 721
    assert page.call("/preview", {**body, "stream": "gone"})[0] == 404
    assert page.call("/preview", {**body, "on": 0.3})[0] == 422


def time_text(time_s: float) -> str:
    """Format a time as events do."""
    return f"{datetime.fromtimestamp(time_s, timezone.utc):%Y-%m-%dT%H:%M:%S.%f}Z"


def test_a_stream_is_tested_added_paused_and_removed_in_the_browser(page: RunningPage, tab: Tab) -> None:
    with RtspServer({"cam": film(frames=50)}, auth=("admin", PASSWORD)) as camera:
        browser = tab.page
        browser.locator("summary").click()
        browser.get_by_label("Name in the configuration").fill("hall")
        browser.get_by_label("Display name").fill("Hall <b>&amp;</b>")
        browser.get_by_label("Address or file").fill(camera.url("cam").replace(f"admin:{PASSWORD}@", ""))
        browser.get_by_label("User").fill("admin")
        browser.get_by_label("Password").fill("wrong-one-4712")
        browser.get_by_role("button", name="Test").click()
        wait_text(tab, ".settings-test", "refuse|password|401")
        browser.get_by_label("Password").fill(PASSWORD)
        browser.get_by_role("button", name="Test").click()
        wait_text(tab, ".settings-test", r"The source works: h264, \d+×\d+, [\d.]+ frames/s")
        assert (
            browser.locator(".settings-picture").evaluate("image => image.decode().then(() => image.naturalWidth)")
            > 100
        )
        assert tab.find_violations() == []
        browser.get_by_role("button", name="Add", exact=True).click()
        wait_text(tab, ".settings-message", "Add the stream hall: the service has applied it")
        page.wait_state("hall", "live")
        wait_text(tab, "[data-stream=hall]", "Hall <b>&amp;</b>.*live")
        assert PASSWORD not in browser.content() + page.path.read_text()
        assert "${HALL_USER}:${HALL_PASSWORD}@" in page.path.read_text()
        assert stat.S_IMODE((page.folder / "service.env").stat().st_mode) == 0o600

        browser.get_by_role("button", name="Pause Hall").click()
        wait_text(tab, ".settings-message", "Pause the stream hall: the service has applied it")
        page.wait_state("hall", "offline")
        wait_text(tab, "[data-stream=hall] .settings-state", "paused")
        browser.get_by_role("button", name="Remove Hall").click()
        assert tab.find_violations() == []
        browser.locator("dialog").get_by_role("button", name="Remove").click()
        wait_text(tab, ".settings-message", "Remove the stream hall: the service has applied it")
        assert page.path.read_text() == FILE
        browser.get_by_role("button", name="Undo: Remove the stream hall").click()
        wait_text(tab, ".settings-message", "Undo: Remove the stream hall: the service has applied it")
        assert "enabled: false" in page.path.read_text()
    assert PASSWORD not in "\n".join(page.service.lines)
    assert "wrong-one-4712" not in "\n".join(page.service.lines)


def test_regions_and_masks_are_drawn_with_the_mouse_and_in_numbers(page: RunningPage, tab: Tab) -> None:
    browser = tab.page
    tab.open("/live/stays").get_by_role("link", name="Regions and masks").click()
    dialog = browser.get_by_role("dialog")
    browser.wait_for_selector("canvas.area-picture[data-pictures]")
    box = dialog.locator("svg.area-shapes").bounding_box()
    assert box is not None

    def drag(*points: tuple[float, float]) -> None:
        for number, (x, y) in enumerate(points):
            browser.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
            if number == 0:
                browser.mouse.down()
        browser.mouse.up()

    drag((0.1, 0.2), (0.3, 0.5), (0.6, 0.9))
    dialog.get_by_label("Name").fill("lamp")
    dialog.get_by_label("Left %").fill("12.5")
    drag((0.3, 0.5), (0.3, 0.45))  # moves it up
    dialog.get_by_label("Draw masks").check()
    drag((0.75, 0.05), (0.99, 0.3))
    assert tab.find_violations() == []
    dialog.get_by_role("button", name="Add a mask").click()
    assert dialog.locator(".area-row").count() == 3
    dialog.get_by_role("button", name="Delete Mask 2").click()
    values = [float(each.input_value()) for each in dialog.locator(".area-row-region [data-side]").all()]
    assert values == pytest.approx([12.5, 15, 60, 85], abs=0.5)
    dialog.get_by_label("Left %").first.fill("70")
    dialog.get_by_role("button", name="Save").click()
    assert dialog.is_visible(), "the left edge is right of the right one"
    dialog.get_by_label("Left %").first.fill("12.5")
    dialog.get_by_label("Rotation").select_option("180")
    dialog.get_by_role("button", name="Save").click()
    wait_text(tab, ".settings-message", "Set the regions and masks of the stream stays: the service has applied it")
    area = next(each for each in page.call("")["streams"] if each["stream"] == "stays")["area"]
    assert (area["rotate"], [each["name"] for each in area["regions"]], len(area["mask"])) == (180, ["lamp"], 1)
    assert area["regions"][0]["region"] == pytest.approx([0.4, 0.15, 0.875, 0.85], abs=0.01), "turned with the picture"
    assert area["mask"][0][0] == pytest.approx([0.01, 0.7], abs=0.01)
    assert re.search(r"\n    rotate: 180\n    mask: \[\[0\.0\d*, 0\.\d+, 0\.2\d*, 0\.\d+\]\]\n", page.path.read_text())
    wait_until(
        lambda: any(
            event["type"] == "prediction" and event.get("region") == "lamp"
            for event in read_journal(page.folder / "events.db")
        ),
        "predictions of the region",
        DEADLINE_S,
    )
    browser.get_by_role("button", name="Undo: Set the regions and masks of the stream stays").click()
    wait_text(tab, ".settings-message", "Undo.*: the service has applied it")
    assert page.path.read_text() == FILE


def test_thresholds_are_previewed_and_saved_in_the_browser(page: RunningPage, tab: Tab) -> None:
    browser = tab.page
    browser.get_by_label("Stream", exact=True).select_option("stays")
    wait_text(tab, ".settings-preview-text", "would have started (once|[0-9]+ times) in .*; with the present ones")
    browser.get_by_label("On: the action starts at this probability", exact=True).fill("0.75")
    browser.get_by_label("Time at “on” or above until it starts", exact=True).fill("5")
    wait_text(tab, ".settings-preview-text", "would have started 0 times")
    assert browser.locator(".settings-chart svg .curve").count() == 1
    described = r"^Chart of stays: probability of bright in the last .*, with 0 actions: last \d\.\d\d.* highest "
    assert browser.get_by_role("img", name=re.compile(described)).count() == 1
    browser.get_by_role("button", name="Save").click()
    wait_text(tab, ".settings-message", "the service has applied it")
    text = page.path.read_text()
    assert "bright: {on: 0.75, off: 0.5, min_s: 5, cooldown_s: 0.5}  # the lamp\n" in text
    assert text.replace("0.75", "0.8").replace("min_s: 5", "min_s: 0.2") == FILE
    browser.get_by_label("Action", exact=True).select_option("dark")
    wait_text(tab, ".settings-preview-text", "now it is not reported as an action")
    browser.get_by_label("Apply changes to").select_option("one")
    browser.get_by_role("button", name="Report as an action").click()
    wait_text(tab, ".settings-message", "'dark' for the stream stays: the service has applied it")
    assert page.call("")["streams"][1]["own_actions"] == ["dark"]
    browser.get_by_label("Off: the action ends below this probability", exact=True).fill("0.9")
    wait_text(tab, ".settings-preview-text", "“Off” is 0.9. It must be lower than “on”, which is ")
    assert browser.get_by_role("button", name="Save").is_disabled()


def test_an_edit_by_hand_is_shown_in_the_browser_and_not_overwritten(page: RunningPage, tab: Tab) -> None:
    by_hand = FILE.replace("# the lamp", "# the lamp on the desk")
    page.path.write_text(by_hand)
    tab.page.get_by_role("button", name="Pause stays").click()
    dialog = tab.page.locator("dialog")
    dialog.wait_for()
    shown = dialog.inner_text()
    assert "nothing was written" in shown
    assert "+  bright: {on: 0.8, off: 0.5, min_s: 0.2, cooldown_s: 0.5}  # the lamp on the desk" in shown
    assert "+    enabled: false" in shown
    assert page.path.read_text() == by_hand
    assert tab.find_violations() == []
    dialog.get_by_role("button", name="Load the file").click()
    tab.page.get_by_role("button", name="Pause stays").click()
    wait_text(tab, ".settings-message", "Pause the stream stays: the service has applied it")
    assert page.path.read_text().count("# the lamp on the desk") == 1


def test_a_refusal_of_the_checks_and_of_the_service_are_shown(page: RunningPage, tab: Tab) -> None:
    browser = tab.page
    browser.locator("summary").click()
    browser.get_by_label("Name in the configuration").fill("hall")
    browser.get_by_label("Address or file").fill("absent.mp4")
    browser.get_by_role("button", name="Add", exact=True).click()
    wait_text(tab, ".settings-problem", "Refused, nothing was written: .*absent.mp4: no such file")
    assert page.path.read_text() == FILE
    page.path.write_text(FILE.replace("events.db", "other.db"))
    wait_text(tab, ".settings-problem", "The service refuses the file: publish.journal=.*other.db: cannot change")


def test_settings_that_cannot_be_read_are_said_until_they_can(tab: Tab) -> None:
    tab.page.route("**/api/settings", lambda route: route.fulfill(status=500, body=""))
    tab.open("/settings")
    wait_text(tab, ".settings-problem", "cannot be read: the page's server answered with the error 500")
    tab.page.unroute("**/api/settings")
    tab.page.wait_for_selector("[data-stream=stays]")
    tab.page.locator(".settings-problem").first.wait_for(state="hidden")
    tab.faults.clear()  # the browser reports the refusals


def test_the_page_fits_a_phone_and_is_accessible(page: RunningPage, browser: Any) -> None:
    for scheme in ("dark", "light"):
        with open_tab(browser, page.base, viewport={"width": 390, "height": 844}, color_scheme=scheme) as tab:
            tab.open("/settings")
            tab.page.wait_for_selector(".settings-preview-text[data-count]")
            tab.page.locator("summary").click()
            assert tab.find_violations() == []
            assert tab.page.evaluate("document.querySelector('#main').scrollWidth") <= 390


def test_a_read_only_file_is_said_and_its_buttons_are_disabled(page: RunningPage, tab: Tab) -> None:
    page.path.chmod(0o444)
    try:
        wait_text(tab, ".settings-file", "read-only for this process; edit it by hand")
        assert tab.page.get_by_role("button", name="Pause stays").is_disabled()
        status, detail = page.edit(change="pause_stream", stream="stays", paused=True)
        assert (status, "read-only" in detail) == (422, True)
    finally:
        page.path.chmod(0o644)


def test_a_wrong_request_is_refused_without_repeating_it(page: RunningPage) -> None:
    status, detail = page.call("/test", {"stream": "x", "password": [PASSWORD], "no_such": PASSWORD})
    assert status == 422
    assert PASSWORD not in json.dumps(detail)
    status, detail = page.edit(change="add_stream", stream="../x", url=f"rtsp://a:{PASSWORD}@h/x")
    assert status == 422
    assert PASSWORD not in json.dumps(detail)
    assert page.edit(change="format_disk")[0] == 422


def test_a_page_without_the_file_says_so(page: RunningPage, browser: Any, tmp_path: Path) -> None:
    with Service("web", page.service.endpoint, "--port", "0", cwd=tmp_path) as away:
        base = away.wait_for_line(r"the page is on (http://\S+)")[1]
        with urllib.request.urlopen(f"{base}/api/settings", timeout=DEADLINE_S) as answer:
            found = json.load(answer)
        assert not found["available"]
        assert "does not have the configuration's file" in found["reason"]
        request = urllib.request.Request(
            f"{base}/api/settings/undo", b'{"version": ""}', {"Content-Type": "application/json"}
        )
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(request, timeout=DEADLINE_S)
        with open_tab(browser, base) as tab:
            tab.open("/settings")
            wait_text(tab, ".settings-hint", "does not have the configuration's file")
            assert tab.find_violations() == []
