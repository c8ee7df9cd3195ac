"""Explain why a video cannot be read, and what to do: FFmpeg's errors, time-outs, data without a frame."""

from __future__ import annotations

import errno
import socket
from dataclasses import dataclass

import av.error

from streamclf.errors import SourceError, SourceRefusedError
from streamclf.redact import redact

NO_FRAME_S = 10.0
"""A live source waits for this long while packets arrive, a key frame among them, and none gives a frame."""
KEY_FRAME_S = 300.0
"""A live source waits for its first key frame for this long. Some cameras send one every 40 s or less often."""
KEY_FRAME_NOTE = "waits for a key frame: the connection began in the middle of a group of pictures"

REASONS: dict[type[Exception], str] = {
    av.error.HTTPUnauthorizedError: "authentication refused (401); check user name and password",
    av.error.HTTPForbiddenError: "access forbidden (403); check the user's rights",
    av.error.HTTPNotFoundError: "not found (404); check the path in the URL",
    av.error.HTTPServerError: "the server reports an error of its own (5xx); check the camera or server",
    av.error.HTTPBadRequestError: "the server refuses the request (400); check the URL",
    av.error.ConnectionRefusedError: "connection refused; check address and port, and that the server runs",
    av.error.ConnectionResetError: "the connection was reset by the other side",
    av.error.BrokenPipeError: "the connection was closed by the other side",
    av.error.FileNotFoundError: "not found; check the path",
    av.error.PermissionError: "cannot be read; check its permissions and the files that it refers to",
    av.error.ProtocolNotFoundError: "a protocol that is not allowed here or not built in",
    av.error.DecoderNotFoundError: "no decoder for its codec in this FFmpeg; convert it, to H.264 for instance",
    av.error.InvalidDataError: "not a video that FFmpeg can read; check the source, or convert it",
    av.error.EOFError: "ended before its first frame; the video is cut off or the server closed the connection at once",
}
REFUSED_ERRORS = (av.error.HTTPClientError,)
TLS_FAILURE = (
    "no TLS, or its certificate is not trusted or has another name; give the camera's own certificate as tls_ca "
    "(openssl s_client -connect HOST:PORT shows it)"
)


class UnknownDataError(SourceError):
    """A live source sends data that is not of the format that FFmpeg detects, or of none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Seconds after which opening a source, and waiting for a packet, fail."""

    open_s: float
    read_s: float


def timeout_message(limits: Timeouts, *, opening: bool) -> str:
    """Explain a time-out."""
    if opening:
        open_s = round(limits.open_s, 1)  # less than the configured time if another attempt has used some of it
        return f"no video within {open_s:g} s (open_timeout_s); check address, network and that it sends"
    return f"no data for {limits.read_s:g} s (read_timeout_s); check that the source is up and sends"


def no_key_frame_message(waited_s: float) -> str:
    """Explain that packets arrive and no key frame is among them."""
    return f"data arrives, but no key frame for {waited_s:.0f} s; set a shorter key frame interval in the camera"


def no_frame_message(waited_s: float, undecodable: int) -> str:
    """Explain that packets arrive but give no frame."""
    return (
        f"data arrives, but no frame could be decoded for {waited_s:.0f} s ({undecodable} broken packets); "
        "check the camera's codec and key frame interval"
    )


def no_film_frame_message(codec: str, undecodable: int) -> str:
    """Explain that no frame of a film could be decoded."""
    if codec == "rawvideo" and undecodable:
        return (
            "the file does not name the codec of its video, so that FFmpeg takes it for uncompressed images; write it "
            "again as MP4 or Matroska from the original (AVI has no name for H.265, for instance)"
        )
    return (
        f"no frame could be decoded ({codec}, {undecodable} broken packets); the video is damaged or cut off: play it "
        "elsewhere or copy it again"
    )


def error_message(error: Exception, *, opening: bool) -> str:
    """Explain an error of FFmpeg, without its own text, which may contain a password."""
    for kind, text in REASONS.items():
        if isinstance(error, kind):
            return text
    detail = getattr(error, "strerror", None) or type(error).__name__
    return f"cannot be {'opened' if opening else 'read'} ({redact(str(detail))}); check the source"


def source_error(
    error: Exception,
    shown: str,
    timeouts: Timeouts | None,
    *,
    opening: bool,
    waited_s: float,
    over_tls: bool = False,
) -> SourceError:
    """Return our error for PyAV's, without its text, which contains the URL with its password.

    `shown`: the source's name in errors. `timeouts`: of a live source, which has waited for data for `waited_s`.
    """
    if timeouts is not None:
        limit_s = timeouts.open_s if opening else timeouts.read_s
        # FFmpeg reports an interruption differently depending on where it happened; the clock is reliable.
        if isinstance(error, av.error.ExitError) or waited_s >= limit_s:
            return SourceError(f"{shown}: {timeout_message(timeouts, opening=opening)}")
        if isinstance(error, av.error.InvalidDataError):
            text = "there is no video stream there; check address, port and path"
            return UnknownDataError(f"{shown}: {text if opening else error_message(error, opening=False)}")
        if over_tls and getattr(error, "errno", None) == errno.EIO:
            return SourceError(f"{shown}: {TLS_FAILURE}")
    kind = SourceRefusedError if isinstance(error, REFUSED_ERRORS) else SourceError
    return kind(f"{shown}: {error_message(error, opening=opening)}")


def connection_message(error: OSError, *, opening: bool) -> str:
    """Explain why a connection failed, except for a time-out."""
    if type(error).__module__ == "ssl":  # loaded only for TLS: it takes 5 MB
        return TLS_FAILURE if opening else "the encrypted connection broke; check the network"
    if isinstance(error, socket.gaierror):
        return "its host name is unknown; check the address"
    kinds: list[tuple[type[OSError], type[Exception]]] = [
        (ConnectionRefusedError, av.error.ConnectionRefusedError),
        (ConnectionResetError, av.error.ConnectionResetError),
        (BrokenPipeError, av.error.BrokenPipeError),
    ]
    for kind, known in kinds:
        if isinstance(error, kind):
            return REASONS[known]
    detail = error.strerror or type(error).__name__
    return f"cannot be {'opened' if opening else 'read'} ({detail}); check the source"
