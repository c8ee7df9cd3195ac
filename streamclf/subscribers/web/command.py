"""`streamclf web`: serve the page of a service to browsers."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import time
from collections.abc import Collection
from typing import TYPE_CHECKING

from streamclf.clips.folder import ClipFolder
from streamclf.config.outlet_options import WebConfig
from streamclf.errors import JournalError, UsageError
from streamclf.net.endpoints import is_loopback_host
from streamclf.net.secret_files import read_token
from streamclf.redact import register_secret
from streamclf.subscribers.outlet_run import OutletRun
from streamclf.units import duration_text

if TYPE_CHECKING:
    from streamclf.subscribers.web.history.store import History


def serve_page(config: WebConfig, run: OutletRun) -> None:
    """Serve the page until the run ends.

    Raises `UsageError` for a missing library, and for an address beyond loopback without a token; `BusError` for a port
    in use.
    """
    if importlib.util.find_spec("nicegui") is None:
        raise UsageError("the page needs nicegui; install it with: pip install '.[web]' in a clone")
    token = config.token if config.token_file is None else read_token(config.token_file)
    if token is None and not is_loopback_host(config.host):
        raise UsageError(
            f"host {config.host}: anybody in the network could use the page; give --token-file FILE, or stay on "
            "127.0.0.1"
        )
    if token is not None:
        register_secret(token)
    os.environ["OTEL_SDK_DISABLED"] = "true"  # FastAPI would send telemetry where the environment asks for it
    os.environ.pop("FASTAPI_OTEL_AUTO_CONFIGURE", None)
    from streamclf.subscribers.web.server import address_text, bind, run_server

    with bind(config.host, config.port) as listener:
        from streamclf.subscribers.web.access import Access
        from streamclf.subscribers.web.app import build_app
        from streamclf.subscribers.web.archive import EventArchive
        from streamclf.subscribers.web.context import PageContext
        from streamclf.subscribers.web.health.meter import StreamMeter
        from streamclf.subscribers.web.health.report import HealthReporter
        from streamclf.subscribers.web.history.follower import HistoryFollower
        from streamclf.subscribers.web.service_view import LiveService
        from streamclf.subscribers.web.settings.config_editor import ConfigEditor
        from streamclf.subscribers.web.teach.service import TeachService
        from streamclf.subscribers.web.teach.uncertain import UncertainKeeper
        from streamclf.subscribers.web.wall import PictureWall

        service = LiveService(run, config.streams)
        with open_history(run, config.streams) as history:
            folder = None if config.clips is None else ClipFolder(config.clips)
            archive = EventArchive(history, folder, service.display_names)
            follower = HistoryFollower(run.address, history, folder)
            service.add_listener(follower.notice)
            meter = StreamMeter()
            service.add_listener(meter.notice)
            health = HealthReporter(service, archive, follower, meter)
            wall = PictureWall(service)
            editor = None if config.config is None else ConfigEditor(config.config)
            teach = TeachService(editor, service)
            uncertain = UncertainKeeper(teach)
            service.add_listener(uncertain.notice)
            context = PageContext(
                config, service, Access(token), wall, run.report, archive, follower, health, editor, teach
            )
            app = build_app(context)
            gc.freeze()
            with follower, teach.runner, service, uncertain:
                run.report.notice(f"the page is on http://{address_text(listener)}")
                began_s = time.monotonic()
                run_server(app, listener, run.stop)
                run.report.notice(f"the page was served for {duration_text(time.monotonic() - began_s)}")
        if service.failure is not None:
            raise service.failure


def open_history(run: OutletRun, streams: Collection[str] | None) -> History:
    """Open the file of the history beside the journal; without one, or if it cannot be used, keep it in memory."""
    from streamclf.subscribers.web.history.store import History

    try:
        return History(run.position, streams)
    except JournalError as error:
        run.report.notice(f"{error}. The page reads the journal again after each start", logging.WARNING)
        return History(None, streams)
