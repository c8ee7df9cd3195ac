"""Compile an engine into the cache in a process that ends afterwards: `python -m engines.build_process JSON`.

A build runs apart from the process that serves, because it takes minutes in a library that cannot be interrupted, and
may crash. The process exits when its parent does: its stdin is a pipe, whose other end closes then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.backends.names import Backend, Precision
from engines.bundle import load_bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.printable import PrintableFormatter

FORMAT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
NICENESS = 10
"""The service classifies streams on the same cores meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """The engine to put into the cache, in the arguments of `open_engine`."""

    bundle: str
    backend: Backend
    precision: Precision
    max_batch: int
    bank_slots: int
    streams: int
    device: int | None = None

    def as_json(self) -> str:
        """Return the request as the argument of the command line."""
        return json.dumps(asdict(self))


def main(arguments: Sequence[str]) -> int:
    """Build the engine of a `BuildRequest`, the one argument, as JSON; print one JSON object with its `max_batch`."""
    request: dict[str, Any] = json.loads(arguments[0])
    try:
        engine = open_engine(load_bundle(Path(request.pop("bundle"))), **request)
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"max_batch": engine.max_batch}), flush=True)
    engine.close()
    return 0


def exit_with_parent() -> None:
    """Wait until stdin ends, because the parent process has ended, then exit at once."""
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter(FORMAT, "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    threading.Thread(target=exit_with_parent, name="parent", daemon=True).start()
    sys.exit(main(sys.argv[1:]))
