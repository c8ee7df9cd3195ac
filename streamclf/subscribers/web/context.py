"""Hold what the pages and the REST routes share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamclf.config.outlet_options import WebConfig
from streamclf.subscribers.outlet_report import OutletReport
from streamclf.subscribers.web.access import Access
from streamclf.subscribers.web.archive import EventArchive
from streamclf.subscribers.web.health.report import HealthReporter
from streamclf.subscribers.web.history.follower import HistoryFollower
from streamclf.subscribers.web.history.store import History
from streamclf.subscribers.web.service_view import LiveService
from streamclf.subscribers.web.settings.config_editor import ConfigEditor
from streamclf.subscribers.web.teach.service import TeachService
from streamclf.subscribers.web.wall import PictureWall


@dataclass(frozen=True, slots=True)
class PageContext:
    """The service that the page shows, its files, and who may see it."""

    config: WebConfig
    service: LiveService
    access: Access
    wall: PictureWall
    report: OutletReport
    archive: EventArchive
    follower: HistoryFollower
    health: HealthReporter
    editor: ConfigEditor | None
    """The configuration's file; None if the page changes none."""
    teach: TeachService

    @property
    def history(self) -> History:
        """The actions of the service, without the files on disk."""
        return self.archive.history

    @property
    def clips(self) -> Path | None:
        """Folder of the service's clips; None if the page shows none."""
        return self.config.clips

    @property
    def config_file(self) -> Path | None:
        """Configuration that the page may change; None if it changes none."""
        return self.config.config
