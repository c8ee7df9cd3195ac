"""An RTSP URL as `streamclf.sources.network` reads it: pictures, time-outs, and every fault as a `SourceError`."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal

import av.error

from streamclf.errors import SourceError
from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.failure_messages import (
    NO_FRAME_S,
    REASONS,
    UNTRUSTED,
    Timeouts,
    no_frame_message,
    timeout_message,
)
from streamclf.sources.frame import SourceInfo
from streamclf.sources.frame_skipping import FrameSelector
from streamclf.sources.hw_decode import CPU, DecodeDevice
from streamclf.sources.rtsp.access_units import AccessUnit
from streamclf.sources.rtsp.client import StreamEndedError
from streamclf.sources.rtsp.connection import StopRequestedError
from streamclf.sources.rtsp.decoder import RtspDecoder
from streamclf.sources.rtsp.fallback import FALLBACK_CACHE, UnsupportedStreamError
from streamclf.sources.rtsp.session import RtspSession

GOODBYE_S = 0.5
"""After a sender's goodbye (RTCP BYE), the time for another one to begin."""
MAX_UNSUPPORTED = 10
"""Packets of a kind that we do not take apart, before the first picture: one may be a damaged packet."""
TROUBLE = (UnsupportedStreamError, StreamEndedError, StopRequestedError, OSError)
"""What a connection may end with, besides a `SourceError` that says all there is to say."""
WRONG_MARKERS = "its marker bits are wrong: each picture waits for the next one"


class RtspReader:
    """One connection to an RTSP server, opened when its first picture's data is there."""

    endless = True
    in_pieces = False

    def __init__(
        self,
        url: str,
        *,
        shown: str,
        transport: Literal["tcp", "udp"],
        timeouts: Timeouts,
        tls_ca: str | None = None,
        tls_verify: bool = True,
        hardware: DecodeDevice = CPU,
        stop: threading.Event | None = None,
    ) -> None:
        """Raises `UnsupportedStreamError` for a server or video beyond this client, else `SourceError` for a fault."""
        self._url = url
        self._shown = shown
        self._timeouts = timeouts
        self._stop = stop or threading.Event()
        self._units: deque[AccessUnit] = deque()
        self._opening = True
        self._made = 0
        self._over_tls = url.lower().startswith("rtsps:")
        began = time.monotonic()
        deadline = began + timeouts.open_s
        try:
            self._session = RtspSession(
                url,
                shown=shown,
                transport=transport,
                deadline=deadline,
                tls_ca=tls_ca,
                tls_verify=tls_verify,
                stop=self._stop,
            )
        except TROUBLE as error:
            raise self._translated(error) from None
        self._media = self._session.media
        try:
            # Without marker bits the picture before a stall comes after it, as with FFmpeg: the same rule as there.
            track = self._session.offer.track
            self._decoder = RtspDecoder(self._media, track, held_after_s=timeouts.read_s / 2, hardware=hardware)
            self._data_at = time.monotonic()
            self._await_first(deadline)
        except BaseException:
            self.close()
            raise
        self._opening = False

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate; what is not as it should be."""
        width, height = self._decoder.size
        notes = [self._decoder.note, None if self._media.trusts_marker else WRONG_MARKERS]
        note = "; ".join(filter(None, notes)) or None
        return SourceInfo(codec=self._media.codec, width=width, height=height, fps=self._decoder.fps, note=note)

    @property
    def undecodable(self) -> int:
        """Packets and pictures that could not be decoded."""
        return self._decoder.undecodable + self._media.malformed + self._media.unsupported

    @property
    def lost(self) -> int:
        """Packets that never came."""
        return self._media.lost

    def set_frame_selector(self, interest: FrameSelector) -> None:
        """Skip what `interest` will not want."""
        self._decoder.set_frame_selector(interest)

    def close(self) -> None:
        """Hang up."""
        self._session.close()

    def pictures(self) -> Iterator[DecodedFrame]:
        """All pictures until the server ends the stream or we are asked to stop. Raises `SourceError` for a fault."""
        waiting_since = time.monotonic()
        try:
            while True:
                while self._units:
                    for unit in self._decoder.admitted(self._units.popleft()):
                        for picture in self._decoder.decoded(unit):
                            waiting_since = time.monotonic()
                            self._made += 1
                            yield picture
                waited_s = time.monotonic() - waiting_since
                if waited_s > max(NO_FRAME_S, self._timeouts.read_s):
                    if not self._made:
                        FALLBACK_CACHE.learn(self._url, "its pictures could not be decoded")
                    raise SourceError(f"{self._shown}: {no_frame_message(waited_s, self.undecodable)}")
                self._read(self._data_at + self._timeouts.read_s)
        except (StreamEndedError, StopRequestedError):
            return

    def _await_first(self, deadline: float) -> None:
        while not self._units:
            self._read(deadline)
            if self._media.unsupported >= MAX_UNSUPPORTED:
                raise UnsupportedStreamError("its packets are of a kind that cameras do not send (interleaved)")

    def _read(self, until: float) -> None:
        """Wait for packets, and assemble what they bring. Raises our error for a fault, or when none has come until
        then; `StreamEndedError` and `StopRequestedError` are their caller's."""
        media, soonest = self._media, until
        if media.reorders and media.deadline is not None:
            soonest = min(soonest, media.deadline)
        if media.left_at is not None:
            soonest = min(soonest, media.left_at + GOODBYE_S)
        try:
            came = self._session.receive(soonest)
            now = time.monotonic()
            for channel, packets in came:
                if channel:
                    media.rtcp(packets, now)
                else:
                    self._units += media.rtp(packets, now)
            if media.came_at is not None and media.came_at > self._data_at:
                self._data_at = media.came_at
            if media.reorders:
                self._units += media.expire(now)
            if media.left_at is not None and now - media.left_at >= GOODBYE_S:
                raise StreamEndedError
            # Data that was there before the reader came back from elsewhere is no silence.
            if now >= until and not (self._units if self._opening else self._data_at + self._timeouts.read_s > now):
                raise TimeoutError
        except TROUBLE as error:
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> Exception:
        """Our error for one of `TROUBLE`; never with a text that might hold more than it should."""
        if isinstance(error, OSError):
            return SourceError(f"{self._shown}: {self._reason(error)}")
        if isinstance(error, UnsupportedStreamError):
            return error if self._opening else SourceError(f"{self._shown}: {error}; check the camera and the network")
        if not self._opening:
            return error  # the end, which our caller knows
        ended = isinstance(error, StreamEndedError)
        reason = REASONS[av.error.EOFError] if ended else "asked to stop before it was opened"
        return SourceError(f"{self._shown}: {reason}")

    def _reason(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return timeout_message(self._timeouts, opening=self._opening)
        if isinstance(error, ssl.SSLError):
            return UNTRUSTED if self._opening else "the encrypted connection broke; check the network"
        if isinstance(error, socket.gaierror):
            return "its host name is not known; check the address"
        kinds: list[tuple[type[OSError], type[Exception]]] = [
            (ConnectionRefusedError, av.error.ConnectionRefusedError),
            (ConnectionResetError, av.error.ConnectionResetError),
            (BrokenPipeError, av.error.BrokenPipeError),
        ]
        for kind, known in kinds:
            if isinstance(error, kind):
                return REASONS[known]
        detail = error.strerror or type(error).__name__
        return f"cannot be {'opened' if self._opening else 'read'} ({detail}); check the source"
