"""Run the thread of a capture process that writes films: actions come in, films and their events go out."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from streamclf.clips.film_end import recover, remove_part
from streamclf.clips.film_info import AfterFilm, FilmInfo, Pictures
from streamclf.clips.film_plan import ActionNote, parse_action_note
from streamclf.clips.recording import Recording
from streamclf.clips.ring import PacketRing
from streamclf.config.clips import ClipsConfig
from streamclf.errors import ClipError, EventError
from streamclf.events.drafts import Draft

log = logging.getLogger(__name__)

STEP_S: Final = 0.25
"""While a film is written, new packets are written at this interval."""
IDLE_S: Final = 5.0
MAX_WAITING: Final = 256
"""Events of actions that wait for the thread, while a disk hangs."""
LOG_INTERVAL_S: Final = 60.0
LOWEST_PRIORITY: Final = 19


class ClipWriter:
    """Write the films of one stream in a thread of lowest priority. Only `close` waits for the disk."""

    def __init__(
        self,
        stream: str,
        config: ClipsConfig,
        ring: PacketRing,
        post: Callable[[Draft], None],
        *,
        after_film: AfterFilm | None = None,
        housekeeping: Callable[[], None] | None = None,
    ) -> None:
        """Post an event for each film with `post`; call `housekeeping` every few seconds."""
        self._stream, self._config, self._ring, self._post = stream, config, ring, post
        self._after_film, self._housekeeping = after_film, housekeeping
        self._recording = Recording(stream, config, ring, self._announce)
        self._notes: deque[ActionNote] = deque()
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._is_quiet = threading.Event()
        self._counted_lock = threading.Lock()
        self._clips = self._lost = self._bytes = 0
        self._logged_s = float("-inf")
        self._unlogged = 0
        self._thread = threading.Thread(target=self._run, name="clips", daemon=True)

    def start(self) -> None:
        """Start the thread. It completes the films that an earlier process left, and then waits for actions."""
        self._thread.start()

    @property
    def counters(self) -> dict[str, int]:
        """The counters of the stream's status."""
        with self._counted_lock:
            counters = {"clips": self._clips, "clip_bytes": self._bytes, "clips_lost": self._lost}
        return {**counters, "clips_late": self._recording.late, "clips_evicted": self._ring.evicted}

    def add_action(self, start: int, payload: bytes) -> None:
        """Add the event of an action from the hub; `start` is the offset of its start event, 0 if unknown."""
        try:
            note = parse_action_note(start, payload)
        except EventError as error:
            log.debug("%s", error)
            return
        if len(self._notes) >= MAX_WAITING:  # the disk hangs
            if note.phase == "start":
                self._count(lost=1)
            if note.phase != "end":
                return
            self._notes.popleft()
        self._notes.append(note)
        self._wake.set()

    def close(self, deadline_s: float) -> bool:
        """Complete the film that is written; return whether the thread has ended within `deadline_s`.

        If it has not, the next process of the stream completes the film.
        """
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)  # of this thread only
        for path, info, size in recover(self._config.folder, self._stream):
            self._announce(path, info, size)
            if self._stop.is_set():
                break
        while not self._stop.is_set():
            self._wake.wait(STEP_S if self._recording.is_active else IDLE_S)
            self._wake.clear()
            self._guarded(self._step)
            if self._housekeeping is not None:
                self._guarded_housekeeping(self._housekeeping)
        self._guarded(lambda: self._recording.finish(time.monotonic()))

    @staticmethod
    def _guarded_housekeeping(work: Callable[[], None]) -> None:
        try:
            work()
        except Exception:
            log.exception("unexpected fault while old clips were removed")

    def _step(self) -> None:
        now_s = time.monotonic()
        while self._notes:
            self._recording.apply(self._notes.popleft(), now_s)
        self._recording.step(now_s)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except ClipError as error:
            self._lose(str(error))
        except Exception as error:  # a fault here must not end the films of the stream for ever
            log.exception("unexpected fault while a clip was written")
            self._lose(f"{type(error).__name__}: {error}")

    def _lose(self, reason: str) -> None:
        now_s = time.monotonic()
        self._recording.abandon(now_s)
        self._count(lost=1)
        self._unlogged += 1
        if now_s - self._logged_s >= LOG_INTERVAL_S:
            lost = "a clip is lost" if self._unlogged == 1 else f"{self._unlogged} clips are lost"
            log.warning("%s: %s", lost, reason, extra={"stream": self._stream})
            self._logged_s, self._unlogged = now_s, 0

    def _announce(self, path: Path, info: FilmInfo, size: int) -> None:
        """Make the pictures of a complete film, and post its event, and remove the unfinished file."""
        pictures = Pictures()
        if self._after_film is not None:
            try:
                pictures = self._after_film(path, info)
            except ClipError as error:
                log.warning("clip %s has no picture: %s", info.name.film, error)
            except Exception:
                log.exception("clip %s has no picture", info.name.film)
        self._count(clips=1, size=size)
        self._post(Draft("clip", self._stream, info.event_body(size=size, pictures=pictures)))
        remove_part(path)

    def _count(self, *, clips: int = 0, lost: int = 0, size: int = 0) -> None:
        with self._counted_lock:
            self._clips, self._lost, self._bytes = self._clips + clips, self._lost + lost, self._bytes + size
