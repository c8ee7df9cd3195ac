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

HardwareDevice = Literal["cuda", "vaapi", "videotoolbox"]
Decode = Literal["auto", "cpu", "cuda", "vaapi", "videotoolbox"]

DEVICES: Final[tuple[HardwareDevice, ...]] = ("cuda", "vaapi", "videotoolbox")
"""In the order in which `auto` tries them."""
CODEC: Final = "h264"
"""Whether a device is there is asked for this codec: whatever decodes video decodes it."""


class HardwareError(SourceError):
    """A device that opened decodes nothing of this video, and is distrusted from now on. Whoever reads the video opens
    it again, and has the CPU then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeDevice:
    """Where to decode: on `device`, None: the CPU; `note`: what is to be said of it, if anything."""

    device: HardwareDevice | None = None
    note: str | None = None


CPU: Final = DecodeDevice()


class FailedDevices:
    """The devices that opened and decoded nothing, and what was wrong, as long as this process lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[HardwareDevice, str] = {}

    def add(self, device: HardwareDevice, reason: str) -> None:
        """`device` is not to be tried again."""
        with self._lock:
            self._reasons[device] = reason

    def of(self, device: HardwareDevice) -> str | None:
        """Why not to try `device`, None: no reason."""
        with self._lock:
            return self._reasons.get(device)


FAILED_DEVICES = FailedDevices()


def choose_device(decode: Decode) -> DecodeDevice:
    """What `decode` of a stream's configuration comes to on this machine."""
    if decode == "cpu":
        return CPU
    wanted = DEVICES if decode == "auto" else (decode,)
    failed = {}
    for device in wanted:
        reason = FAILED_DEVICES.of(device) or opening_failure(device)
        if reason is None:
            return DecodeDevice(device=device, note=f"decoded by {device}")
        failed[device] = reason
    return DecodeDevice(note=f"decoded by the CPU ({_list(failed)})")


def opening_failure(device: HardwareDevice) -> str | None:
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


def make_accelerator(device: HardwareDevice) -> Any:
    """PyAV's settings for `device`; a codec that it does not know is the CPU's. Raises `ImportError` before PyAV 14."""
    from av.codec.hwaccel import HWAccel

    return HWAccel(device_type=device, allow_software_fallback=True)


def decoder_options(device: HardwareDevice | None) -> dict[str, Any]:
    """What PyAV is to be called with."""
    return {} if device is None else {"hwaccel": make_accelerator(device)}


def is_used(context: Any) -> bool:
    """Whether a decoder has a device at all."""
    return bool(getattr(context, "is_hwaccel", False))


def device_note(choice: DecodeDevice, context: Any, codec: str) -> str | None:
    """The note for a decoder made with `choice`."""
    if choice.device is not None and not is_used(context):
        return f"decoded by the CPU ({choice.device} does not decode {codec})"
    return choice.note


def _list(failed: Mapping[HardwareDevice, str]) -> str:
    return "; ".join(f"{device}: {reason}" for device, reason in failed.items())
