"""Decoding on a GPU or video chip, where one can be opened; else on the CPU, which is said and is no error.

Which one opens is found by opening it. What was decoded there comes back as an ordinary picture (PyAV copies it), so
that all else is as with the CPU. It has never run on hardware: none was to be had.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import av
import av.error

from streamclf.errors import SourceError

Device = Literal["cuda", "vaapi", "videotoolbox"]
Decode = Literal["auto", "cpu", "cuda", "vaapi", "videotoolbox"]

DEVICES: Final[tuple[Device, ...]] = ("cuda", "vaapi", "videotoolbox")
"""In the order in which `auto` tries them."""
CODEC: Final = "h264"
"""Whether a device is there is asked for this codec: whatever decodes video decodes it."""


class HardwareError(SourceError):
    """A device that opened decodes nothing of this video, and is distrusted from now on. Whoever reads the video opens
    it again, and has the CPU then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Where to decode: on `device`, None: the CPU; `note`: what is to be said of it, if anything."""

    device: Device | None = None
    note: str | None = None


CPU: Final = Choice()


class Distrust:
    """The devices that opened and decoded nothing, and what was wrong, as long as this process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[Device, str] = {}

    def add(self, device: Device, reason: str) -> None:
        """`device` is not to be tried again."""
        with self._lock:
            self._reasons[device] = reason

    def of(self, device: Device) -> str | None:
        """Why not to try `device`, None: no reason."""
        with self._lock:
            return self._reasons.get(device)


DISTRUST = Distrust()


def choose(decode: Decode) -> Choice:
    """What `decode` of a stream's configuration comes to on this machine."""
    if decode == "cpu":
        return CPU
    wanted = DEVICES if decode == "auto" else (decode,)
    failed = {}
    for device in wanted:
        reason = DISTRUST.of(device) or unopened(device)
        if reason is None:
            return Choice(device=device, note=f"decoded by {device}")
        failed[device] = reason
    return Choice(note=f"decoded by the CPU ({_list(failed)})")


def unopened(device: Device) -> str | None:
    """Why `device` cannot be opened on this machine now; None: it can."""
    try:
        make_accelerator(device).create(av.Codec(CODEC, "r"))
    except ImportError:
        return f"PyAV {av.__version__} has no hardware decoding; pip install 'av>=15'"
    except NotImplementedError:
        return "not in this FFmpeg"
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        detail = getattr(error, "strerror", None) or type(error).__name__
        return f"cannot be opened: {detail}"
    return None


def make_accelerator(device: Device) -> Any:
    """PyAV's settings for `device`; a codec that it does not know is the CPU's. Raises `ImportError` before PyAV 14."""
    from av.codec.hwaccel import HWAccel

    return HWAccel(device_type=device, allow_software_fallback=True)


def options_for(device: Device | None) -> dict[str, Any]:
    """What PyAV is to be called with."""
    return {} if device is None else {"hwaccel": make_accelerator(device)}


def is_used(context: Any) -> bool:
    """Whether a decoder has a device at all."""
    return bool(getattr(context, "is_hwaccel", False))


def said_of(choice: Choice, context: Any, codec: str) -> str | None:
    """The note for a decoder made with `choice`."""
    if choice.device is not None and not is_used(context):
        return f"decoded by the CPU ({choice.device} does not decode {codec})"
    return choice.note


def _list(failed: Mapping[Device, str]) -> str:
    return "; ".join(f"{device}: {reason}" for device, reason in failed.items())
