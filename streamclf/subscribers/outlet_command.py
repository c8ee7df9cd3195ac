"""Run one outlet: by hand as a command, or as a child process of the supervisor. Both use the same options and loop."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from streamclf.config.outlet_options import (
    LogConfig,
    MetricsConfig,
    MqttConfig,
    OutletConfig,
    WebConfig,
    WebhookConfig,
)
from streamclf.events.positions import START
from streamclf.net.curve_client import resolve_service_address
from streamclf.runtime.logs import configure_logging
from streamclf.runtime.signals import stop_on_signals
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.outlet_run import OutletRun

ONCE_SILENCE_S: Final = 10.0
"""A command that ends when it has caught up fails after this long without a service."""


def run_outlet(
    endpoint: str,
    config: OutletConfig,
    *,
    position: Path | None = None,
    once: bool = False,
    seconds: float | None = None,
) -> int:
    """Run the outlet of `config` as a command, until SIGINT or SIGTERM, or for `seconds`; return the exit code.

    `once` ends it when everything that is in the journal now has been handed on; it then fails with `BusError` where no
    service answers for 10 s. `position` is the file of the position, for outlets that need one. Raises `UsageError`,
    `JournalError` and `BusError`.
    """
    configure_logging(config.KIND)
    stop = StopRequest(seconds)
    stop.when_caught_up = once
    run = OutletRun(
        address=resolve_service_address(endpoint),
        stop=stop,
        report=OutletReport(config.KIND, logging.getLogger(config.KIND).log),
        position=position,
        begin=START if getattr(config, "from_start", False) else None,
        patience_s=ONCE_SILENCE_S if once else None,
    )
    with stop_on_signals(stop.request):
        deliver(config, run)
    return 0


def deliver(config: OutletConfig, run: OutletRun) -> None:
    """Hand events on until the run's stop request. Imports only the outlet that is needed."""
    serve: Callable[[Any, OutletRun], None]
    match config:
        case LogConfig():
            from streamclf.subscribers.log.command import deliver_to_log as serve
        case MqttConfig():
            from streamclf.subscribers.mqtt.command import deliver_to_mqtt as serve
        case WebhookConfig():
            from streamclf.subscribers.webhook.command import deliver_to_webhook as serve
        case MetricsConfig():
            from streamclf.subscribers.metrics.command import serve_metrics as serve
        case WebConfig():
            from streamclf.subscribers.web.command import serve_page as serve
        case _:
            raise AssertionError(config.KIND)
    serve(config, run)
