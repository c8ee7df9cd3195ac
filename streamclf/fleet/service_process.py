"""Run the service of one node: `streamclf run`, controlled by standard input, which must stay open.

The node's agent writes `reload` after a change of the configuration. When the input ends, also because the agent was
killed, the service ends. Standard output has one line of JSON: the endpoints, or the error of the configuration.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path

import orjson

from engines.errors import EngineError
from streamclf.errors import StreamclfError
from streamclf.redact import redact
from streamclf.runtime.logs import configure_logging
from streamclf.runtime.signals import stop_on_signals
from streamclf.supervisor.config_watch import ConfigFile
from streamclf.supervisor.hub_process import Ready
from streamclf.supervisor.supervisor import Supervisor
from streamclf.supervisor.systemd import Notifier


def main(path: Path) -> int:
    """Serve until standard input ends; return the exit code."""
    configure_logging("service")
    try:
        file = ConfigFile(path)
        supervisor = Supervisor(file.read(), on_ready=_report_ready, file=file, notifier=Notifier({}))
        threading.Thread(target=_follow_input, args=(supervisor,), name="input", daemon=True).start()
        with stop_on_signals(supervisor.request_stop):
            return supervisor.run()
    except (StreamclfError, EngineError) as error:
        _print({"error": redact(str(error))})
        return 2


def _follow_input(supervisor: Supervisor) -> None:
    with contextlib.suppress(OSError):
        for _ in sys.stdin.buffer:
            supervisor.request_reload()
    supervisor.request_stop()


def _report_ready(ready: Ready) -> None:
    _print({"events": ready.events, "replay": ready.replay})


def _print(value: object) -> None:
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
        sys.stdout.flush()


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    sys.stderr.flush()
    os._exit(code)  # a library's thread must not delay the end
