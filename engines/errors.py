"""Define the errors of this package.

EngineError
├── BundleError           the bundle is incomplete or altered, or the directory is not a bundle
│   └── CompileError      a backend cannot compile the bundle's graph; names the operators or layers
├── BackendMissingError   a library or device is missing; names the extra to install
├── NotBuiltError         the engine is not in the cache, and the caller did not want to wait for a build
├── DeviceMemoryError     the model does not fit into the device's memory; gives the sizes and the batch
├── DeviceError           the GPU or its driver failed during a call
├── ParityError           the compiled engine's numbers differ from PyTorch's
└── EngineInputError      a call has wrong shapes, dtypes or slots
"""


class EngineError(Exception):
    """The base class of every error that `engines` raises on purpose."""


class BundleError(EngineError):
    """The bundle is incomplete or altered, or the directory is not a bundle."""


class BackendMissingError(EngineError):
    """A backend's library or device is missing; the message names the extra to install."""


class CompileError(BundleError):
    """A backend cannot compile the bundle's graph; the message names the operators or layers that it refuses."""


class NotBuiltError(EngineError):
    """The engine would have to be compiled first, and the caller has excluded a build."""


class DeviceMemoryError(EngineError):
    """The model, its bank and one batch do not fit into the device's memory; the message has the figures."""


class DeviceError(EngineError):
    """The device failed during a call; the engine, and often the process, must be restarted."""


class ParityError(EngineError):
    """The engine's probabilities on the golden clip differ from PyTorch's by more than `precision` allows."""

    def __init__(self, message: str, *, precision: str | None = None) -> None:
        super().__init__(message)
        self.precision = precision


class EngineInputError(EngineError):
    """A call with the wrong shape, dtype, batch size or bank slots."""
