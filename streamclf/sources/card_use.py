"""Open the GPU on which this process decodes, when its first picture comes, and not in processes without one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from engines.arrays import U8
from streamclf.config.picture_area import PictureArea


@dataclass(frozen=True, slots=True)
class Target:
    """How a picture is to be shown: its height and width, the policy, and the part of the picture."""

    height: int
    width: int
    resize: Literal["stretch", "crop", "letterbox"]
    area: PictureArea


class Card(Protocol):
    """A GPU in whose memory pictures are: `streamclf.sources.card`. Any thread may use it."""

    bus: str
    """Its place on the PCI bus."""
    pictures: int
    """Pictures that were scaled here and copied to the host."""

    @property
    def works(self) -> bool:
        """Whether no call has failed."""

    def scale(self, frame: Any, target: Target, to: int) -> bool:
        """Scale an `OrientedFrame` to (height, width, 3) uint8 RGB at an address of the GPU, and wait for it.

        Return False if the host has to scale it; the log says why.
        """

    def scale_to_host(self, frame: Any, target: Target, out: U8) -> bool:
        """Scale a picture on the GPU, and copy it into `out` (height, width, 3). Return False as `scale` does."""

    def download(self, address: int, out: U8) -> bool:
        """Copy bytes of the GPU's memory into `out`, and wait until they are there. Return False after an error."""

    def copy(self, to: int, source: int, nbytes: int) -> bool:
        """Copy within the GPU's memory, and wait for it. Return False after an error."""

    def open_shared(self, fd: int, nbytes: int) -> int | None:
        """Map memory that another process has shared; return its address, or None after an error."""

    def release(self, address: int) -> None:
        """Unmap such memory."""


def is_on_card(picture: Any) -> bool:
    """Return whether PyAV's frame is in the memory of a GPU."""
    return bool(picture.format.name == "cuda")


class _Opened:
    """The GPU of this process, once it is opened."""

    def __init__(self) -> None:
        self.opener: Callable[[], Card | None] = lambda: None
        self._lock = threading.Lock()
        self._was_tried = False
        self._card: Card | None = None

    def card(self) -> Card | None:
        with self._lock:
            if not self._was_tried:
                self._was_tried = True
                self._card = self.opener()
        return self._card if self._card is not None and self._card.works else None

    def pictures(self) -> int:
        return 0 if self._card is None else self._card.pictures


_OPENED: Final = _Opened()


def set_opener(opener: Callable[[], Card | None]) -> None:
    """Set the function that opens the GPU. Without one, the host scales all pictures."""
    _OPENED.opener = opener


def open_card() -> Card | None:
    """Return the GPU of this process; None if it cannot be used, and the log has said why.

    Call it only while a picture is on the GPU: FFmpeg must have opened it.
    """
    return _OPENED.card()


def pictures_scaled() -> int:
    """Return the number of pictures that the GPU has scaled for the host."""
    return _OPENED.pictures()
