"""A web server on a loopback port that answers each request with what a function writes to the socket."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class HostileServer:
    """Count the requests and the bytes that were accepted; `answer` writes the response to a request."""

    def __init__(self, answer: Callable[[HostileServer, socket.socket, str], None], host: str = "127.0.0.1") -> None:
        self._answer = answer
        self._listener = socket.create_server((host, 0))
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[str] = []
        """The heads of all requests."""
        self.sent = 0
        self.connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def send(self, sock: socket.socket, data: bytes) -> None:
        """Send `data` and count it."""
        sock.sendall(data)
        self.sent += len(data)

    def pour(self, sock: socket.socket, head: bytes, block: bytes) -> None:
        """Send `head`, and then `block` until the client closes the connection."""
        self.send(sock, head)
        while True:
            self.send(sock, block)

    def paths(self) -> list[str]:
        """Return the paths of all requests."""
        return [head.split(" ")[1] for head in self.requests]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            sock.settimeout(20)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def read_head(self, sock: socket.socket) -> str | None:
        """Read the head of the next request; None at the end of the connection."""
        data = b""
        while b"\r\n\r\n" not in data:
            received = sock.recv(65536)
            if not received:
                return None
            data += received
        self.requests.append(data.decode("latin-1"))
        return self.requests[-1]

    def _serve(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            if (head := self.read_head(sock)) is not None:
                self._answer(self, sock, head)

    def close(self) -> None:
        """Accept no more connections."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def hostile(answer: Callable[[HostileServer, socket.socket, str], None]) -> Iterator[HostileServer]:
    """Run a `HostileServer`."""
    server = HostileServer(answer)
    try:
        yield server
    finally:
        server.close()


def response(body: bytes = b"", *, kind: str = "video/mp4", status: str = "200 OK", head: str = "") -> bytes:
    """Return a whole response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", "Connection: close"]
    return ("\r\n".join(lines) + f"\r\n{head}\r\n").encode() + body
