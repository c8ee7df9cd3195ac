"""The page Events in a browser: events of a real hub, and films that play in place."""

from __future__ import annotations

import itertools
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.browser import Tab, open_tab, start_chromium
from support.hub_process import HubProcess, read_journal, wait_until
from support.recorded import action_draft, clip_draft, write_film
from support.service import Service

from streamclf.producer.link import EventProducer

pytest.importorskip("nicegui", reason="the extra [web] is not installed")

HTML = "<img src=x onerror=alert(1)><b>bold</b>"


@dataclass
class Page:
    """A hub, and a page that shows its events."""

    hub: HubProcess
    producer: EventProducer
    folder: Path
    base: str
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def act(self, stream: str, label: str, *, film: bool = False, ends: bool = True, started_s: float = 1.0) -> int:
        """Publish an action, with a film where `film` is true; return the offset of its start."""
        self.producer.post(action_draft(stream, label, "start", started_s=started_s, at_s=started_s))
        if ends:
            self.producer.post(action_draft(stream, label, "end", started_s=started_s, at_s=started_s + 3.5))
        self.flush()
        started = [e for e in read_journal(self.hub.journal) if e["type"] == "action" and e["phase"] == "start"]
        offset = int(started[-1]["offset"])
        if film:
            path = f"{stream}/2026-11-29/120000-{offset:03}-film.mp4"
            size = write_film(self.folder, path)
            self.producer.post(clip_draft(stream, label, path, offset, started[-1]["epoch"], bytes=size))
            self.flush()
        return offset

    def path_of(self, offset: int, stream: str, suffix: str = ".mp4") -> Path:
        """Return the path of the film of an action, or of a file beside it."""
        return self.folder / stream / "2026-11-29" / f"120000-{offset:03}-film{suffix}"

    def new_name(self, stem: str) -> str:
        """Return the name of a stream without events, also for the second attempt of a test."""
        return f"{stem}-{next(self.numbers)}"

    def flush(self) -> None:
        wait_until(lambda: not self.producer.unacknowledged, "journalled")

    def get(self, path: str, method: str = "GET", body: object = None, **headers: str) -> tuple[int, Any, bytes]:
        """Send a request; return status, headers and body."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.base + path, data, {"Content-Type": "application/json", **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def events(self, query: str = "") -> list[dict[str, Any]]:
        status, _, body = self.get(f"/api/events?{query}")
        assert status == 200, body
        found: list[dict[str, Any]] = json.loads(body)["events"]
        return found

    def wait_for(self, offset: int, clips: int = 0) -> None:
        wait_until(
            lambda: any(e["offset"] == offset and len(e["clips"]) >= clips for e in self.events()), f"event {offset}"
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("clips")
    with ExitStack() as stack:
        hub = stack.enter_context(HubProcess())
        producer = stack.enter_context(EventProducer(hub.link, "test"))
        arguments = ("web", hub.events, "--port", "0", "--clips", str(folder))
        service = stack.enter_context(Service(*arguments, cwd=folder))
        base = service.wait_for_line(r"the page is on (\S+)")[1]
        yield Page(hub, producer, folder, base)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_chromium() as browser:
        yield browser


@pytest.fixture
def tab(browser: Any, site: Page) -> Iterator[Tab]:
    with open_tab(browser, site.base, viewport={"width": 1280, "height": 800}) as tab:
        yield tab


def test_an_action_is_on_the_page_while_it_lasts_and_its_clip_plays_when_it_is_over(site: Page, tab: Tab) -> None:
    page = tab.open("/events")
    page.get_by_text("events.").or_(page.get_by_text("No events")).wait_for()
    site.act("door", "waving now", ends=False)
    page.locator(".is-running", has_text="waving now").wait_for()
    site.producer.post(action_draft("door", "waving now", "end", started_s=1.0, at_s=4.5))
    offset = site.act("yard", "falling", film=True)
    page.locator(".event-row", has_text="falling").locator("img").wait_for()
    page.locator(".event-row", has_text="falling").click()
    page.wait_for_function(
        "() => { const v = document.querySelector('video'); return v.readyState >= 2 && v.currentTime > 0.2 }"
    )
    assert page.url.split("?")[0].endswith(f"/events/{offset}")
    assert page.locator(".is-running", has_text="waving now").count() == 0
    assert page.get_by_text("Highest probability").is_visible()


def test_filters_are_in_the_address_and_a_link_shows_the_same_list(site: Page, tab: Tab) -> None:
    gate, other_gate = site.new_name("gate"), site.new_name("gate")
    first = site.act(gate, "opened")
    site.wait_for(site.act(other_gate, "closed"))
    page = tab.open("/events")
    page.locator(".event-row", has_text="closed").first.wait_for()
    page.locator("#filter-stream").focus()
    page.locator("#filter-stream option", has_text=other_gate).wait_for(state="attached")
    page.locator("#filter-stream").select_option(label=gate)
    page.wait_for_function("() => document.querySelectorAll('.event-row').length === 1")
    assert f"stream={gate}" in page.url
    link = page.url
    with open_tab(page.context.browser, site.base) as other:
        shown = other.open(link.removeprefix(site.base))
        shown.locator(".event-row").first.wait_for()
        assert shown.locator(".event-label").all_inner_texts() == ["opened"]
        assert shown.locator("#filter-stream").input_value() == f"={gate}"
    page.get_by_role("button", name="Clear").click()
    page.get_by_label("Text", exact=True).fill(f"OPENED {gate}")
    page.wait_for_function("() => document.querySelectorAll('.event-row').length === 1")
    page.locator(".event-row").click()
    page.wait_for_url(f"**/events/{first}?*")


def test_keys_move_play_star_and_delete(site: Page, tab: Tab) -> None:
    lab = site.new_name("lab")
    old = site.act(lab, "first", film=True)
    new = site.act(lab, "second", film=True)
    site.wait_for(old, 1)
    site.wait_for(new, 1)
    page = tab.open(f"/events?stream={lab}")
    page.wait_for_function("() => document.querySelectorAll('.event-row img').length === 2")
    page.keyboard.press("j")
    page.wait_for_url(f"**/events/{new}?*")
    page.keyboard.press("j")
    page.wait_for_url(f"**/events/{old}?*")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.querySelector('video').currentTime > 0")
    page.keyboard.press("s")
    page.get_by_role("button", name="★ Starred").wait_for()
    assert site.path_of(old, lab, ".star").exists()
    page.keyboard.press("Delete")
    page.get_by_text("Remove the star first").wait_for()
    page.keyboard.press("k")
    page.wait_for_url(f"**/events/{new}?*")
    page.keyboard.press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert site.path_of(new, lab).exists()
    page.keyboard.press("Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    page.wait_for_function("() => document.querySelectorAll('.event-row').length === 1")
    assert not site.path_of(new, lab).exists()
    assert [event["label"] for event in site.events(f"stream={lab}")] == ["first"]
    page.reload()
    page.locator(".event-star", has_text="★").wait_for()


def test_html_in_labels_is_text(site: Page, tab: Tab) -> None:
    offset = site.act("door", HTML)
    site.wait_for(offset)
    page = tab.open(f"/events/{offset}")
    page.locator(".detail-title", has_text=HTML).wait_for()
    assert page.locator(".event-label", has_text=HTML).first.is_visible()
    assert page.locator("main b, main img[src='x']").count() == 0
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_text(HTML).wait_for()


def test_a_shared_clip_needs_no_login_and_opens_one_file(site: Page, tab: Tab) -> None:
    offset = site.act("porch", "parcel", film=True)
    other = site.act("porch", "other", film=True)
    site.wait_for(offset, 1)
    page = tab.open(f"/events/{offset}")
    page.get_by_role("button", name="Share").click()
    field = page.get_by_label("The clip alone")
    page.wait_for_function("() => document.querySelector('#share-film').value !== ''")
    link = field.input_value()
    assert site.get(link.removeprefix(site.base))[0] == 200
    assert site.get(link.removeprefix(site.base).replace(f"{offset:03}-film", f"{other:03}-film"))[0] == 404


def test_failed_requests_are_shown_with_their_reason(site: Page, tab: Tab) -> None:
    offset = site.act("porch", "parcel", film=True)
    site.wait_for(offset, 1)
    page = tab.open("/events/999999999")
    problem = page.locator(".events-problem")
    problem.get_by_text("The event cannot be shown: no event 999999999; it was deleted").wait_for()
    page.route("**/api/events?*", lambda route: route.abort())
    problem.get_by_text("The events cannot be read: the page's server does not answer").wait_for()
    page.unroute("**/api/events?*")
    problem.wait_for(state="hidden")
    page.locator(f"a.event-row[href*='/events/{offset}?']").click()
    page.route("**/share?*", lambda route: route.abort())
    page.get_by_role("button", name="Share").click()
    page.get_by_role("dialog").get_by_text("There is no link to the clip: the page's server does not answer").wait_for()
    assert page.get_by_label("The clip alone").is_hidden()
    tab.faults.clear()  # the browser reports the requests that failed


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_no_violation_and_a_phone_scrolls_in_one_direction(site: Page, browser: Any, theme: str) -> None:
    offset = site.act("door", "waving " * 20, film=True)
    site.wait_for(offset, 1)
    with open_tab(browser, site.base, viewport={"width": 360, "height": 740}, color_scheme=theme) as tab:
        page = tab.open(f"/events/{offset}")
        page.locator(".detail video").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert tab.find_violations() == []
        page.set_viewport_size({"width": 1400, "height": 900})
        assert tab.find_violations() == []


def test_a_film_is_served_in_ranges(site: Page) -> None:
    stream = site.new_name("range")
    offset = site.act(stream, "walk", film=True)
    site.wait_for(offset, 1)
    (event,) = site.events(f"stream={stream}")
    film = event["clips"][0]["film"]
    data = (site.folder / film.removeprefix("/api/clips/")).read_bytes()
    status, headers, body = site.get(film)
    assert (status, body, headers["content-type"], headers["accept-ranges"]) == (200, data, "video/mp4", "bytes")
    for asked, expected in (("bytes=0-9", data[:10]), ("bytes=10-", data[10:]), ("bytes=-7", data[-7:])):
        status, headers, body = site.get(film, Range=asked)
        assert (status, body) == (206, expected), asked
        first = data.index(expected) if asked != "bytes=0-9" else 0
        assert headers["content-range"] == f"bytes {first}-{first + len(expected) - 1}/{len(data)}"
    assert site.get(film, Range=f"bytes={len(data)}-")[0] == 416
    for ignored in ("bytes=5-2", "bytes=a-b", "items=0-1", "bytes=0-1,4-5"):
        assert site.get(film, Range=ignored)[::2] == (200, data), ignored
    assert site.get(film, **{"If-None-Match": headers["etag"]})[0] == 304
    assert site.get(film + "?download=true")[1]["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "path",
    [
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        "/etc/passwd",
        "door/2026-11-29/../../../etc/passwd",
        "door/2026-11-29/120000-000-x.txt",
        "door/2026-11-29/120000-000-x.star",
        "door/2026-11-29/.120000-000-x.mp4.part",
        "door/2026-11-29/%00.mp4",
        "secret/2026-11-29/120000-000-link.mp4",
    ],
)
def test_no_other_file_is_served(site: Page, path: str) -> None:
    link = site.folder / "secret" / "2026-11-29" / "120000-000-link.mp4"
    if not link.is_symlink():
        link.parent.mkdir(parents=True)
        link.symlink_to("/etc/passwd")
    assert site.get(f"/api/clips/{path}")[0] == 404
    assert b"root:" not in site.get(f"/api/clips/{path}")[2]


def test_wrong_requests_are_answered_with_the_reason(site: Page) -> None:
    for query in ("limit=0", "limit=1000", "cursor=x", "since=yesterday", f"text={'x' * 300}", f"label={'x' * 300}"):
        status, _, body = site.get(f"/api/events?{query}")
        assert status == 422, (query, body)
    assert site.get("/api/events/999999999")[0] == 404
    assert site.get("/api/events/x")[0] == 422
    offset = site.act("bad", "running", ends=False)
    site.wait_for(offset)
    status, _, body = site.get(f"/api/events/{offset}", "DELETE")
    assert status == 422
    assert b"still running" in body
    assert site.get(f"/api/events/{offset}/star", "POST", {"starred": True})[0] == 422
    foreign = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert site.get(f"/api/events/{offset}", "DELETE", **foreign)[0] == 403


def test_the_answer_is_empty_until_something_changes(site: Page) -> None:
    version = json.loads(site.get("/api/events")[2])["version"]
    assert site.get(f"/api/events?version={version}")[0] == 204
    site.wait_for(site.act("door", "again"))
    assert site.get(f"/api/events?version={version}")[0] == 200


def test_without_the_token_only_shared_links_open(site: Page, tmp_path: Path) -> None:
    """A link that the page shares opens one file; it ends when it expires, or with a new token."""
    token = "token-of-this-test-0123456789"
    file = tmp_path / "page.token"
    file.write_text(token)
    file.chmod(0o600)
    offset = site.act("vault", "opened", film=True)
    arguments = ("web", site.hub.events, "--port", "0", "--clips", str(site.folder), "--token-file", str(file))
    with Service(*arguments, cwd=tmp_path) as service:
        base = service.wait_for_line(r"the page is on (\S+)")[1]
        guarded = Page(site.hub, site.producer, site.folder, base)
        bearer = {"Authorization": f"Bearer {token}"}
        film = f"/api/clips/{site.path_of(offset, 'vault').relative_to(site.folder)}"
        for path, method in (
            ("/api/events", "GET"),
            (f"/api/events/{offset}", "DELETE"),
            (f"/api/events/{offset}/share", "POST"),
            (film, "GET"),
            ("/api/health", "GET"),
        ):
            assert guarded.get(path, method)[0] == 401, path
        assert guarded.get(film, Authorization="Bearer wrong")[0] == 401
        assert guarded.get(film, **bearer)[0] == 200
        wait_until(lambda: guarded.get(f"/api/events/{offset}", **bearer)[0] == 200, "the event")
        body = {"part": 1, "hours": 1}
        wait_until(lambda: guarded.get(f"/api/events/{offset}/share", "POST", body, **bearer)[0] == 200, "the clip")
        link = json.loads(guarded.get(f"/api/events/{offset}/share", "POST", body, **bearer)[2])["film"]
        assert guarded.get(link)[0] == 200
        assert guarded.get(link, Range="bytes=0-3")[0] == 206
        assert guarded.get(link.replace("opened", "x").replace(f"{offset:03}", "999"))[0] == 404
        assert guarded.get(link, "DELETE")[0] in (404, 405)
        assert site.get(link)[0] == 404, "another page has another key"
        assert token not in "\n".join(service.lines)
