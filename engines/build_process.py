"""A process that compiles an engine into the cache and ends: `python -m engines.build_process JSON`.

Apart from the process that serves: a build takes minutes in a library that nobody can interrupt, and may crash. It ends
with whoever started it, whose end of its stdin closes then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engines.backends.names import Backend, Precision
from engines.bundle import load_bundle
from engines.errors import EngineError
from engines.opening import open_engine
from engines.protocol import Engine

FORMAT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
NICE = 10
"""Streams are served meanwhile, on the same cores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildRequest:
    """The engine that is to be in the cache; as `open_engine` takes it."""

    bundle: str
    backend: Backend
    precision: Precision
    max_batch: int
    bank_slots: int
    streams: int

    def as_json(self) -> str:
        """For the command line."""
        return json.dumps(asdict(self))


def main(arguments: Sequence[str], *, open_: Callable[..., Engine] = open_engine) -> int:
    """Build the engine of a `BuildRequest`, the one argument, as JSON; print one JSON object with its `max_batch`."""
    wish: dict[str, Any] = json.loads(arguments[0])
    try:
        engine = open_(load_bundle(Path(wish.pop("bundle"))), **wish)
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"max_batch": engine.max_batch}), flush=True)
    engine.close()
    return 0


def _end_with_parent() -> None:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    with contextlib.suppress(OSError):
        os.nice(NICE)
    logging.basicConfig(level=logging.INFO, format=FORMAT, datefmt="%H:%M:%S")
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    sys.exit(main(sys.argv[1:]))
