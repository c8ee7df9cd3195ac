"""Save stretches of the last minute of a stream as example films, in a thread of a capture process."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from engines.printable import printable
from streamclf.clips.example_info import ExampleInfo, area_in_film
from streamclf.clips.example_labels import clean_label, make_label_folder
from streamclf.clips.film_file import FilmFile
from streamclf.clips.folder import ClipFolder
from streamclf.clips.names import FILM
from streamclf.clips.retention import reserve_bytes
from streamclf.clips.ring import PacketEntry, PacketRing
from streamclf.config.examples import ExamplesConfig
from streamclf.config.picture_area_keys import PictureAreaKeys
from streamclf.errors import ClipError
from streamclf.events.example_request import ExampleRequest, ExampleResult
from streamclf.units import NS

log = logging.getLogger(__name__)

UNLABELLED: Final = ".unlabelled"
"""Folder of the examples without a label. A hidden folder is no label."""
MAX_WAITING: Final = 16
"""Requests that wait for the thread, while a disk hangs."""
LATE_S: Final = 3.0
"""Wait this long for the last pictures of a stretch that has just ended."""
POLL_S: Final = 0.1
IDLE_S: Final = 60.0
CLOSE_TOGETHER_NS: Final = 3 * NS
"""Examples of one label that follow each other within this time show the same scene, and get the same prefix."""
MAX_FILES: Final = 20_000
MAX_NAMES: Final = 100
LOWEST_PRIORITY: Final = 19
MIN_SHARE: Final = 0.5
"""Refuse to save a stretch of which less than this share is kept."""

Answer = Callable[[str, ExampleResult], None]
"""Called with the id of a request, and its result."""


class ExampleWriter:
    """Save the examples of one stream in a thread of lowest priority. `add` never waits."""

    def __init__(self, stream: str, config: ExamplesConfig, ring: PacketRing, answer: Answer) -> None:
        self._stream, self._config, self._ring, self._answer = stream, config, ring, answer
        self._requests: deque[tuple[str, ExampleRequest, float]] = deque()
        self._groups: OrderedDict[Path, tuple[str, int]] = OrderedDict()
        """Prefix and end of the newest example, by folder of the label."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="examples", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, request_id: str, request: ExampleRequest) -> None:
        """Save a stretch soon; the result goes to `answer`."""
        if len(self._requests) >= MAX_WAITING:
            busy = f"{MAX_WAITING} examples of {self._stream} wait to be saved already; try again"
            self._answer(request_id, ExampleResult(error=busy))
            return
        self._requests.append((request_id, request, time.monotonic()))
        self._wake.set()

    def close(self, deadline_s: float) -> None:
        """End the thread; requests that wait are answered with an error."""
        self._stop.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(deadline_s)

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)  # of this thread only
        while True:
            self._wake.wait(IDLE_S)
            self._wake.clear()
            while self._requests:
                request_id, request, added_s = self._requests.popleft()
                self._answer(request_id, self._result(request, added_s))
            if self._stop.is_set():
                return

    def _result(self, request: ExampleRequest, added_s: float) -> ExampleResult:
        try:
            return self._save(request, added_s)
        except ClipError as error:
            return ExampleResult(error=str(error)[:1000])
        except Exception as error:  # a fault here must not end the examples of the stream for ever
            log.exception("unexpected fault while an example was saved")
            return ExampleResult(error=f"{type(error).__name__}: {error}"[:1000])

    def _save(self, request: ExampleRequest, added_s: float) -> ExampleResult:
        if request.stream != self._stream:
            raise ClipError(f"{request.stream}: this process reads {self._stream}")
        if request.label is not None:
            clean_label(request.label)
        try:
            PictureAreaKeys.model_validate(request.area or {})
        except ValidationError as error:
            raise ClipError(f"area: {error.errors()[0]['msg'][:200]}; give rotate, flip, mask and region") from None
        begin_ns, end_ns = round(request.begin * NS), round(request.end * NS)
        self._wait_for_end(end_ns, added_s)
        stretch = self._ring.stretch(begin_ns, end_ns)
        if stretch is None:
            raise ClipError(
                f"{self._stream}: no video of that time is kept; the service holds the last {self._config.last_s:g} s "
                "of a stream that is live (examples.last_s, examples.last_size)"
            )
        from_ns, to_ns, entries = stretch
        share = (to_ns - from_ns) / (end_ns - begin_ns)
        if share < MIN_SHARE:
            raise ClipError(
                f"{self._stream}: only {max(0.0, share):.0%} of that stretch is kept; save it sooner, or raise "
                "examples.last_s or examples.last_size"
            )
        self._check_space()
        began = datetime.fromtimestamp(request.begin, timezone.utc)
        shown = sum(from_ns <= entry.at_ns <= to_ns for entry in entries)
        interval_ns = (to_ns - from_ns) / (shown - 1) if shown > 1 else 0.0  # the last picture is shown, too
        info = ExampleInfo(
            stream=self._stream,
            began=began,
            seconds=round((to_ns - from_ns + interval_ns) / NS, 3),
            region=request.region,
            area=area_in_film(request.area, encoded=entries[0].format.codec == "jpeg"),
            model_name=request.model_name,
            top=request.top,
            margin=request.margin,
        )
        path = self._free_path(request, began, begin_ns, end_ns)
        size = write_stretch(path, entries, from_ns, info)
        return ExampleResult(file=path.relative_to(self._config.folder).as_posix(), seconds=info.seconds, bytes=size)

    def _wait_for_end(self, end_ns: int, added_s: float) -> None:
        """Wait for the last pictures: they are decoded some tenths of a second after they were shown."""
        while time.monotonic() - added_s < LATE_S and not self._stop.is_set():
            if (newest_ns := self._ring.newest_wall_ns()) is not None and newest_ns >= end_ns:
                return
            self._stop.wait(POLL_S)

    def _check_space(self) -> None:
        """Raise `ClipError` where the examples have their full size, or the disk has too little free space."""
        root = self._config.folder
        try:
            root.mkdir(exist_ok=True)  # without a parent, its disk may not be mounted
        except OSError as error:
            raise ClipError(f"{root}: {error.strerror}; check examples.folder and its permissions") from error
        folder = ClipFolder(root)
        free, reserved = folder.disk_bytes()[1], reserve_bytes(folder)
        if free < reserved:
            raise ClipError(
                f"{root}: {free / 1e6:.0f} MB free; examples leave {reserved / 1e6:.0f} MB to the journal: free space"
            )
        used = folder_bytes(root)
        if used >= self._config.keep_size:
            raise ClipError(
                f"{root}: the examples have {used / 1e6:.0f} MB; delete some, or raise examples.keep_size "
                f"({self._config.keep_size / 1e6:.0f} MB)"
            )

    def _free_path(self, request: ExampleRequest, began: datetime, begin_ns: int, end_ns: int) -> Path:
        folder = self._folder(request)
        group, last_ns = self._groups.get(folder, ("", 0))
        if not group or not -CLOSE_TOGETHER_NS <= begin_ns - last_ns <= CLOSE_TOGETHER_NS:
            group = f"{self._stream}-{began:%Y%m%d-%H%M%S}"
        self._groups[folder] = group, end_ns
        self._groups.move_to_end(folder)
        if len(self._groups) > MAX_NAMES:
            self._groups.popitem(last=False)
        for number in range(1, MAX_NAMES):
            tail = f"-{number}" if number > 1 else ""
            path = folder / f"{group}__{began:%H%M%S}-{began.microsecond // 1000:03d}{tail}{FILM}"
            if not path.exists():
                return path
        raise ClipError(f"{printable(str(folder))}: {MAX_NAMES} examples have the same name")

    def _folder(self, request: ExampleRequest) -> Path:
        root = self._config.folder
        parent = root / (UNLABELLED if request.project is None else request.project)
        try:
            parent.mkdir(exist_ok=True)
        except OSError as error:
            raise ClipError(f"{printable(str(parent))}: {error.strerror}; check its permissions") from error
        if parent.is_symlink():
            raise ClipError(f"{printable(str(parent))}: a link; examples follow none inside their folder")
        return parent if request.label is None else make_label_folder(parent, request.label)


def write_stretch(path: Path, entries: list[PacketEntry], from_ns: int, info: ExampleInfo) -> int:
    """Write the film of some packets, shown from the media time `from_ns` on; return its bytes. Raises `ClipError`.

    The file gets its name once it is complete.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # of a killed process
        file = FilmFile(part, entries[0], title=f"{info.stream}: example", description=info.model_dump_json(),
                        shown_from_ns=from_ns)  # fmt: skip
        try:
            for entry in entries:
                file.write(entry)
            file.close()
        except BaseException:
            file.abandon()
            raise
        with part.open("rb") as written:
            os.fsync(written.fileno())
        size = part.stat().st_size
        part.replace(path)
    except ClipError:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise ClipError(f"{printable(path.name)}: {error.strerror}") from error
    return size


def folder_bytes(root: Path) -> int:
    """Return the size of all files of the examples, links not followed. Counts at most `MAX_FILES` files."""
    total = count = 0
    for directory, _, names in os.walk(root):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(Path(directory) / name).st_size
            count += 1
            if count >= MAX_FILES:
                return total
    return total
