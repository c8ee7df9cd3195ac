"""Share device memory between processes by file descriptors: CUDA's virtual memory management, through ctypes.

The kernel of the operating system counts the references to such memory, as it does for a memfd: it is freed with its
last mapping, whichever process ends first, and however it ends. CUDA's older `cuIpcGetMemHandle` gives no such
guarantee: freeing memory that another process has open is undefined there.
PyCUDA has no such calls, so both adapters use this module.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any, Final

from engines.backends.tensorrt.driver_values import OUT_OF_MEMORY
from engines.backends.tensorrt.interface import AllocationError

_PINNED: Final = 1
_DEVICE: Final = 1
_POSIX_FILE_DESCRIPTOR: Final = 1
_READ_WRITE: Final = 3
_CAN_SHARE: Final = 103
"""CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED"""


class _Location(ctypes.Structure):
    """CUmemLocation"""

    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _AllocationFlags(ctypes.Structure):
    _fields_ = (
        ("compression", ctypes.c_ubyte),
        ("rdma", ctypes.c_ubyte),
        ("usage", ctypes.c_ushort),
        ("reserved", ctypes.c_ubyte * 4),
    )


class _AllocationProperties(ctypes.Structure):
    """CUmemAllocationProp"""

    _fields_ = (
        ("type", ctypes.c_int),
        ("handle_types", ctypes.c_int),
        ("location", _Location),
        ("win32", ctypes.c_void_p),
        ("flags", _AllocationFlags),
    )


class _Access(ctypes.Structure):
    """CUmemAccessDesc"""

    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class SharedMemory:
    """The blocks of device memory that this process shares with others. The context must be current in each call."""

    def __init__(self, device: int) -> None:
        """`device` is the GPU's number."""
        self._driver: Any = None
        self._location = _Location(_DEVICE, device)
        self._blocks: dict[int, int] = {}

    def __contains__(self, address: object) -> bool:
        return address in self._blocks

    def create(self, nbytes: int) -> tuple[int, int]:
        """Allocate memory; return its address, and a descriptor that the caller closes.

        Raises `AllocationError`, and `RuntimeError` on a device that cannot share memory.
        """
        can_share = ctypes.c_int()
        self._call("cuDeviceGetAttribute", ctypes.byref(can_share), _CAN_SHARE, self._location.id)
        if not can_share.value:
            raise RuntimeError("this GPU cannot share memory between processes")
        properties = _AllocationProperties(type=_PINNED, handle_types=_POSIX_FILE_DESCRIPTOR, location=self._location)
        size = self._rounded(nbytes, properties)
        handle, fd = ctypes.c_ulonglong(), ctypes.c_int(-1)
        self._call(
            "cuMemCreate",
            ctypes.byref(handle),
            ctypes.c_size_t(size),
            ctypes.byref(properties),
            ctypes.c_ulonglong(0),
            nbytes=nbytes,
        )
        try:
            self._call(
                "cuMemExportToShareableHandle",
                ctypes.byref(fd),
                handle,
                ctypes.c_int(_POSIX_FILE_DESCRIPTOR),
                ctypes.c_ulonglong(0),
            )
            try:
                return self._map(handle, size), fd.value
            except BaseException:
                os.close(fd.value)
                raise
        finally:
            self._call("cuMemRelease", handle)  # the mapping keeps the memory

    def open(self, fd: int, nbytes: int) -> int:
        """Map the memory behind a descriptor, which the caller closes; return its address. Raises `RuntimeError`."""
        properties = _AllocationProperties(type=_PINNED, handle_types=_POSIX_FILE_DESCRIPTOR, location=self._location)
        handle = ctypes.c_ulonglong()
        self._call(
            "cuMemImportFromShareableHandle",
            ctypes.byref(handle),
            ctypes.c_void_p(fd),
            ctypes.c_int(_POSIX_FILE_DESCRIPTOR),
        )
        try:
            return self._map(handle, self._rounded(nbytes, properties))
        finally:
            self._call("cuMemRelease", handle)

    def release(self, address: int) -> None:
        """Unmap a block. The memory is freed when no process maps it any more and all its descriptors are closed."""
        size = self._blocks.pop(address)
        self._call("cuMemUnmap", ctypes.c_ulonglong(address), ctypes.c_size_t(size))
        self._call("cuMemAddressFree", ctypes.c_ulonglong(address), ctypes.c_size_t(size))

    def close(self) -> None:
        """Unmap all blocks."""
        for address in list(self._blocks):
            self.release(address)

    def _rounded(self, nbytes: int, properties: _AllocationProperties) -> int:
        unit = ctypes.c_size_t()
        self._call("cuMemGetAllocationGranularity", ctypes.byref(unit), ctypes.byref(properties), ctypes.c_int(0))
        return -(-nbytes // unit.value) * unit.value

    def _map(self, handle: ctypes.c_ulonglong, size: int) -> int:
        address, nbytes = ctypes.c_ulonglong(), ctypes.c_size_t(size)
        zero = ctypes.c_ulonglong(0)
        self._call("cuMemAddressReserve", ctypes.byref(address), nbytes, ctypes.c_size_t(0), zero, zero)
        try:
            self._call("cuMemMap", address, nbytes, ctypes.c_size_t(0), handle, zero)
            access = _Access(self._location, _READ_WRITE)
            try:
                self._call("cuMemSetAccess", address, nbytes, ctypes.byref(access), ctypes.c_size_t(1))
            except BaseException:
                self._call("cuMemUnmap", address, nbytes)
                raise
        except BaseException:
            self._call("cuMemAddressFree", address, nbytes)
            raise
        self._blocks[address.value] = size
        return address.value

    def _call(self, name: str, *arguments: Any, nbytes: int | None = None) -> None:
        if self._driver is None:
            self._driver = ctypes.CDLL("libcuda.so.1")
        function = getattr(self._driver, name, None)
        if function is None:
            raise RuntimeError(f"this driver has no {name}: sharing memory between processes needs CUDA 11")
        code = function(*arguments)
        if code == OUT_OF_MEMORY:
            raise AllocationError(nbytes)
        if code:
            raise RuntimeError(f"{name} failed with CUresult {code}")
