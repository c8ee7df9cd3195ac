"""The least certain moments of a day are kept: spaced in time, at most so many, the least certain ones."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, cast

import pytest

from streamclf.clips.example_info import ExampleInfo, FilmFacts
from streamclf.config.examples import ExamplesConfig
from streamclf.errors import BusError
from streamclf.events.example_request import ExampleRequest, ExampleResult
from streamclf.events.types import Prediction, Status, Window
from streamclf.subscribers.web.teach import library as library_module
from streamclf.subscribers.web.teach.library import ExampleLibrary
from streamclf.subscribers.web.teach.uncertain import UncertainKeeper, margin_of

NOON_S = datetime(2026, 11, 29, 12).timestamp()
EPOCH = "0" * 32


class Teach:
    """A service that saves an empty film for each request."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, uncertain: int = 3) -> None:
        self.section = ExamplesConfig(folder=folder, uncertain=uncertain)
        self._library = ExampleLibrary(folder)
        self.requests: list[ExampleRequest] = []
        self.fault: Exception | None = None
        self.while_saving: Callable[[], None] = lambda: None
        monkeypatch.setattr(library_module, "read_film_facts", self._facts)

    def _facts(self, path: Path) -> FilmFacts:
        request = self.requests[int(path.stem)]
        began = datetime.fromtimestamp(request.begin, timezone.utc)
        info = ExampleInfo(stream=request.stream, began=began, seconds=2, top=request.top, margin=request.margin)
        return FilmFacts(seconds=2, info=info)

    def config(self) -> tuple[Any, ExamplesConfig]:
        return None, self.section

    def library(self) -> ExampleLibrary:
        return self._library

    def save(self, request: ExampleRequest) -> ExampleResult:
        if self.fault:
            raise self.fault
        self.while_saving()
        folder = self.section.folder / ".unlabelled"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(self.requests)}.mp4").write_bytes(b"x" * (1 + len(self.requests)))
        self.requests.append(request)
        return ExampleResult(file="x")


class Site:
    def __init__(self, teach: Teach) -> None:
        self.teach, self.now_s = teach, NOON_S
        self.keeper = UncertainKeeper(cast(Any, teach), lambda: self.now_s)
        self.keeper.step()

    def predict(self, margin: float, *, stream: str = "door", **more: Any) -> None:
        p = (1 + margin) / 2
        self.keeper.notice(prediction((("open", p), ("shut", 1 - p)), stream=stream, **more))

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.keeper.step()

    @property
    def kept(self) -> list[float]:
        return sorted(round(each.info.margin or 0, 3) for each in self.teach.library().unlabelled() if each.info)


def prediction(top: tuple[tuple[str, float], ...], *, stream: str = "door", **more: Any) -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=1, previous=0, time=datetime.now(timezone.utc), model="m", top=top,
        window=Window(start_s=0, end_s=3.2, frames=32), **more,
    )  # fmt: skip


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(Teach(tmp_path / "examples", monkeypatch))


def test_the_margin_is_that_of_the_two_most_probable_labels() -> None:
    assert margin_of(prediction((("a", 0.6), ("b", 0.3), ("c", 0.1)))) == pytest.approx(0.3)
    assert margin_of(prediction((("a", 0.9), ("b", 0.6)), labels=("a", "b"))) == pytest.approx(0.2)


def test_the_least_certain_moment_of_a_minute_is_kept(site: Site) -> None:
    for margin in (0.4, 0.1, 0.3, 0.9):
        site.predict(margin)
        site.wait(1)
    site.wait(5)
    assert site.kept == [0.1]
    (request,) = site.teach.requests
    assert request.end - request.begin == pytest.approx(3.2)
    assert request.top[0] == ("open", pytest.approx(0.55))
    site.predict(0.05)
    site.wait(5)
    assert site.kept == [0.1], "within a minute of the one before"
    site.wait(60)
    site.predict(0.2)
    site.wait(5)
    assert site.kept == [0.1, 0.2]


def test_predictions_while_a_moment_is_saved_are_within_a_minute_of_it(site: Site) -> None:
    """Saving takes seconds, in which the events go on."""
    site.teach.while_saving = lambda: site.predict(0.05)
    site.predict(0.1)
    site.wait(5)
    site.wait(5)
    assert site.kept == [0.1]


def test_a_full_day_keeps_the_least_certain_ones(site: Site) -> None:
    for margin in (0.4, 0.3, 0.2, 0.45, 0.1):
        site.predict(margin)
        site.wait(5)
        site.wait(60)
    assert site.kept == [0.1, 0.2, 0.3]
    assert len(site.teach.requests) == 4, "a more certain moment is not even saved"
    site.now_s += 86400
    site.predict(0.45)
    site.wait(5)
    assert site.kept == [0.1, 0.2, 0.3, 0.45]


def test_each_stream_has_its_own(site: Site) -> None:
    site.predict(0.1)
    site.predict(0.2, stream="yard")
    site.wait(5)
    assert {each.stream for each in site.teach.requests} == {"door", "yard"}


def test_certain_frozen_and_unchanged_pictures_are_left_out(site: Site) -> None:
    site.predict(0.8)
    site.predict(0.1, gated=4)
    status = Status(stream="yard", epoch=EPOCH, offset=1, previous=0, time=datetime.now(timezone.utc), state="frozen")
    site.keeper.notice(status)
    site.predict(0.1, stream="yard")
    site.wait(5)
    assert site.teach.requests == []


def test_a_fault_pauses_and_without_the_key_nothing_is_kept(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.teach.fault = BusError("disk full")
    site.predict(0.1)
    site.wait(5)
    site.teach.fault = None
    site.predict(0.1)
    site.wait(5)
    assert site.kept == []
    site.wait(60)
    assert site.kept == [0.1]
    off = Site(Teach(tmp_path / "off", monkeypatch, uncertain=0))
    off.predict(0.1)
    off.wait(5)
    assert off.teach.requests == []


def test_a_clock_that_is_set_back_delays_nothing(site: Site) -> None:
    site.predict(0.3)
    site.wait(5)
    site.predict(0.2)
    site.wait(61)
    site.predict(0.2)
    site.wait(-86400)
    assert site.kept == [0.2, 0.3], "a moment of before is saved"
    site.predict(0.1)
    site.wait(5)
    assert site.kept == [0.1, 0.2, 0.3], "the next one does not wait for the old time"
    site.teach.fault = BusError("disk full")
    site.wait(61)
    site.predict(0.1)
    site.wait(5)
    site.teach.fault = None
    site.wait(-86400)
    site.predict(0.05)
    site.wait(5)
    assert 0.05 in site.kept, "the pause is over"


def test_one_page_keeps_moments_where_two_follow_the_service(site: Site) -> None:
    other = Site(site.teach)
    for each in (site, other):
        each.predict(0.1)
        each.wait(5)
    assert len(site.teach.requests) == 1
