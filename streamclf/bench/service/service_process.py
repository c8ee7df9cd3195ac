"""Run the supervisor of the measured service in a process: `python -m streamclf.bench.service.service_process`.

Standard input: one line with the path of a configuration file. Standard output: one line of JSON once the service is
ready. The process stops the service when its standard input ends, so no process is left over however the bench ends.
"""

from __future__ import annotations

import signal
import sys
import threading
from dataclasses import asdict
from pathlib import Path

import orjson

from engines.errors import EngineError
from streamclf.config.service import load_config
from streamclf.errors import StreamclfError
from streamclf.runtime.logs import configure_logging
from streamclf.supervisor.hub_process import Ready
from streamclf.supervisor.preflight import preflight
from streamclf.supervisor.supervisor import Supervisor


def main() -> int:
    """Serve until standard input ends; return the exit code."""
    configure_logging("bench", "warning")
    path = Path(sys.stdin.readline().strip())
    try:
        config = load_config(path)
        supervisor = Supervisor(preflight(config), on_ready=_print_ready)
        signal.signal(signal.SIGTERM, lambda *_: supervisor.request_stop())
        threading.Thread(target=_stop_at_end_of_input, args=(supervisor,), name="input", daemon=True).start()
        return supervisor.run()
    except (StreamclfError, EngineError) as error:
        print(error, file=sys.stderr)
        return 1


def _stop_at_end_of_input(supervisor: Supervisor) -> None:
    sys.stdin.read()
    supervisor.request_stop()


def _print_ready(ready: Ready) -> None:
    sys.stdout.buffer.write(orjson.dumps(asdict(ready)) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main())
