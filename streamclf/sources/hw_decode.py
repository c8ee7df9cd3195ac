"""Decode on a GPU or video chip if one can be opened; else on the CPU, with a note in the status.

The only test of a device is to open it. Pictures that a GPU has decoded through `cuda` stay in its memory, where
`streamclf.sources.card` scales them (PyAV 17 and later). From other devices PyAV copies each picture into an ordinary
frame, so the rest of the code is the same as with the CPU. This code has never run on such hardware, because none was
available.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import av
import av.error

from streamclf.config.source_settings import DeviceName
from streamclf.errors import SourceError

HardwareDevice = Literal["cuda", "vaapi", "videotoolbox"]

DEVICES: Final[tuple[HardwareDevice, ...]] = ("cuda", "vaapi", "videotoolbox")
"""In the order in which `auto` tries them."""
PROBE_CODEC: Final = "h264"
"""A device is opened for this codec to see whether it is available: every video decoder supports it."""


OPTIONS: Final[Mapping[HardwareDevice, dict[str, object]]] = {"cuda": {"primary_ctx": "1"}}
"""Options of each device. A CUDA context of its own for each decoder would cost hundreds of MiB of the GPU's memory."""


EXTRA_PICTURES: Final = 8
"""Pictures that a decoder keeps memory for beside its own: the sampler and each preview hold the latest ones."""


class HardwareError(SourceError):
    """A device that opened but decodes nothing of this video, and is not used again.

    The reader of the video then opens the video again, decoded by the CPU.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeDevice:
    """The device that decodes, or None for the CPU, and a note for the status, if any."""

    device: HardwareDevice | None = None
    note: str | None = None


CPU: Final = DecodeDevice()


class FailedDevices:
    """The devices that opened but decoded nothing, each with the reason, until this process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reasons: dict[HardwareDevice, str] = {}

    def add(self, device: HardwareDevice, reason: str) -> None:
        """Record that `device` is not to be tried again."""
        with self._lock:
            self._reasons[device] = reason

    def reason(self, device: HardwareDevice) -> str | None:
        """Return why `device` is not to be tried; None if it may be."""
        with self._lock:
            return self._reasons.get(device)


FAILED_DEVICES = FailedDevices()


def choose_device(name: DeviceName) -> DecodeDevice:
    """Choose the device for `decode_device` of a stream's configuration on this machine."""
    if name == "cpu":
        return CPU
    wanted = DEVICES if name == "auto" else (name,)
    failed = {}
    for device in wanted:
        reason = FAILED_DEVICES.reason(device) or opening_failure(device)
        if reason is None:
            return DecodeDevice(device=device, note=f"decoded by {device}")
        failed[device] = reason
    return DecodeDevice(note=f"decoded by the CPU ({_join_reasons(failed)})")


def opening_failure(device: HardwareDevice) -> str | None:
    """Return why `device` cannot be opened on this machine now; None if it can."""
    try:
        make_accelerator(device).create(av.Codec(PROBE_CODEC, "r"))
    except ImportError:
        return f"PyAV {av.__version__} has no hardware decoding; pip install 'av>=15'"
    except NotImplementedError:
        return "not in this FFmpeg"
    except (av.error.FFmpegError, OSError, ValueError, RuntimeError) as error:
        detail = getattr(error, "strerror", None) or type(error).__name__
        return f"cannot be opened: {detail}"
    return None


def make_accelerator(device: HardwareDevice) -> Any:
    """Return PyAV's settings for `device`; the CPU decodes codecs it lacks. Raises `ImportError` before PyAV 14."""
    from av.codec.hwaccel import HWAccel

    given: dict[str, Any] = {"device_type": device, "allow_software_fallback": True, "options": OPTIONS.get(device, {})}
    return HWAccel(**given, is_hw_owned=True) if keeps_pictures(device) else HWAccel(**given)


def keeps_pictures(device: HardwareDevice | None) -> bool:
    """Return whether decoded pictures stay in the memory of `device`."""
    return device == "cuda" and int(av.__version__.split(".")[0]) >= 17


def buffer_options(device: HardwareDevice | None) -> dict[str, str]:
    """Return the options of a decoder that keeps its pictures: memory for those that are in use afterwards."""
    return {"extra_hw_frames": str(EXTRA_PICTURES)} if keeps_pictures(device) else {}


def decoder_options(device: HardwareDevice | None) -> dict[str, Any]:
    """Return the keyword arguments with which PyAV uses `device`."""
    if device is None:
        return {}
    if keeps_pictures(device):
        from streamclf.sources import card  # it imports the adapter of TensorRT, which takes a moment

        card.enable()
    return {"hwaccel": make_accelerator(device)}


def uses_hardware(context: Any) -> bool:
    """Return whether a decoder uses a device at all."""
    return bool(getattr(context, "is_hwaccel", False))


def device_note(chosen: DecodeDevice, context: Any, codec: str) -> str | None:
    """Return the status note for a decoder made with `chosen`."""
    if chosen.device is not None and not uses_hardware(context):
        return f"decoded by the CPU ({chosen.device} does not decode {codec})"
    return chosen.note


def _join_reasons(failed: Mapping[HardwareDevice, str]) -> str:
    return "; ".join(f"{device}: {reason}" for device, reason in failed.items())
