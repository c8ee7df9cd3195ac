"""Run `streamclf run`: start the service of a configuration file."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

from streamclf.runtime.logs import configure_logging, set_log_options
from streamclf.runtime.signals import reload_on_hangup, stop_on_signals
from streamclf.supervisor.config_watch import ConfigFile
from streamclf.supervisor.hub_process import Ready
from streamclf.supervisor.supervisor import Supervisor
from streamclf.supervisor.systemd import Notifier

log = logging.getLogger("service")


def run_service(
    path: Path, *, seconds: float | None, log_level: str | None = None, log_format: str | None = None
) -> int:
    """Run the service that the YAML file `path` describes, until Ctrl-C or for `seconds`; return the exit code.

    `log_level` and `log_format` are those of all its processes; None takes them from the environment.
    """
    set_log_options(log_level, log_format)
    configure_logging("service")
    file = ConfigFile(path)
    initial = file.read()
    supervisor = Supervisor(
        initial,
        on_ready=partial(_log_ready, keys=initial.config.publish.keys is not None),
        file=file,
        notifier=Notifier(),
    )
    with stop_on_signals(supervisor.request_stop), reload_on_hangup(supervisor.request_reload, supervisor.request_stop):
        return supervisor.run(seconds)


def _log_ready(ready: Ready, *, keys: bool) -> None:
    use = "clients need a key file (`streamclf keys`)" if keys else f"try: streamclf watch {ready.events}"
    log.info("publishing on %s (replay %s); %s", ready.events, ready.replay, use)
