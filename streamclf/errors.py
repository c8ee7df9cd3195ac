"""Define the errors of this package.

StreamclfError
├── UsageError            wrong arguments: exit code 2
│   └── ConfigError       a configuration key that cannot be used
├── SourceError           a camera, URL or file that cannot be opened, read or decoded
│   ├── SourceRefusedError  the camera or server answers, and refuses: 401, 403, 404
│   └── SourceWaitingError  a source that waits for a program to connect, and none has
├── ModelError            a model that cannot be loaded or that fails, in the Python API
├── RingError             shared memory that cannot be allocated, or that is not a ring
├── JournalError          a journal that cannot be written or read
├── ClipError             a clip, or a folder of clips, that cannot be written or read
├── BusError              an endpoint that cannot be bound, reached or trusted
│   └── EndpointInUseError  an endpoint that another program has bound
├── EventError            bytes or values that are not a valid event
├── OutputError           standard output, a table or a report that cannot be written
└── BenchError            a measurement that could not be made
"""


class StreamclfError(Exception):
    """The base class of every error that `streamclf` raises on purpose; exit code 1 on the command line."""


class UsageError(StreamclfError):
    """Wrong arguments; exit code 2 on the command line."""


class ConfigError(UsageError):
    """A configuration that cannot be used; the message names the key, its value and the remedy."""


class SourceError(StreamclfError):
    """A camera, URL or file that cannot be opened, read or decoded."""


class SourceRefusedError(SourceError):
    """A source that answers and refuses: another attempt soon gets the same answer, and may lock an account."""


class SourceWaitingError(SourceError):
    """A source that waits for a program to connect, and none has; waiting costs nothing and needs no backoff."""


class ModelError(StreamclfError):
    """A model that cannot be loaded, or that fails while it computes; `__cause__` is the error of `engines`."""


class RingError(StreamclfError):
    """Shared memory that cannot be allocated, or that is not a ring."""


class JournalError(StreamclfError):
    """A journal that cannot be written or read."""


class ClipError(StreamclfError):
    """A clip, or a folder of clips, that cannot be written or read."""


class BusError(StreamclfError):
    """An endpoint that cannot be bound, reached or trusted."""


class EndpointInUseError(BusError):
    """An endpoint that another program has bound: another service, or this one a second time."""


class EventError(StreamclfError):
    """Bytes or values that are not a valid event."""


class OutputError(StreamclfError):
    """Output that cannot be written: a full disk, a missing permission, a pipe whose reader has ended."""


class BenchError(StreamclfError):
    """A measurement that could not be made; the message names the cause."""


def plain_fault(message: str) -> str:
    """Return what pydantic says of a value, `message`, in the words of this project's errors."""
    return message.removeprefix("Value error, ").replace("Input should be", "must be", 1)
