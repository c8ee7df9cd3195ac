"""The page Teach against a real service: examples, training, going live, and back."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import page_with_teach_double
from support.browser import Tab, open_tab, start_chromium
from support.clips import write_clip
from support.hub_process import wait_until
from support.live import Setup
from support.service import DEADLINE_S, Service

from streamclf.config.service import load_config

pytest.importorskip("nicegui", reason="the extra web is not installed")

HTML = "<img src=x onerror=alert(1)>"
TESTS = Path(page_with_teach_double.__file__).parents[1]


class Site:
    """A service with examples, and its page, which trains with a double of `streamclf teach`."""

    def __init__(self, folder: Path, page: Service) -> None:
        self.folder = folder
        self.base = page.wait_for_line(r"the page is on (http://\S+)")[1]

    @property
    def path(self) -> Path:
        return self.folder / "service.yaml"

    def call(self, path: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
        """Send a request; return the answer's JSON, or (status, detail) for a refusal."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"{self.base}/api/teach{path}", data, {"Content-Type": "application/json", **headers}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            return error.code, str(json.load(error)["detail"])

    def films(self, project: str) -> list[str]:
        return sorted(
            each.relative_to(self.folder / "examples").as_posix()
            for each in (self.folder / "examples" / project).rglob("*.mp4")
        )

    def add_films(self, project: str, *labels: str, number: int = 2) -> None:
        """Add films of another time by hand, as a user may."""
        for label in labels:
            for each in range(number):
                folder = self.folder / "examples" / project / label
                folder.mkdir(parents=True, exist_ok=True)
                write_clip(folder / f"by-hand-{each}.mp4", frames=20, width=64, height=48)

    def save(self, project: str, label: str, *, ago_s: float = 2.0, seconds: float = 1.0) -> Any:
        begin = self.call("")["now"] - ago_s
        body = {"stream": "door", "label": label, "begin": begin, "end": begin + seconds}
        return self.call(f"/projects/{project}/save", body)


def test_the_section_is_added_with_one_click(browser: Any, tmp_path: Path) -> None:
    setup = Setup(tmp_path)
    setup.path.write_text("# mine\nmodel: brightness\nstreams: {door: {url: film.mp4, loop: true}}\n")
    address = "tcp://127.0.0.1:9"  # no service answers there
    with Service("web", address, "--port", "0", "--config", str(setup.path), cwd=tmp_path) as page:
        base = page.wait_for_line(r"the page is on (http://\S+)")[1]
        with open_tab(browser, base) as tab:
            shown = tab.open("/teach")
            shown.get_by_text("each stream must hold its last minute").wait_for()
            assert tab.find_violations() == []
            shown.get_by_role("button", name="Add it").click()
            shown.locator("#teach-stream").wait_for()
    assert setup.path.read_text().startswith("# mine\n")
    assert load_config(setup.path).examples is not None


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_chromium() as found:
        yield found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    setup = Setup(tmp_path_factory.mktemp("teach"))
    text = """\
# the yard
model: brightness
engine: {threads: 1}
streams:
  door: {url: film.mp4, loop: true}  # the door
  paused: {url: film.mp4, loop: true, enabled: false}
examples: {last_s: 20}
publish: {events: "tcp://127.0.0.1:*", replay: "tcp://127.0.0.1:*"}
"""
    setup.path.write_text(text)
    double = (str(TESTS / "support" / "page_with_teach_double.py"),)
    env = {**setup.env, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    with Service("run", str(setup.path), cwd=setup.folder, env=setup.env) as service:
        arguments = ("web", service.endpoint, "--port", "0", "--config", str(setup.path))
        with Service(*arguments, cwd=setup.folder, env=env, program=double) as page:
            found = Site(setup.folder, page)
            wait_until(lambda: isinstance(found.save("ready", "live"), dict), "examples can be saved", DEADLINE_S)
            yield found


@pytest.fixture
def tab(browser: Any, site: Site) -> Iterator[Tab]:
    with open_tab(browser, site.base, viewport={"width": 1280, "height": 1000}) as tab:
        yield tab


def choose(tab: Tab, project: str) -> Any:
    """Open the page, and choose the stream and the name of a model."""
    page = tab.open("/teach")
    page.locator("#teach-stream").select_option("door")
    page.locator("#teach-name").fill(project)
    page.locator("#teach-name").press("Tab")
    page.wait_for_function("() => Number(document.querySelector('.teach-picture').dataset.pictures) > 3")
    return page


def add_labels(page: Any, *labels: str) -> None:
    for label in labels:
        page.get_by_label("New label").fill(label)
        page.get_by_role("button", name="Add label").click()
        page.locator(".teach-hold", has_text=label).wait_for()
    page.locator("body").click(position={"x": 5, "y": 400})


def hold(page: Any, key: str, seconds: float) -> None:
    """Hold a key; a wait is what is tested here."""
    page.locator(".teach-message").evaluate("element => { element.textContent = '' }")
    page.keyboard.down(key)
    page.wait_for_timeout(1000 * seconds)
    page.keyboard.up(key)
    page.locator(".teach-message", has_text="Saved").wait_for()


def test_from_no_model_to_a_live_one_and_back(site: Site, tab: Tab) -> None:
    """Pick a stream, name two labels, hold a key while it happens, train, go live, train again, keep, go back."""
    began = site.path.read_text()
    page = choose(tab, "yard")
    page.get_by_text("Add at least two labels").wait_for()
    add_labels(page, "bright", "dark")
    assert page.get_by_role("button", name="Train").is_disabled()
    for _ in range(3):
        hold(page, "1", 0.4)
        hold(page, "2", 0.4)
    site.add_films("yard", "bright", "dark")
    assert len(site.films("yard")) == 10
    page.locator("button:not([disabled])", has_text="Train").click()
    page.get_by_text("yard was trained in").wait_for()
    assert page.get_by_text("Balanced accuracy on held-out films: 91 % (95 % interval: 80 % to 97 %)").is_visible()
    assert tab.find_violations() == []
    page.get_by_role("button", name="Go live on door (yard)").click()
    page.get_by_text("Serve the model yard on door: the service has applied it.").wait_for()
    page.locator("[data-model=yard]").wait_for()
    page.locator("[data-model=model]").wait_for()
    config = load_config(site.path)
    assert [view.models for view in config.views_of("door")] == [("", "yard")]
    assert [view.models for view in config.views_of("paused")] == [("",)]
    assert "# the door" in site.path.read_text()

    page.get_by_role("button", name="Train").click()
    page.get_by_text("yard-2 was trained in").wait_for()
    page.get_by_role("button", name="Go live on door (yard-2)").click()
    page.get_by_role("button", name="Keep yard-2, stop serving yard (yard-2)").wait_for()
    assert [*load_config(site.path).models] == ["yard", "yard-2"], "the new one is served beside the old one"
    page.get_by_role("button", name="Go back to yard (yard-2)").click()
    wait_until(lambda: [*load_config(site.path).models] == ["yard"], "one click goes back")
    page.get_by_role("button", name="Go live on door (yard-2)").click()
    page.get_by_role("button", name="Keep yard-2, stop serving yard (yard-2)").click()
    wait_until(lambda: [*load_config(site.path).models] == ["yard-2"], "the old one is removed")
    page.get_by_role("button", name="Stop serving yard-2 (yard-2)").click()
    wait_until(lambda: not load_config(site.path).models, "nothing is left of it")
    assert (site.folder / "models" / "yard" / "spec.json").exists(), "no model is deleted"
    assert "yard" not in site.path.read_text().replace("# the yard", "")
    assert began.splitlines()[0] in site.path.read_text()


def test_a_button_a_stretch_and_a_tap_give_examples(site: Site, tab: Tab) -> None:
    page = choose(tab, "marks")
    add_labels(page, "open")
    box = page.locator(".teach-hold").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.locator(".teach-now", has_text="open").wait_for()
    page.mouse.up()
    page.get_by_text(re.compile(r"Saved (0\.9|1\.[01]) s of open")).wait_for()
    page.locator(".teach-hold").focus()
    page.keyboard.down(" ")
    page.keyboard.press("Escape")
    page.keyboard.up(" ")
    page.get_by_text("Discarded.").wait_for()
    page.get_by_text("Mark an earlier stretch").click()
    page.wait_for_timeout(1500)  # the strip gets pictures
    strip = page.locator(".teach-strip").bounding_box()
    page.mouse.move(strip["x"] + 0.85 * strip["width"], strip["y"] + 20)
    page.mouse.down()
    page.mouse.move(strip["x"] + 0.97 * strip["width"], strip["y"] + 20)
    page.mouse.up()
    page.get_by_text(re.compile(r"Marked 2\.\d s")).wait_for()
    page.get_by_role("button", name="Save the stretch").click()
    page.get_by_text(re.compile(r"Saved 2\.\d s of open")).wait_for()
    page.get_by_label("From, seconds ago").fill("300")
    page.get_by_label("To, seconds ago").fill("290")
    page.get_by_role("button", name="Save the stretch").click()
    page.get_by_role("alert").get_by_text("no video of that time is kept").wait_for()
    tab.faults.clear()  # the browser reports the refusal
    assert len(site.films("marks")) == 2


def test_examples_are_watched_labelled_deleted_and_restored(site: Site, tab: Tab) -> None:
    for label in ("open", HTML):
        assert isinstance(site.save("grid", label), dict)
    page = choose(tab, "grid")
    films = page.locator(".teach-examples .teach-film[data-file]")
    page.wait_for_function("() => document.querySelectorAll('.teach-film[data-file]').length === 2")
    film = page.locator(".teach-film[data-file*='/open/'] video")
    film.evaluate("video => video.play()")
    page.wait_for_function("() => document.querySelector(\".teach-film[data-file*='/open/'] video\").currentTime > 0.1")
    page.locator(".teach-film[data-file*='/open/'] select").select_option(HTML)
    page.wait_for_function("() => document.querySelectorAll(\".teach-film[data-file*='/open/']\").length === 0")
    assert page.locator("#teach img").count() == 0
    films.first.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Undo: Delete an example").click()
    page.get_by_role("button", name=re.compile("Undo: Label an example")).click()
    page.wait_for_function("() => document.querySelectorAll(\".teach-film[data-file*='/open/']\").length === 1")
    assert len(site.films("grid")) == 2


def test_a_moment_that_was_not_certain_gets_a_label(site: Site, tab: Tab) -> None:
    assert isinstance(site.save("moments", "open"), dict)
    folder = site.folder / "examples" / ".unlabelled"
    folder.mkdir(exist_ok=True)
    write_clip(folder / "door-1.mp4", frames=20, width=64, height=48)
    page = choose(tab, "moments")
    page.get_by_text("Uncertain moments: 1").click()
    page.locator(".teach-film[data-file='.unlabelled/door-1.mp4'] select").select_option("open")
    page.get_by_text("Uncertain moments: 0").wait_for(state="attached")
    assert "moments/open/door-1.mp4" in site.films("moments")
    page.get_by_role("button", name=re.compile("Undo: Label an example")).click()
    wait_until(lambda: (folder / "door-1.mp4").exists(), "the label is taken back")


def test_a_training_is_cancelled_and_its_error_is_shown(site: Site, tab: Tab) -> None:
    site.add_films("long", "open", "shut", number=5)
    (site.folder / "examples" / "long" / ".wait").touch()
    page = choose(tab, "long")
    page.locator("button:not([disabled])", has_text="Train").click()
    page.get_by_text("Reading the films").wait_for()
    assert site.call("/projects/grid/train", {})[0] == 422, "one at a time"
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("The training was cancelled.").wait_for()
    (site.folder / "examples" / "long" / ".wait").unlink()
    (site.folder / "examples" / "long" / ".fail").touch()
    page.locator("button:not([disabled])", has_text="Train").click()
    page.get_by_text("Not trained: open: all films are the same").wait_for()
    assert not (site.folder / "models" / "long").exists()


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_page_is_accessible_and_fits_a_phone(site: Site, browser: Any, scheme: str) -> None:
    assert isinstance(site.save("phone", "x" * 256), dict)
    assert isinstance(site.save("phone", "open"), dict)
    with open_tab(browser, site.base, viewport={"width": 390, "height": 844}, color_scheme=scheme) as tab:
        page = choose(tab, "phone")
        page.wait_for_function("() => document.querySelectorAll('.teach-film[data-file]').length >= 2")
        page.get_by_text("Mark an earlier stretch").click()
        assert tab.find_violations() == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(
            "document.querySelector('.main').scrollWidth <= document.querySelector('.main').clientWidth"
        )


def test_wrong_requests_get_one_clear_line(site: Site) -> None:
    now_s = time.time()
    stretch = {"stream": "door", "label": "open", "begin": now_s - 2, "end": now_s - 1}
    assert site.call("/projects/yard/save", {**stretch, "stream": "gone"}) == (
        422, "streams.gone: no such stream; it was removed or renamed",
    )  # fmt: skip
    assert "no process reads this stream" in site.call("/projects/yard/save", {**stretch, "stream": "paused"})[1]
    assert "no such region" in site.call("/projects/yard/save", {**stretch, "region": "gate"})[1]
    assert "it must have 0.2 to 600 s" in site.call("/projects/yard/save", {**stretch, "end": now_s + 9999})[1]
    assert site.call("/projects/yard/save", {**stretch, "label": "x" * 257})[0] == 422
    assert "control character" in site.call("/projects/yard/save", {**stretch, "label": "a\nb"})[1]
    assert site.call("/projects/..%2Fx/labels", {"label": "open"})[0] in (404, 422)
    assert site.call("/projects/yard/delete", {"file": "../service.yaml"})[0] == 404
    assert site.call("/film?file=../../etc/passwd")[0] == 404
    assert site.call("/projects/yard/live", {"version": "other-2", "stream": "door"})[0] == 422
    assert site.call("/projects/yard/train", {}, Origin="http://evil.example")[0] == 403
    assert not (site.folder / "examples" / "x").exists()
