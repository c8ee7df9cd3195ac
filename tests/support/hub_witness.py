"""Observe a hub during an attack: a good producer and a good subscriber must not lose an event."""

from __future__ import annotations

import sqlite3
import threading
import time
from pathlib import Path

from support.hostile_clients import peak_resident_mb, resident_mb
from support.hub_process import HubProcess, prediction, wait_until

from streamclf.client.subscription import Subscription, subscribe
from streamclf.events.types import Heartbeat, Lost
from streamclf.producer.link import EventProducer

GROWTH_MB = 50
"""Memory that an attack may cost, at its peak and afterwards: measured 2 to 14 MB, and 327 without the flood guard."""
PACE_S = 0.002


class Witness:
    """Run a producer and a plain subscriber during an attack; afterwards, check that every event arrived."""

    def __init__(self, hub: HubProcess, keys: Path | None = None) -> None:
        self._hub = hub
        self._events: Subscription = subscribe(hub.events, keys=keys)
        self._numbers: list[int] = []
        self._lost = 0
        self._posted = 0
        self.peak_mb = 0.0
        """The hub's peak memory above its memory at the start; set at the end."""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._post), threading.Thread(target=self._listen)]

    def __enter__(self) -> Witness:
        assert isinstance(self._events.receive(60.0), Heartbeat)
        self._before_mb = resident_mb(self._hub.pid)
        for thread in self._threads:
            thread.start()
        wait_until(lambda: bool(self._numbers), "the first event")
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
        missed, received = self._events.missed, self._numbers
        self._events.close()
        if kind is not None:
            return
        assert self._posted > 0
        assert received == list(range(self._posted)), f"{len(received)} of {self._posted} arrived"
        assert (missed, self._lost) == (0, 0)
        # The hub returns the memory of disconnected peers with a heartbeat, so wait for a few heartbeats.
        end = time.monotonic() + 6.0
        while (growth := resident_mb(self._hub.pid) - self._before_mb) >= GROWTH_MB and time.monotonic() < end:
            time.sleep(0.2)
        self.peak_mb = peak_resident_mb(self._hub.pid) - self._before_mb
        print(f"{self._posted} events, none missed; {growth:.0f} MB more, {self.peak_mb:.0f} MB at most")
        assert growth < GROWTH_MB, f"{growth:.0f} MB more"
        with sqlite3.connect(f"{self._hub.journal.as_uri()}?mode=ro", uri=True) as db:
            assert db.execute("SELECT count(*) FROM events WHERE stream = 'good'").fetchone() == (self._posted,)
        db.close()

    def _post(self) -> None:
        link = EventProducer(self._hub.link, "witness")
        while not self._stop.wait(PACE_S):
            link.post(prediction("good", number=self._posted))
            self._posted += 1
        assert link.close(20.0) == 0
        assert link.dropped == {}

    def _listen(self) -> None:
        end: float | None = None
        while True:
            event = self._events.receive(0.2)
            if isinstance(event, Lost):
                self._lost += 1
            elif event is not None and event.type == "prediction":
                self._numbers.append(int(event.window.start_s))
            if self._stop.is_set() and not self._threads[0].is_alive():
                end = end or time.monotonic() + 10
                if len(self._numbers) >= self._posted or time.monotonic() > end:
                    return
