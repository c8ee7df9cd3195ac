"""Check the GPU and its driver before TensorRT is imported, because TensorRT crashes without a driver."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engines.backends.gpu import Gpu, find_gpus
from engines.backends.names import INSTALL
from engines.backends.tensorrt.interface import Platform
from engines.errors import BackendMissingError


def load_platform(*, gpus: Callable[[], Sequence[Gpu]] = find_gpus) -> Platform:
    """Initialise PyCUDA and TensorRT. Raises `BackendMissingError`, which says what is missing and what to do."""
    if not gpus():
        raise BackendMissingError(
            "backend tensorrt: no NVIDIA driver is running here (no /proc/driver/nvidia, no /dev/nvidiactl); "
            "install NVIDIA's driver, give the container its GPU (docker run --gpus all), or use backend openvino"
        )
    try:
        from engines.backends.tensorrt.cuda import PyCudaDevice
    except ImportError as error:
        raise _import_failure("pycuda", error) from error
    try:
        cuda = PyCudaDevice()
    except Exception as error:  # PyCUDA's exceptions can be named only after its import, which may have failed
        raise BackendMissingError(
            f"backend tensorrt: CUDA does not start: {error}; run nvidia-smi to see whether the driver works"
        ) from error
    try:
        with cuda.active():
            from engines.backends.tensorrt.library import TensorRtCompiler

            compiler = TensorRtCompiler()
    except BackendMissingError:
        cuda.close()
        raise
    except ImportError as error:
        cuda.close()
        raise _import_failure("tensorrt", error) from error
    except (RuntimeError, TypeError) as error:  # pybind raises TypeError for a null pointer
        cuda.close()
        raise BackendMissingError(
            f"backend tensorrt: TensorRT does not start on {cuda.gpu.name} under driver {cuda.gpu.driver}: {error}; "
            "install a TensorRT for this driver's CUDA version"
        ) from error
    return Platform(cuda=cuda, compiler=compiler)


def _import_failure(library: str, error: ImportError) -> BackendMissingError:
    reason = " ".join(str(error).split())[:300]
    return BackendMissingError(
        f"backend tensorrt: {library} cannot be imported: {reason}; "
        f"pip install --force-reinstall '{INSTALL['tensorrt']}'"
    )
