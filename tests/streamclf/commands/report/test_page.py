"""The report is one file that asks for nothing else, shows figures that are right, and stays small."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle

from engines.bundle import ModelSpec
from streamclf.classifier.film_events import find_events
from streamclf.classifier.offline import FileResult
from streamclf.classifier.window_classifier import WindowResult
from streamclf.commands.report.accuracy import compute_accuracy
from streamclf.commands.report.builder import ReportBuilder
from streamclf.commands.report.film_summary import COARSE, detail_for, summarise_film
from streamclf.commands.report.page import OCCLUSION_TEXT, report_page
from streamclf.commands.report.stills import MAX_STILLS
from streamclf.errors import OutputError
from streamclf.sources import Frame
from streamclf.sources.resize import render_bgr
from streamclf.units import NS

HOSTILE = '<script>alert(1)</script>" onload="x'
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> ModelSpec:
    bundle = make_brightness_bundle(tmp_path_factory.mktemp("model") / "bundle")
    return bundle.spec.model_copy(update={"labels": ("dark", "bright", HOSTILE, "never")})


def result(pattern: str, *, step_s: float = 0.2) -> FileResult:
    """Return a film with one window for each letter: a, b or c for the labels, at probability 0.9."""
    windows = []
    for number, letter in enumerate(pattern):
        row = np.full(4, 0.1 / 3, np.float32)
        row["abc".index(letter)] = 0.9
        windows.append(WindowResult(start_s=number * step_s, end_s=number * step_s + 0.8, probabilities=row))
    return FileResult(windows=windows)


def frame(time_s: float, light: int) -> Frame:
    return Frame(
        index=0,
        pts_ns=round(time_s * NS),
        captured_ns=0,
        width=64,
        height=48,
        image=np.full((48, 64, 3), light, np.uint8),
        render=render_bgr,
    )


def build(
    spec: ModelSpec, folder: Path, films: dict[str, str], truths: dict[str, tuple[int, ...]] | None = None
) -> ReportBuilder:
    """Build a report as the command does: frames and windows of each film, then the film."""
    builder = ReportBuilder(
        folder / "r.html", spec, films=len(films), title=HOSTILE, max_batch=16, method=OCCLUSION_TEXT
    )
    builder.data.has_truth = truths is not None
    for name, pattern in films.items():
        found = result(pattern)
        for number, window in enumerate(found.windows):
            for part in range(5 if number == 0 else 1):
                builder.watch(None, frame((number + part + 4 * (number > 0)) * 0.2, 100))  # type: ignore[arg-type]
            builder.add_window(window)
        truth = None if truths is None else truths.get(name)
        builder.add_film(Path(name), found, find_events(found.windows, spec), truth=truth, notes=[HOSTILE])
    return builder


class Checker(html.parser.HTMLParser):
    """Collect tags, attributes and text, and check that elements are closed in order."""

    VOID = frozenset({"meta", "img", "path", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_self_contained_and_text_from_outside_is_text(spec: ModelSpec, tmp_path: Path) -> None:
    builder = build(spec, tmp_path, {f"/films/{HOSTILE}.mp4": "aaabbbccca", "/films/x\x1b[31m.mp4": "bbb"}, {})
    builder.add_fault(f"{HOSTILE}: no film")
    builder.write()
    page = (tmp_path / "r.html").read_text()
    checker = Checker(page)
    assert "script" not in checker.tags
    assert not [name for name, _ in checker.attributes if name.startswith("on") or name == "style"]
    assert all(
        value.startswith("data:image/jpeg;base64,") for name, value in checker.attributes if name in ("src", "href")
    )
    assert "//" not in re.sub(r"base64,[\w+/=]*|sha256-[\w+/=]*", "", page)
    assert "\x1b" not in page
    for shown in (f"{HOSTILE}.mp4", f"{HOSTILE}: no film", "x\\x1b[31m.mp4"):
        assert shown in checker.text
    policy = next(value for name, value in checker.attributes if name == "content" and "default-src" in value)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy.startswith(f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:")
    assert not list(tmp_path.glob(".r.html*"))


def test_stills_are_from_the_middle_of_the_windows_of_their_label(spec: ModelSpec, tmp_path: Path) -> None:
    builder = build(spec, tmp_path, {"one.mp4": 10 * "a" + 10 * "b" + 3 * "a"})
    builder.write()
    stills = builder.data.stills
    assert [(still.label, still.film) for still in stills] == [(0, "one.mp4"), (0, "one.mp4"), (1, "one.mp4")]
    assert sorted(round(still.time_s, 1) for still in stills) == [0.4, 2.4, 4.4]
    assert all(still.jpeg.startswith(b"\xff\xd8") and len(still.jpeg) < 20_000 for still in stills)
    Checker(report_page(builder.data))


def test_a_film_that_fails_leaves_no_stills(spec: ModelSpec, tmp_path: Path) -> None:
    builder = build(spec, tmp_path, {})
    for number, window in enumerate(result("aaaabbbb").windows):
        builder.watch(None, frame(number * 0.2, 100))  # type: ignore[arg-type]
        builder.add_window(window)
    builder.add_fault("x.mp4: damaged")
    builder.write()
    assert builder.data.stills == []
    text = Checker((tmp_path / "r.html").read_text()).text
    assert "No film could be classified." in text
    assert "x.mp4: damaged" in text


def test_the_figures_are_those_of_a_recount(spec: ModelSpec, tmp_path: Path) -> None:
    films = {"1": "aaab", "2": "aaa", "3": "bbb", "4": "abb", "5": "bbb", "6": "aaa", "7": "ccc"}
    truths = {"1": (0,), "2": (0,), "3": (0,), "4": (1,), "5": (1,), "6": (1,)}
    found = compute_accuracy(
        [(truths[name], ["abc".index(max(set(p), key=p.count))]) for name, p in films.items() if name in truths], 4
    )
    assert found is not None
    assert (found.films, found.right) == (6, 4)
    assert found.confusion is not None
    assert found.confusion.tolist() == [[2, 1, 0, 0], [1, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert found.balanced == pytest.approx(2 / 3)
    assert found.interval == pytest.approx((0.300, 0.903), abs=0.001)  # Wilson's, for 4 of 6
    assert found.recall == [pytest.approx(2 / 3), pytest.approx(2 / 3), None, None]
    assert found.shown == [0, 1]
    uneven = compute_accuracy([([0], [0])] * 8 + [([1], [0]), ([1], [1])], 2)
    assert uneven is not None
    assert (uneven.accuracy, uneven.balanced) == (0.9, 0.75)
    assert compute_accuracy([], 3) is None

    builder = build(spec, tmp_path, films, truths)
    builder.data.unknown_labels = {"<b>cat": 1}
    text = Checker(report_page(builder.data)).text
    assert "66.7%" in text
    assert "4 of 6; 95 % interval 30% to 90%" in text
    assert "6 films are few" in text
    assert "1 films have no true label of the model, and are not counted: <b>cat (1)" in text
    assert text.count("✓ true label: ") == 4
    assert text.count("✗ true label: ") == 2


def test_independent_labels_are_counted_by_label_and_shown_side_by_side(spec: ModelSpec, tmp_path: Path) -> None:
    """A film with two labels at once is right only with both, and its chart has a lane for each."""
    independent = spec.model_copy(update={"activation": "sigmoid", "thresholds": {"bright": 0.3}})
    builder = ReportBuilder(tmp_path / "r.html", independent, films=3, title="t", max_batch=16, method=None)
    builder.data.has_truth = True
    both, none = [0.9, 0.35, 0.4, 0.1], [0.4, 0.2, 0.4, 0.1]
    for name, rows, truth in (("1", [both, both, none], (0, 1)), ("2", [both, none], (1,)), ("3", [none], ())):
        windows = [
            WindowResult(start_s=0.2 * i, end_s=0.2 * i + 0.8, probabilities=np.array(row, np.float32))
            for i, row in enumerate(rows)
        ]
        found = FileResult(windows=windows)
        builder.add_film(Path(name), found, find_events(windows, independent), truth=truth, notes=[])
    page = report_page(builder.data)
    text = Checker(page).text
    assert "all labels right66.7%2 of 3" in text
    assert "macro F183.3%mean of 2 labels" in text  # F1 of dark 2/3, of bright 1
    assert "confusion" not in text.lower()
    assert "✓ true label: dark + bright" in text
    assert "✗ true label: bright" in text
    assert "✓ true label: no label" in text
    assert set(re.findall(r'<rect class="c c(\d)"[^>]* y="(\d+)"', page)) == {("0", "106"), ("1", "113")}


def test_two_hundred_long_films_make_a_small_page(spec: ModelSpec, tmp_path: Path) -> None:
    pattern = "aabbbcab" * 120
    found = result(pattern)
    events = find_events(found.windows, spec)
    assert detail_for(200) == COARSE
    summary = summarise_film("x", found, events, truth=None, detail=COARSE)
    assert len(summary.events) == COARSE.events < len(events)
    assert len(summary.stretches) <= COARSE.bins
    assert all(len(curve.points) <= COARSE.bins for curve in summary.curves)
    assert max(value for _, value in summary.curves[0].points) == pytest.approx(0.9)
    fine = summarise_film("x", result("aab"), events, truth=None)
    assert [round(share * 1.2, 1) for share, _ in fine.curves[0].points] == [0.4, 0.6, 0.8]
    builder = build(spec, tmp_path, {f"/films/{number}.mp4": "abc" for number in range(200)})
    builder.data.films = [summary] * 200
    builder.write()
    assert len(builder.data.stills) <= MAX_STILLS
    assert (tmp_path / "r.html").stat().st_size < 5 << 20


def test_a_report_that_cannot_be_written_is_one_error(spec: ModelSpec, tmp_path: Path) -> None:
    builder = build(spec, tmp_path / "absent", {"x.mp4": "aaa"})
    with pytest.raises(OutputError, match=r"--report .*r\.html: No such file or directory; free space or give"):
        builder.write()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_shows_it_without_errors_and_at_the_width_of_a_phone(spec: ModelSpec, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python")
    builder = build(spec, tmp_path, {f"/films/{HOSTILE}.mp4": "aaabbbccca", "b.mp4": "bbb"}, {"b.mp4": (1,)})
    builder.write()
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
            messages: list[str] = []
            page.on("console", lambda message, messages=messages: messages.append(message.text))
            page.on("pageerror", lambda error, messages=messages: messages.append(str(error)))
            page.on("requestfailed", lambda request, messages=messages: messages.append(request.url[:100]))
            page.goto((tmp_path / "r.html").as_uri())
            assert messages == []
            assert page.evaluate("document.documentElement.scrollWidth") == 390
            assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
            chip = page.evaluate("getComputedStyle(document.querySelector('.chip')).backgroundColor")
            assert chip not in ("rgba(0, 0, 0, 0)", "transparent"), "the policy lets the style through"
            assert axe.Axe().run(page).violations_count == 0
        browser.close()
