"""Check the GPU and its driver before TensorRT is imported, because TensorRT crashes without a driver."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import Final

from engines.backends.gpu import Gpu, find_gpus, tensorrt_packages
from engines.backends.names import CUDA_ADAPTERS
from engines.backends.tensorrt.driver_values import DeviceNumberError
from engines.backends.tensorrt.interface import Cuda, Platform
from engines.errors import BackendMissingError

log = logging.getLogger("engine")


ORDER_VARIABLE: Final = "CUDA_DEVICE_ORDER"
"""With the value PCI_BUS_ID, CUDA numbers the GPUs as `nvidia-smi` does. By default the fastest GPU is number 0."""


def load_platform(device: int | None = None, *, gpus: Callable[[], Sequence[Gpu]] = find_gpus) -> Platform:
    """Initialise CUDA and TensorRT on the GPU with the number `device`, or on CUDA's first one.

    Raises `BackendMissingError`, which says what is missing and what to do.
    """
    found = gpus()
    if not found:
        raise BackendMissingError(
            "backend tensorrt: no NVIDIA driver is running here (no /proc/driver/nvidia, no /dev/nvidiactl); "
            "install NVIDIA's driver, give the container its GPU (docker run --gpus all), or use backend openvino"
        )
    packages = tensorrt_packages(found[0])
    cuda = open_cuda(packages, device)
    try:
        with cuda.active():
            from engines.backends.tensorrt.library import TensorRtCompiler

            compiler = TensorRtCompiler()
    except BackendMissingError:
        cuda.close()
        raise
    except ImportError as error:
        cuda.close()
        reason = f"tensorrt cannot be imported: {_one_line(error)}"
        raise BackendMissingError(f"backend tensorrt: {reason}; {_remedy(reason, packages)}") from error
    except (RuntimeError, TypeError) as error:  # pybind raises TypeError for a null pointer
        cuda.close()
        raise BackendMissingError(
            f"backend tensorrt: TensorRT does not start on {cuda.gpu.name} under driver {cuda.gpu.driver}: {error}; "
            "install a TensorRT for this driver's CUDA version"
        ) from error
    return Platform(cuda=cuda, compiler=compiler)


def open_cuda(packages: str, device: int | None = None) -> Cuda:
    """Open the GPU `device` through PyCUDA, or through cuda-bindings if PyCUDA cannot be imported.

    `packages`: the arguments of `pip install` for the error. Raises `BackendMissingError`.
    """
    failures: list[str] = []
    for module, find_class in zip(CUDA_ADAPTERS, (find_pycuda, find_bindings), strict=True):
        try:
            open_device = find_class()
        except ImportError as error:
            failures.append(f"{module} cannot be imported: {_one_line(error)}")
            continue
        if failures:
            log.info("CUDA through %s: %s", module, failures[0])
        try:
            if device is None:
                return open_device(0)
            os.environ.setdefault(ORDER_VARIABLE, "PCI_BUS_ID")  # read when the driver starts
            return open_device(device)
        except DeviceNumberError as error:
            raise BackendMissingError(f"backend tensorrt: {error}") from None
        except Exception as error:  # PyCUDA's exceptions can be named only after its import, which may have failed
            reason = "; ".join([*failures, f"CUDA does not start: {_one_line(error)}"])
            remedy = _remedy(reason, "") or "run nvidia-smi to see whether the driver works"
            raise BackendMissingError(f"backend tensorrt: {reason}; {remedy}") from error
    raise BackendMissingError(f"backend tensorrt: {'; '.join(failures)}; {_remedy(failures[0], packages)}")


def find_pycuda() -> Callable[[int], Cuda]:
    """Return the class of the device on PyCUDA. Raises `ImportError`."""
    from engines.backends.tensorrt.pycuda_device import PyCudaDevice

    return PyCudaDevice


def find_bindings() -> Callable[[int], Cuda]:
    """Return the class of the device on cuda-bindings. Raises `ImportError`."""
    from engines.backends.tensorrt.bindings_device import CudaBindingsDevice

    return CudaBindingsDevice


def _remedy(reason: str, packages: str) -> str:
    """Return the remedy for a library that cannot be loaded. A library of the system is no Python package."""
    if "libcuda" in reason or "NVIDIA driver library" in reason:
        return (
            "the NVIDIA driver's library is not visible here: install the driver, or start the container with "
            "NVIDIA_DRIVER_CAPABILITIES=compute,utility"
        )
    if "libcurand" in reason:
        return "PyCUDA was built with cuRAND, which is missing: pip install cuda-bindings, which is then used instead"
    return f"pip install --force-reinstall {packages}" if packages else ""


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
