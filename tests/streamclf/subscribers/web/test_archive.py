"""The list of events follows the files in the folder of clips, whoever changes them."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import pytest

from streamclf.clips.folder import ClipFolder, MissingClipError, StarredClipError
from streamclf.errors import UsageError
from streamclf.events.types import Action, Clip, StreamEvent
from streamclf.subscribers.web.archive import EventArchive
from streamclf.subscribers.web.history.records import ActionFilter, ActionRecord
from streamclf.subscribers.web.history.store import History

EPOCH = "0" * 32
NOON = datetime(2026, 11, 29, 12, tzinfo=timezone.utc)
FILM = "door/2026-11-29/120000-000-wave.mp4"


def events(*labels: str, ends: bool = True) -> list[StreamEvent]:
    """Actions at offsets 1, 2, ..., which are all in one film."""
    found: list[StreamEvent] = []
    for number, label in enumerate(labels, 1):
        for phase in ("start", "end") if ends else ("start",):
            offset = number if phase == "start" else 10 + number
            found.append(
                Action(
                    stream="door",
                    epoch=EPOCH,
                    offset=offset,
                    previous=0,
                    time=NOON,
                    label=label,
                    phase=phase,  # type: ignore[arg-type]
                    started_s=1.0,
                    at_s=2.0,
                    probability=0.9,
                    peak=0.9,
                )
            )
    film = Clip(
        stream="door", epoch=EPOCH, offset=30, previous=0, time=NOON, label=labels[0], action=1, began=NOON,
        actions=tuple(range(1, len(labels) + 1)), start_s=0.0, end_s=3.0, file=FILM, bytes=1, probability=0.9,
    )  # fmt: skip
    return [*found, film]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / FILM).parent.mkdir(parents=True)
    (tmp_path / FILM).write_bytes(b"film")
    (tmp_path / FILM).with_suffix(".jpg").write_bytes(b"still")
    return tmp_path


def archive_of(folder: Path | None, *given: StreamEvent, streams: list[str] | None = None) -> EventArchive:
    history = History(streams=streams)
    history.set_epoch(EPOCH)
    history.add(given)
    return EventArchive(history, None if folder is None else ClipFolder(folder))


def get(archive: EventArchive, offset: int) -> ActionRecord:
    found = archive.get(offset)
    assert found is not None
    return found


def test_a_film_of_two_actions_is_deleted_with_the_second(folder: Path) -> None:
    archive = archive_of(folder, *events("wave", "walk"))
    archive.delete(get(archive, 1))
    assert (folder / FILM).exists()
    archive.delete(get(archive, 2))
    assert not (folder / FILM).exists()
    assert archive.find(ActionFilter(), limit=9).actions == ()


def test_a_star_of_another_program_counts(folder: Path) -> None:
    archive = archive_of(folder, *events("wave"))
    assert not get(archive, 1).clips[0].starred
    ClipFolder(folder).star(FILM)
    assert get(archive, 1).clips[0].starred
    assert len(archive.find(ActionFilter(starred=True), limit=9).actions) == 1
    with pytest.raises(StarredClipError):
        archive.delete(get(archive, 1))
    archive.star(get(archive, 1), starred=False)
    archive.delete(get(archive, 1))
    assert list(folder.rglob("*.mp4")) == []


def test_a_film_that_expired_is_left_out_and_its_action_stays(folder: Path) -> None:
    archive = archive_of(folder, *events("wave"))
    assert len(get(archive, 1).clips) == 1
    ClipFolder(folder).delete(FILM)
    assert get(archive, 1).clips == ()
    archive.delete(get(archive, 1))
    assert archive.get(1) is None


def test_a_running_action_is_not_deleted(folder: Path) -> None:
    archive = archive_of(folder, *events("wave", ends=False))
    with pytest.raises(UsageError, match="still running"):
        archive.delete(get(archive, 1))


def test_without_a_folder_there_are_no_clips() -> None:
    archive = archive_of(None, *events("wave"))
    assert get(archive, 1).clips == ()
    with pytest.raises(UsageError, match="no clip"):
        archive.star(get(archive, 1), starred=True)
    with pytest.raises(MissingClipError):
        archive.open(FILM)


def test_a_page_for_some_streams_opens_no_film_of_another(folder: Path) -> None:
    archive = archive_of(folder, *events("wave"), streams=["yard"])
    with pytest.raises(MissingClipError):
        archive.open(FILM)
    assert archive.get(1) is None
