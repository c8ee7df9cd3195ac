"""Receive the raw images that another program pushes (`streamclf.push`): this end listens."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import numpy as np

from engines.arrays import U8
from streamclf.errors import SourceError, SourceWaitingError
from streamclf.net.push_protocol import (
    HEADER,
    HEADER_MAGIC,
    MAX_FRAME_BYTES,
    MAX_SIDE,
    PushAddress,
    make_private_folder,
    parse_push_address,
)
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.push_handshake import MAX_PENDING, HandshakeServer
from streamclf.sources.resize import render_rgb

POLL_S = 0.25
"""A stop request is noticed within this time."""


class PushSource(Source):
    """The frames that a program pushes; one program at a time. Media time is `pts_ns` of the program."""

    live = True

    def __init__(
        self,
        where: str,
        *,
        secret: str = "",
        open_timeout_s: float = 5.0,
        read_timeout_s: float = 2.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._shown = f"push {where}"
        self._secret = secret
        self._open_timeout_s = open_timeout_s
        self._read_timeout_s = read_timeout_s
        self._stop = stop or threading.Event()
        self._address = parse_push_address(where)
        self._info = SourceInfo(codec="raw", width=0, height=0, fps=None)
        self._listener = _listen(self._address, self._shown)
        self._peer: socket.socket | None = None
        self._frames = self._read()

    def __next__(self) -> Frame:
        return next(self._frames)

    @property
    def info(self) -> SourceInfo:
        """Size of the latest frame."""
        return self._info

    def close(self) -> None:
        """Close the connection and stop listening."""
        if self._peer is not None:
            self._peer.close()
        if self._listener.fileno() >= 0 and self._address.path is not None:
            self._address.path.unlink(missing_ok=True)
        self._listener.close()

    def _read(self) -> Iterator[Frame]:
        self._peer = self._accept()
        if self._peer is None:
            return
        header, index = bytearray(HEADER.size), 0
        while self._receive(memoryview(header)):
            image, pts_ns = self._receive_image(header)
            if image is None:
                return
            self._info = SourceInfo(codec="raw", width=image.shape[1], height=image.shape[0], fps=None)
            yield Frame(
                index=index,
                pts_ns=pts_ns,
                captured_ns=time.monotonic_ns(),
                width=image.shape[1],
                height=image.shape[0],
                image=image,
                render=render_rgb,
            )
            index += 1

    def _receive_image(self, header: bytearray) -> tuple[U8 | None, int]:
        magic, width, height, pts_ns, dropped = HEADER.unpack(header)
        size = width * height * 3
        fits = 0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE and size <= MAX_FRAME_BYTES
        if magic != HEADER_MAGIC or not fits:
            raise SourceError(
                f"{self._shown}: received bytes that are not an image ({width}x{height}); send with streamclf.push"
            )
        self.dropped_by_sender = dropped
        image = np.empty((height, width, 3), np.uint8)  # a new array each time: a frame may be kept
        return (image, pts_ns) if self._receive(image.data.cast("B")) else (None, 0)

    def _accept(self) -> socket.socket | None:
        """Return the first program's connection that authenticates; None if a stop is requested before."""
        deadline = time.monotonic() + self._open_timeout_s
        with HandshakeServer(self._listener, self._secret) as handshakes:
            while not self._stop.is_set():
                if peer := handshakes.wait(POLL_S):
                    return peer
                if time.monotonic() > deadline:
                    raise SourceWaitingError(
                        f"{self._shown}: no program connected within {self._open_timeout_s:g} s (open_timeout_s); "
                        "start the program that pushes"
                    )
        return None

    def _receive(self, into: memoryview) -> bool:
        """Fill `into`. Returns False if a stop is requested. Raises `SourceError` if the program stalls or ends."""
        assert self._peer is not None  # accepted before
        deadline = time.monotonic() + self._read_timeout_s
        self._peer.settimeout(POLL_S)
        done = 0
        while done < len(into):
            if self._stop.is_set():
                return False
            try:
                count = self._peer.recv_into(into[done:])
            except TimeoutError:
                count = None
            except OSError as error:
                raise SourceError(f"{self._shown}: the program has left ({error.strerror})") from None
            if count == 0:
                raise SourceWaitingError(f"{self._shown}: the program closed the connection; start it again")
            done += count or 0
            if time.monotonic() > deadline and done < len(into):
                raise SourceError(
                    f"{self._shown}: no frame for {self._read_timeout_s:g} s (read_timeout_s); check the program"
                )
        return True


def _listen(address: PushAddress, shown: str) -> socket.socket:
    listener = address.socket()
    try:
        if address.path is not None:
            make_private_folder(address.path.parent)
            _remove_stale_socket(address, shown)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address.target)
        listener.listen(MAX_PENDING)
    except OSError as error:
        listener.close()
        raise SourceError(f"{shown}: cannot listen on {address} ({error.strerror}); give another address") from None
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale_socket(address: PushAddress, shown: str) -> None:
    """Remove the socket of a process that was killed. A socket that answers belongs to another stream."""
    assert address.path is not None
    with address.socket() as probe:
        probe.settimeout(POLL_S)
        try:
            probe.connect(address.target)
        except (ConnectionRefusedError, FileNotFoundError):
            address.path.unlink(missing_ok=True)
            return
        except OSError:
            pass
    raise SourceError(f"{shown}: another stream or service listens there; give each its own name")
