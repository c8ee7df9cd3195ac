"""What can go wrong in this package.

StreamclfError
├── UsageError            wrong arguments: exit code 2
│   └── ConfigError       a key of the configuration that cannot be used
├── SourceError           a camera, URL or file that cannot be opened, read or decoded
│   ├── SourceRefusedError  it is there and says no: 401, 403, 404
│   └── SourceWaitingError  a source that others connect to, and nobody has
├── RingError             shared memory that cannot be had or is not a ring
├── JournalError          a journal that cannot be written or read
├── BusError              an endpoint that cannot be bound, reached or trusted
├── EventError            bytes or values that are not an event of ours
└── BenchError            a measurement that could not be made
"""


class StreamclfError(Exception):
    """Root of every error that `streamclf` raises on purpose; exit code 1 on the command line."""


class UsageError(StreamclfError):
    """Wrong arguments; exit code 2 on the command line."""


class ConfigError(UsageError):
    """A configuration that cannot be used; the message names key, value and remedy."""


class SourceError(StreamclfError):
    """A camera, URL or file that cannot be opened, read or decoded."""


class SourceRefusedError(SourceError):
    """The other side is there and says no: trying again soon does not change its mind, and may lock an account."""


class SourceWaitingError(SourceError):
    """Nobody has connected to a source that waits for others: waiting on costs nothing and needs no backoff."""


class RingError(StreamclfError):
    """Shared memory that cannot be had, or that is not a ring."""


class JournalError(StreamclfError):
    """A journal that cannot be written or read."""


class BusError(StreamclfError):
    """An endpoint that cannot be bound, reached or trusted."""


class EventError(StreamclfError):
    """Bytes or values that are not an event of ours."""


class BenchError(StreamclfError):
    """A measurement that could not be made; the message says what ended it."""
