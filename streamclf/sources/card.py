"""Scale decoded pictures on the GPU whose memory they are in, so that only small pictures leave it, or none.

FFmpeg and this module use the same context of the GPU, its primary one. FFmpeg must make it first: it refuses a context
that others have made with other flags. So the GPU is opened with the first picture, not earlier.
This code has not run on a GPU yet. So the first pictures of each kind are scaled on the host, too, and compared.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from engines.arrays import U8
from engines.backends.tensorrt.interface import AllocationError, Cuda, PictureToScale
from engines.backends.tensorrt.requirements import open_cuda
from engines.errors import BackendMissingError
from streamclf.sources.card_plan import SITINGS, PictureKind, PicturePlan, plan_picture
from streamclf.sources.card_use import Target, set_opener
from streamclf.sources.picture_part import part_of
from streamclf.sources.resize import MAX_SCALERS, FrameRenderer, OrientedFrame

log = logging.getLogger(__name__)

T = TypeVar("T")
BITS: Final = {"nv12": 8, "p010le": 10}
"""The formats that the kernel scales, and their bits per sample."""
MAX_DIFFERENCE: Final = 1
"""Levels by which a picture may differ from the host's."""
MAX_CHECKS: Final = 16
"""Pictures without colour do not show where the decoder places it; so many of them are compared at most."""


@dataclass(slots=True)
class _Tables:
    """The tables for one kind of picture and one target: one set for each place that the colour may have."""

    sets: list[tuple[PicturePlan, int]]
    checks: int = 0

    @property
    def is_checked(self) -> bool:
        return len(self.sets) == 1 or self.checks >= MAX_CHECKS


class CudaCard:
    """See `Card`: the GPU on which this process decodes."""

    def __init__(self, cuda: Cuda) -> None:
        """Use `cuda`, whose context is that of FFmpeg's decoder."""
        self.cuda = cuda
        self.bus = cuda.gpu.bus
        self.pictures = 0
        self._lock = threading.RLock()
        self._tables: dict[Any, _Tables | None] = {}
        self._failure: str | None = None
        self._is_closed = False
        self._staging: U8 | None = None
        self._scratch = (0, 0)
        with cuda.active():
            self._stream, self._event = cuda.stream(), cuda.event()

    @property
    def works(self) -> bool:
        """See `Card.works`."""
        return self._failure is None

    def scale(self, frame: OrientedFrame, target: Target, to: int) -> bool:
        """See `Card.scale`."""
        return self._attempt(lambda: self._scale(frame, target, lambda: to)) is not None

    def scale_to_host(self, frame: OrientedFrame, target: Target, out: U8) -> bool:
        """See `Card.scale_to_host`."""

        def work() -> bool | None:
            nbytes = 3 * target.height * target.width
            address = self._scale(frame, target, lambda: self._scratch_of(nbytes))
            if address is None:
                return None
            out[...] = self._read(address, nbytes).reshape(out.shape)
            self.pictures += 1
            return True

        return self._attempt(work) is not None

    def download(self, address: int, out: U8) -> bool:
        """See `Card.download`."""

        def work() -> bool:
            out[...] = self._read(address, out.nbytes).reshape(out.shape)
            return True

        return self._attempt(work) is not None

    def copy(self, to: int, source: int, nbytes: int) -> bool:
        """See `Card.copy`."""

        def work() -> bool:
            self.cuda.copy(to, source, nbytes, self._stream)
            self.cuda.finish(self._stream)
            return True

        return self._attempt(work) is not None

    def open_shared(self, fd: int, nbytes: int) -> int | None:
        """See `Card.open_shared`."""
        return self._attempt(lambda: self.cuda.open_shared(fd, nbytes))

    def release(self, address: int) -> None:
        """See `Card.release`."""
        self._attempt(lambda: self.cuda.release(address))

    def close(self) -> None:
        """Give the GPU back. May be called twice."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._failure = self._failure or "the GPU was given back"
                with contextlib.suppress(RuntimeError):  # after an error, all calls may fail
                    self._close()

    def _close(self) -> None:
        with self.cuda.active():
            self._forget_tables()
            if self._scratch[0]:
                self.cuda.release(self._scratch[0])
            self._staging = None
            del self._stream, self._event
        self.cuda.close()

    def _attempt(self, work: Callable[[], T]) -> T | None:
        """Run calls of the GPU. After the first error, the host does everything, and the log says why."""
        if self._failure is not None:
            return None
        with self._lock:
            try:
                with self.cuda.active():
                    return work()
            except (RuntimeError, AllocationError) as error:
                self._failure = str(error) or "not enough memory"
                log.warning("pictures are scaled on the host from now on, because the GPU fails: %s", self._failure)
                return None

    def _scale(self, frame: OrientedFrame, target: Target, place: Callable[[], int]) -> int | None:
        """Scale to an address, which is asked for last, and return it; None if the host has to scale the picture."""
        tables = self._checked_tables(frame, target)
        if tables is None:
            return None
        to = place()
        self._launch(frame, tables.sets[0], to)
        self.cuda.finish(self._stream)
        return to

    def _checked_tables(self, frame: OrientedFrame, target: Target) -> _Tables | None:
        """Return the tables for a picture; None if the GPU cannot scale it as the host does."""
        picture = frame.frame
        form = picture.sw_format.name if picture.sw_format else ""
        colours = int(picture.colorspace), int(picture.color_range)
        key = (form, picture.width, picture.height, colours, frame.orientation, frame.pixel_aspect, target)
        if key not in self._tables:
            if len(self._tables) >= MAX_SCALERS:
                self._forget_tables()
            self._tables[key] = self._make_tables(frame, target, form)
        tables = self._tables[key]
        if tables is not None and not tables.is_checked and not self._check(frame, target, tables):
            self._release(tables)
            tables = self._tables[key] = None
        return tables

    def _make_tables(self, frame: OrientedFrame, target: Target, form: str) -> _Tables | None:
        picture = frame.frame
        if form not in BITS:
            log.warning("pictures in the format %s are scaled on the host: the GPU scales %s", form, ", ".join(BITS))
            return None
        sets = []
        for siting in SITINGS:
            kind = PictureKind(
                columns=picture.width,
                rows=picture.height,
                bits=BITS[form],  # type: ignore[arg-type]
                colorspace=int(picture.colorspace),
                color_range=int(picture.color_range),
                siting=siting,
            )
            part = part_of(picture.width, picture.height, target.area, frame.orientation, frame.pixel_aspect)
            plan = plan_picture(kind, part, (target.height, target.width), target.resize, target.area.mask)
            address = self.cuda.allocate(plan.words.nbytes)
            words = self.cuda.pinned(plan.words.shape, np.int32)
            words[:] = plan.words
            self.cuda.upload(address, words, self._stream)
            self.cuda.finish(self._stream)
            sets.append((plan, address))
        return _Tables(sets)

    def _check(self, frame: OrientedFrame, target: Target, tables: _Tables) -> bool:
        """Keep the tables that give the host's picture; return whether there are any."""
        expected = np.empty((target.height, target.width, 3), np.uint8)
        FrameRenderer().render_on_host(frame, target.height, target.width, target.resize, expected, target.area)
        nbytes, differences = expected.nbytes, []
        for each in tables.sets:
            self._launch(frame, each, self._scratch_of(nbytes))
            found = self._read(self._scratch[0], nbytes).reshape(expected.shape)
            differences.append(int(np.abs(found.astype(np.int16) - expected).max()))
        right = [difference <= MAX_DIFFERENCE for difference in differences]
        if not any(right):
            log.warning(
                "pictures of %dx%d are scaled to %dx%d on the host: the GPU's result differs by %d levels",
                *(frame.frame.width, frame.frame.height, target.width, target.height, min(differences)),
            )
            return False
        for (_, address), is_right in zip(tables.sets, right, strict=True):
            if not is_right:
                self.cuda.release(address)
        tables.sets = [each for each, is_right in zip(tables.sets, right, strict=True) if is_right]
        tables.checks += 1
        return True

    def _launch(self, frame: OrientedFrame, tables: tuple[PicturePlan, int], to: int) -> None:
        (plan, address), (luma, chroma) = tables, frame.frame.planes
        picture = PictureToScale(
            plan=address,
            luma=luma.buffer_ptr,
            chroma=chroma.buffer_ptr,
            luma_pitch=luma.line_size,
            chroma_pitch=chroma.line_size,
            columns=plan.columns,
            rows=plan.rows,
        )
        self.cuda.follow_default_stream(self._stream, self._event)  # in which FFmpeg's decoder writes the picture
        self.cuda.scale_picture(to, picture, self._stream)

    def _read(self, address: int, nbytes: int) -> U8:
        """Return bytes of the GPU's memory, in an array that the next call overwrites."""
        if self._staging is None or len(self._staging) < nbytes:
            self._staging = self.cuda.pinned((nbytes,), np.uint8)
        self.cuda.download(self._staging[:nbytes], address, self._stream)
        self.cuda.finish(self._stream)
        return self._staging[:nbytes]

    def _scratch_of(self, nbytes: int) -> int:
        address, size = self._scratch
        if size < nbytes:
            if address:
                self.cuda.release(address)
            self._scratch = (0, 0)
            self._scratch = (self.cuda.allocate(nbytes), nbytes)
        return self._scratch[0]

    def _forget_tables(self) -> None:
        for tables in self._tables.values():
            if tables is not None:
                self._release(tables)
        self._tables.clear()

    def _release(self, tables: _Tables) -> None:
        for _, address in tables.sets:
            self.cuda.release(address)


def _open() -> CudaCard | None:
    try:
        card = CudaCard(open_cuda(""))
    except (BackendMissingError, RuntimeError, AllocationError) as error:
        log.warning("pictures that the GPU decodes are scaled on the host: %s", error)
        return None
    atexit.register(card.close)  # before Python forgets the modules that free its memory
    return card


def enable() -> None:
    """Let pictures that are on a GPU be scaled there."""
    set_opener(_open)
