"""What can go wrong in this package.

EngineError
├── BundleError           a bundle that is incomplete, altered or not one at all
│   └── CompileError      its graph is not what a backend's compiler takes; names the operators or layers
├── BackendMissingError   a library or device that is not installed; names the extra that brings it
├── NotBuiltError         the engine is not in the cache, and the caller did not want to wait for a build
├── DeviceMemoryError     the device's memory does not hold the model; says how much for which batch
├── DeviceError           the GPU or its driver failed in the middle of work
├── ParityError           the compiled engine's numbers are not PyTorch's
└── EngineInputError      a call with wrong shapes, dtypes or slots
"""


class EngineError(Exception):
    """Root of every error that `engines` raises on purpose."""


class BundleError(EngineError):
    """A bundle that is incomplete, altered or not one at all."""


class BackendMissingError(EngineError):
    """A backend whose library or device is not there; the message names the extra to install."""


class CompileError(BundleError):
    """A bundle whose graph a backend cannot compile; the message names what it does not take."""


class NotBuiltError(EngineError):
    """An engine that would have to be compiled first; raised only where a build was ruled out."""


class DeviceMemoryError(EngineError):
    """A device whose memory does not hold the model, its bank and one batch; the message has the figures."""


class DeviceError(EngineError):
    """The device failed in the middle of work; the engine, and often the process, must be started again."""


class ParityError(EngineError):
    """An engine whose probabilities on the golden clip differ from PyTorch's beyond the tolerance of `precision`."""

    def __init__(self, message: str, *, precision: str | None = None) -> None:
        super().__init__(message)
        self.precision = precision


class EngineInputError(EngineError):
    """A call with the wrong shape, dtype, batch size or bank slots."""
