"""Make PyAV's CUDA frames without a decoder on a GPU, over the driver of cuda_driver.c: its memory is the host's."""

from __future__ import annotations

import ctypes
from typing import Any, Final

import av
import numpy as np

CUDA: Final = 2
"""kDLCUDA"""


class _Tensor(ctypes.Structure):
    """DLManagedTensor"""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int),
        ("device_id", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_alive: dict[int, tuple[Any, ...]] = {}
_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype, _new_capsule.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)


@_Deleter
def _delete(address: int) -> None:
    _alive.pop(address, None)


class _Plane:
    """One plane of bytes or 16-bit words, (rows, columns), that says it is on a GPU."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array

    def __dlpack__(self, *, stream: object = None) -> Any:
        array = self._array
        shape = (ctypes.c_int64 * 2)(*array.shape)
        strides = (ctypes.c_int64 * 2)(array.strides[0] // array.itemsize, 1)
        tensor = _Tensor(array.ctypes.data, CUDA, 0, 2, 1, 8 * array.itemsize, 1, shape, strides, 0, None)
        tensor.deleter = ctypes.cast(_delete, ctypes.c_void_p)
        address = ctypes.addressof(tensor)
        _alive[address] = (tensor, shape, strides, array)
        return _new_capsule(address, b"dltensor", None)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, 0


def planes_alive() -> int:
    """Return the number of planes of frames that were not freed."""
    return len(_alive)


def to_card(frame: av.VideoFrame, form: str = "nv12") -> av.VideoFrame:
    """Return a CUDA frame with the pixels, times and colours of `frame`, as a decoder on a GPU would."""
    source = frame if frame.format.name == form else frame.reformat(format=form)
    planes = []
    for plane in source.planes:
        kind = np.uint8 if form == "nv12" else np.uint16
        row = plane.line_size // np.dtype(kind).itemsize
        padded = np.zeros((plane.height, row + 64), kind)  # a decoder's rows are longer, too
        padded[:, :row] = np.frombuffer(plane, kind).reshape(plane.height, row)
        planes.append(_Plane(padded[:, : frame.width]))
    card = av.VideoFrame.from_dlpack(planes, format=form, primary_ctx=True)
    card.pts, card.dts = frame.pts, frame.dts
    if frame.time_base is not None:
        card.time_base = frame.time_base
    card.colorspace, card.color_range = frame.colorspace, frame.color_range
    return card


def decode_on_card() -> None:
    """Let every decoded frame of this process be on the GPU, where a decoder there would have left it."""
    from streamclf.sources.card import enable
    from streamclf.sources.decoded_frame import OrientationTracker

    enable()
    orient = OrientationTracker.orient

    def orient_on_card(self: OrientationTracker, frame: av.VideoFrame, pixel_aspect: Any, reduction: int = 1) -> Any:
        oriented = orient(self, frame, pixel_aspect, reduction)
        return oriented._replace(frame=to_card(frame))

    OrientationTracker.orient = orient_on_card  # type: ignore[method-assign]
