"""Find out whether the service of a configuration runs on this machine now."""

from __future__ import annotations

from typing import Final

from streamclf.client.subscription import snapshot
from streamclf.config.service import ServiceConfig
from streamclf.errors import StreamclfError
from streamclf.hub.journal_file import read_running_epoch
from streamclf.net.endpoints import local_endpoint

ANSWER_S: Final = 2.0


def is_running(config: ServiceConfig) -> bool:
    """Return whether a service has the journal of `config` open and publishes it at the endpoint of `config`.

    A service with keys does not answer to a command without them; there the journal has to do.
    """
    epoch = read_running_epoch(config.publish.journal)
    if epoch is None:
        return False
    if config.publish.keys is not None:
        return True
    try:
        return snapshot(local_endpoint(config.publish.events), types=["status"], timeout_s=ANSWER_S).epoch == epoch
    except StreamclfError:
        return False
