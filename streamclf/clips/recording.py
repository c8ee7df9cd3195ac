"""Write the films of one stream: take packets from the ring, and cut, end and complete films by the plan."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from streamclf.clips.film_end import complete_film, part_path
from streamclf.clips.film_file import FilmFile
from streamclf.clips.film_info import FilmInfo
from streamclf.clips.film_plan import ActionNote, FilmPlan
from streamclf.clips.folder import ClipFolder
from streamclf.clips.names import ClipName, clip_name
from streamclf.clips.retention import reserve_bytes
from streamclf.clips.ring import MAX_AHEAD_NS, MAX_BACK_NS, PacketEntry, PacketRing
from streamclf.config.clips import ClipsConfig
from streamclf.errors import ClipError
from streamclf.events.views import ActionKey
from streamclf.units import NS

BATCH: Final = 256
STALLED_S: Final = 10.0
"""After this long without a packet, a film ends: the stream is away, and its actions are over."""
NO_VIDEO_S: Final = 30.0
"""A film that has no key frame for this long is lost."""
MAX_OVERTIME_NS: Final = 60 * NS
"""A stream without key frames makes a film longer than `longest_s` by this much at most."""
LATE_NS: Final = NS // 2
MAX_NAMES: Final = 100
SLOW_NOTE: Final = "pictures are missing at its end: the disk was too slow"
AWAY_NOTE: Final = "the stream stopped before the end of the action"

Complete = Callable[[Path, FilmInfo, int], None]
"""Called with a complete film: its path, its description and its bytes."""


@dataclass(slots=True)
class _OpenFilm:
    file: FilmFile
    name: ClipName
    path: Path
    codec: str
    began: datetime
    note: str | None
    encoded: bool
    next: int
    """Number of the packet that follows."""
    border: PacketEntry | None = None
    """The key frame before which the film should be cut. It is known with the packet after it."""
    has_border: bool = False
    """Whether the film shows the border, too, because pictures before it are predicted from it."""


class Recording:
    """The film of a stream that is being written, if any. Used by one thread; all methods may raise `ClipError`.

    After a `ClipError` call `abandon`.
    """

    def __init__(self, stream: str, config: ClipsConfig, ring: PacketRing, complete: Complete) -> None:
        self._stream, self._folder, self._ring, self._complete = stream, config.folder, ring, complete
        self._longest_ns = round(config.longest_s * NS)
        self._plan = FilmPlan(before_s=config.before_s, after_s=config.after_s)
        self._film: _OpenFilm | None = None
        self._part = 1
        self._from = 0
        """Number of the packet before which the next part cannot begin."""
        self._since_s = 0.0
        """When the film should have begun, or when its last packet came (monotonic)."""
        self.late = 0
        """Films that begin later than they should, because the ring did not reach back so far."""

    @property
    def is_active(self) -> bool:
        """Whether a film is written, or should begin."""
        return bool(self._plan)

    def apply(self, note: ActionNote, now_s: float) -> None:
        """Add the event of an action."""
        was_active = self.is_active
        self._plan.apply(note, now_s)
        if self.is_active and not was_active:
            self._part, self._from, self._since_s = 1, 0, now_s

    def step(self, now_s: float) -> None:
        """Write the packets that have come since the last step; end or begin a film if that is due."""
        if not self._plan:
            return
        if self._film is None and not self._begin(now_s):
            if now_s - self._since_s <= NO_VIDEO_S:
                return
            if self._part == 1:
                raise ClipError("no video came in time that a film can begin with")
            self._end_group()  # the earlier parts are complete
            return
        self._write_new(now_s)
        if self._film is not None and now_s - self._since_s > STALLED_S:
            self._finish(last=True, note=None if self._plan.end_s is not None else AWAY_NOTE)

    def finish(self, now_s: float) -> None:
        """Write what is there and complete the film, because the process or the source ends."""
        if self._plan and (self._film is not None or self._begin(now_s)):
            self._write_new(now_s)
            if self._film is not None:
                self._finish(last=True, note=None if self._plan.end_s is not None else AWAY_NOTE)
        self._end_group()

    def abandon(self, now_s: float) -> None:
        """Remove the film that is written, and ignore its actions for a minute."""
        film, self._film = self._film, None
        self._plan.abandon(now_s)
        self._ring.hold(None)
        if film is not None:
            film.file.abandon()
            with contextlib.suppress(OSError):
                film.file.path.unlink(missing_ok=True)

    def _end_group(self) -> None:
        self._plan.clear()
        self._ring.hold(None)

    def _begin(self, now_s: float) -> bool:
        """Begin a film if there is a key frame for it."""
        begin_ns = round(self._plan.begin_s * NS)
        self._check_space()
        first = self._ring.first_from(begin_ns) if self._part == 1 else self._ring.first_key_after(self._from)
        if first is None:
            return False
        end_s = self._plan.end_s
        if end_s is not None and first.at_ns > end_s * NS:
            raise ClipError("the video of the action is not kept any more; raise before_size")
        note = None
        if self._part == 1 and first.at_ns - begin_ns > LATE_NS:
            self.late += 1
            note = f"it begins {(first.at_ns - begin_ns) / NS:.1f} s late: no earlier video was kept"
        self._open(first, note)
        self._since_s = now_s
        return True

    def _open(self, first: PacketEntry, note: str | None = None) -> None:
        """Create the film's file, and write its first packet."""
        start_s = first.at_ns / NS
        actions = self._plan.actions_between(start_s, float("inf"))
        began = _wall_time(first)
        name, path = self._free_name(began, actions[0].kind)
        info = FilmInfo(
            name=name, began=began, start_s=start_s, end_s=start_s, actions=actions, epoch=self._plan.epoch,
            part=self._part, last=False, codec=_codec(first), note=note, encoded=_is_encoded(first),
        )  # fmt: skip
        file = FilmFile(part_path(path), first, title=info.title, description=info.to_json())
        self._film = _OpenFilm(file, name, path, _codec(first), began, note, _is_encoded(first), first.number + 1)
        file.write(first)
        self._ring.hold(first.number + 1)

    def _check_space(self) -> None:
        """Raise `ClipError` if the disk has no more free space than the journal should have."""
        try:
            self._folder.mkdir(exist_ok=True)  # without a parent, its disk may not be mounted
        except OSError as error:
            raise ClipError(f"{self._folder}: {error.strerror}; check clips.folder and its permissions") from error
        folder = ClipFolder(self._folder)
        free, reserved = folder.disk_bytes()[1], reserve_bytes(folder)
        if free < reserved:
            raise ClipError(
                f"{self._folder}: {free / 1e6:.0f} MB free; clips leave {reserved / 1e6:.0f} MB to the journal: free "
                "space, or lower clips.keep_size"
            )

    def _free_name(self, began: datetime, action: ActionKey) -> tuple[ClipName, Path]:
        for number in range(1, MAX_NAMES):
            name = clip_name(self._stream, began, action.label, number, view=action.view.names)
            path = self._folder / name.film
            try:
                for folder in (path.parent.parent, path.parent):
                    folder.mkdir(exist_ok=True)
                    if folder.is_symlink():
                        raise ClipError(f"{folder}: a link; clips follow none inside their folder")
                if not path.exists() and not part_path(path).exists():
                    return name, path
            except OSError as error:
                raise ClipError(
                    f"{error.filename}: {error.strerror}; check clips.folder and its permissions"
                ) from error
        raise ClipError(f"{self._folder / self._stream}: {MAX_NAMES} clips have the same name")

    def _write_new(self, now_s: float) -> None:
        """Write the packets of the ring that have their times. A film may end, and another part begin, on the way."""
        group_ns = self._ring.longest_group_ns()
        while self._film is not None:
            entries = self._ring.packets_from(self._film.next, BATCH)
            for entry in entries:
                self._since_s = now_s
                self._write(entry, group_ns, now_s)
                if self._film is None:
                    return
            if len(entries) < BATCH:
                return

    def _write(self, entry: PacketEntry, group_ns: int, now_s: float) -> None:
        """Write a packet, or end the film before it."""
        film = self._film
        assert film is not None
        file = film.file
        is_missing = entry.number != film.next
        if is_missing or entry.format is not file.format:
            self._cut(entry, now_s, SLOW_NOTE if is_missing else None)
            return
        film.next = entry.number + 1
        if film.border is not None:
            if entry.at_ns < film.border.at_ns:  # shown before the key frame, and predicted from it
                self._write_border(film)
            else:
                border = film.border
                self._cut(border, now_s)
                if self._film is None:
                    return
                film, file = self._film, self._film.file
                film.next = entry.number + 1
        end_s = self._plan.end_s
        if end_s is not None and file.last_ns >= end_s * NS and entry.at_ns > file.last_ns:
            self._finish(last=True)
            return
        length_ns = entry.at_ns - file.first_ns
        if length_ns > self._longest_ns + MAX_OVERTIME_NS:
            self._cut(entry, now_s)
            return
        if film.border is None and entry.key and length_ns + group_ns > self._longest_ns:
            film.border = entry
            return
        if entry.at_ns >= file.first_ns:  # else it is predicted from pictures before the film
            file.write(entry)
        self._ring.hold(film.next)

    @staticmethod
    def _write_border(film: _OpenFilm) -> None:
        if film.border is not None and not film.has_border:
            film.has_border = True
            film.file.write(film.border)

    def _cut(self, entry: PacketEntry, now_s: float, note: str | None = None) -> None:
        """End the film before `entry`, and begin the next part if an action goes on."""
        film = self._film
        assert film is not None
        step_ns = entry.at_ns - film.file.last_ns
        is_jump = not -MAX_BACK_NS <= step_ns <= MAX_AHEAD_NS
        goes_on = not is_jump and self._plan.continues_at(entry.at_ns / NS, now_s)
        self._finish(last=not goes_on, note=note, has_border=entry is film.border)
        if goes_on:
            self._part, self._from = self._part + 1, entry.number
            if entry is film.border:
                self._check_space()  # an action that never ends must not fill the disk either
                self._open(entry)

    def _finish(self, *, last: bool, note: str | None = None, has_border: bool = False) -> None:
        """Complete the film. `has_border`: the next part begins with its border."""
        film = self._film
        assert film is not None
        file = film.file
        if not (has_border and not last):
            self._write_border(film)
        lock = os.dup(file.fileno)  # holds the lock until the film is complete
        try:
            file.close()
            self._film = None
            self._complete_film(film, last=last, note=note)
        finally:
            os.close(lock)

    def _complete_film(self, film: _OpenFilm, *, last: bool, note: str | None) -> None:
        file = film.file
        start_s, end_s = file.first_ns / NS, file.last_ns / NS
        info = FilmInfo(
            name=film.name, began=film.began, start_s=start_s, end_s=end_s,
            actions=self._plan.actions_between(start_s, end_s), epoch=self._plan.epoch, part=self._part, last=last,
            codec=film.codec, points=self._plan.points_between(start_s, end_s),
            note="; ".join(filter(None, (film.note, note))) or None, encoded=film.encoded,
        )  # fmt: skip
        if last:
            self._end_group()
        try:
            size = complete_film(file.path, film.path, info)
        except ClipError:
            with contextlib.suppress(OSError):
                file.path.unlink(missing_ok=True)
            raise
        self._complete(film.path, info, size)


def _codec(first: PacketEntry) -> str:
    return "h264" if _is_encoded(first) else first.format.codec


def _is_encoded(first: PacketEntry) -> bool:
    return first.format.codec == "jpeg"


def _wall_time(first: PacketEntry) -> datetime:
    seconds = first.wall_ns / NS if first.wall_ns else time.time()
    return datetime.fromtimestamp(seconds, timezone.utc)
