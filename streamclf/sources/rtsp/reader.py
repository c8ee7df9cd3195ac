"""Read an RTSP URL for `streamclf.sources.network`: frames, time-outs, and every fault as a `SourceError`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Literal

import av.error

from streamclf.errors import SourceError
from streamclf.sources.decoded_frame import DecodedFrame
from streamclf.sources.decoding import WantedDecoding
from streamclf.sources.failure_messages import (
    KEY_FRAME_NOTE,
    KEY_FRAME_S,
    NO_FRAME_S,
    REASONS,
    Timeouts,
    connection_message,
    no_frame_message,
    no_key_frame_message,
    timeout_message,
)
from streamclf.sources.frame import SourceInfo
from streamclf.sources.frame_skipping import FrameSelector
from streamclf.sources.hw_decode import CPU, DecodeDevice
from streamclf.sources.packet_tap import COPIED_CODECS, PacketSink
from streamclf.sources.rtsp.access_units import AccessUnit
from streamclf.sources.rtsp.client import StreamEndedError
from streamclf.sources.rtsp.connection import StopRequestedError
from streamclf.sources.rtsp.decoder import RtspDecoder
from streamclf.sources.rtsp.fallback import FALLBACK_CACHE, UnsupportedStreamError
from streamclf.sources.rtsp.session import RtspSession

BYE_WAIT_S = 0.5
"""After a sender's BYE (RTCP), the time in which another sender may begin."""
MAX_UNSUPPORTED = 10
"""Packets of unsupported types before the first frame. Fewer may be damaged packets."""
CONNECTION_ERRORS = (UnsupportedStreamError, StreamEndedError, StopRequestedError, OSError)
"""The exceptions that end a connection, besides `SourceError`, which needs no translation."""
WRONG_MARKERS = "its marker bits are wrong: each frame is returned only when the next one begins"


class RtspReader:
    """One connection to an RTSP server. The constructor returns once the first frame's data has arrived."""

    is_endless = True
    is_segmented = False
    stale = 0

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
        """Connect, and wait for the first frame's data.

        Raises `UnsupportedStreamError` if this client does not support the server or video, else `SourceError`.
        """
        self._url = url
        self._shown = shown
        self._timeouts = timeouts
        self._stop = stop or threading.Event()
        self._units: deque[AccessUnit] = deque()
        self._opening = True
        self._frame_count = 0
        self._sink: PacketSink | None = None
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
        except CONNECTION_ERRORS as error:
            raise self._translated(error) from None
        self._media = self._session.media
        try:
            # Without marker bits, a stall delays the frame before it, as with FFmpeg. The same rule applies as there.
            track = self._session.presentation.track
            self._decoder = RtspDecoder(
                self._media, track, shown=shown, held_after_s=timeouts.read_s / 2, hardware=hardware
            )
            self._data_at = time.monotonic()
            self._await_first(deadline)
            self._decoder.find_key(self._units[0])
        except BaseException:
            self.close()
            raise
        self._opening = False

    @property
    def info(self) -> SourceInfo:
        """Codec, size and nominal rate. The note has the decoding device, wrong marker bits or a missing key frame."""
        width, height = self._decoder.size
        waits = None if self._decoder.has_key else KEY_FRAME_NOTE
        notes = [waits, self._decoder.note, None if self._media.trusts_marker else WRONG_MARKERS]
        note = "; ".join(filter(None, notes)) or None
        return SourceInfo(
            codec=self._media.codec,
            width=width,
            height=height,
            fps=self._decoder.fps,
            note=note,
            decoding=self._decoder.decoding,
        )

    @property
    def undecodable(self) -> int:
        """Number of packets and frames that could not be decoded."""
        return self._decoder.undecodable + self._media.malformed + self._media.unsupported

    @property
    def lost(self) -> int:
        """Number of packets that never arrived."""
        return self._media.lost

    def set_frame_selector(self, selector: FrameSelector) -> None:
        """Skip frames that `selector` does not need."""
        self._decoder.set_frame_selector(selector)

    def set_decoding(self, wanted: WantedDecoding) -> None:
        """Decode as `wanted` says, at once before the first frame, else from the next key frame on."""
        self._decoder.set_decoding(wanted)

    def set_packet_sink(self, sink: PacketSink) -> None:
        """Hand on the access units from now on."""
        self._sink = sink
        if self._media.codec in COPIED_CODECS:
            sink.begin(self._media.codec, self._decoder.parameter_sets)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def frames(self) -> Iterator[DecodedFrame]:
        """Iterate over all frames until the server ends the stream or a stop is requested. Raises `SourceError`."""
        waiting_since = time.monotonic()
        try:
            while True:
                while self._units:
                    had_key = self._decoder.has_key
                    arrived = self._units.popleft()
                    if self._sink is not None:
                        key = self._decoder.is_key(arrived)
                        self._sink.push(arrived.data, self._media.media_ns(arrived.timestamp), key=key)
                    for unit in self._decoder.units_to_decode(arrived):
                        for frame in self._decoder.decoded(unit):
                            waiting_since = time.monotonic()
                            self._frame_count += 1
                            yield frame
                    if self._decoder.has_key and not had_key:
                        waiting_since = time.monotonic()
                waited_s = time.monotonic() - waiting_since
                if not self._decoder.has_key:
                    if waited_s > max(KEY_FRAME_S, self._timeouts.read_s):
                        raise SourceError(f"{self._shown}: {no_key_frame_message(waited_s)}")
                elif waited_s > max(NO_FRAME_S, self._timeouts.read_s):
                    if not self._frame_count and not self._media.malformed:
                        FALLBACK_CACHE.add(self._url, "its frames could not be decoded")
                    raise SourceError(f"{self._shown}: {no_frame_message(waited_s, self.undecodable)}")
                self._read(self._data_at + self._timeouts.read_s)
        except (StreamEndedError, StopRequestedError):
            return

    def _await_first(self, deadline: float) -> None:
        while not self._units:
            self._read(deadline)
            if self._media.unsupported >= MAX_UNSUPPORTED:
                raise UnsupportedStreamError("its packets are of a type that cameras do not send (interleaved)")

    def _read(self, until: float) -> None:
        """Wait for packets and assemble their frames. Raises `SourceError` for a fault, or if none arrives by `until`.

        The caller handles `StreamEndedError` and `StopRequestedError`.
        """
        media, soonest = self._media, until
        if media.reorders and media.deadline is not None:
            soonest = min(soonest, media.deadline)
        if media.left_at is not None:
            soonest = min(soonest, media.left_at + BYE_WAIT_S)
        try:
            received = self._session.receive(soonest)
            now = time.monotonic()
            for channel, packets in received:
                if channel:
                    media.push_rtcp(packets, now)
                else:
                    self._units += media.push_rtp(packets, now)
            if media.received_at is not None and media.received_at > self._data_at:
                self._data_at = media.received_at
            if media.reorders:
                self._units += media.expire(now)
            if media.left_at is not None and now - media.left_at >= BYE_WAIT_S:
                raise StreamEndedError
            # Data may have arrived while the caller was busy: that is not silence.
            if now >= until and not (self._units if self._opening else self._data_at + self._timeouts.read_s > now):
                raise TimeoutError
        except CONNECTION_ERRORS as error:
            raise self._translated(error) from None

    def _translated(self, error: Exception) -> Exception:
        """Return our error for one of `CONNECTION_ERRORS`, without a text that may contain a password."""
        if isinstance(error, OSError):
            return SourceError(f"{self._shown}: {self._reason(error)}")
        if isinstance(error, UnsupportedStreamError):
            return error if self._opening else SourceError(f"{self._shown}: {error}; check the camera and the network")
        if not self._opening:
            return error  # the caller handles the end
        ended = isinstance(error, StreamEndedError)
        reason = REASONS[av.error.EOFError] if ended else "a stop was requested before it was opened"
        return SourceError(f"{self._shown}: {reason}")

    def _reason(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return timeout_message(self._timeouts, opening=self._opening)
        return connection_message(error, opening=self._opening)
