"""Nodes run real services under one controller, without Ray: placement, loss, fencing, return and the end."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict

from support.clips import write_clip
from support.fleet_simulation import make_setup
from support.hub_process import read_journal, wait_until

from streamclf.fleet.core import FleetCore
from streamclf.fleet.messages import Orders
from streamclf.fleet.node import Identity, Node
from streamclf.fleet.store import Store
from streamclf.runtime.lease_file import lease_clock_ns
from streamclf.units import NS


class Controller:
    """A core and its lock: what the Ray actor adds to it."""

    def __init__(self, folder) -> None:
        self.lock = threading.Lock()
        self.core = FleetCore(Store(folder), now_s=self.now_s())
        self.cut_off: set[str] = set()

    @staticmethod
    def now_s() -> float:
        return lease_clock_ns() / 1e9

    def ask(self, report, seq) -> Orders:
        if report.node in self.cut_off:
            raise ConnectionError("cut off")
        with self.lock:
            self.core.tick(now_s=self.now_s())
            return self.core.report(report, seq, now_s=self.now_s())

    def status(self):
        with self.lock:
            return self.core.status(now_s=self.now_s())

    def stop(self) -> int:
        with self.lock:
            return self.core.stop()

    def live(self) -> int:
        return self.status()["live"]


def predicted(folder) -> int:
    """Return for how many streams the node's journal has predictions."""
    return len({event["stream"] for event in read_journal(folder / "streamclf.db") if event["type"] == "prediction"})


class RunningNode:
    """A node and the thread of its agent."""

    def __init__(self, name, folder, controller: Controller) -> None:
        identity = Identity(name=name, owner=name, host="127.0.0.1", cpus=2, gpus=0, site=None, folder=folder)
        self.node = Node(identity, controller.ask, lambda *_: None)
        self.end = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while self.node.step() and not self.end.wait(0.25):
            pass
        self.node.close()

    def stop(self) -> None:
        self.end.set()
        self.thread.join(60)


def test_streams_of_a_node_that_is_cut_off_are_published_once(tmp_path):
    """n1 keeps running without contact; n0 takes its streams; n1 returns. No two nodes publish a stream at a time."""
    film = write_clip(tmp_path / "film.mp4", frames=50, fps=10, width=160, height=120)
    setup = make_setup(4, lease_s=3)
    setup.streams.update({name: {"url": str(film), "loop": True} for name in setup.streams})
    controller = Controller(tmp_path / "head")
    controller.core.expected_nodes = 2
    controller.core.configure(setup, now_s=controller.now_s())
    nodes = [RunningNode(f"n{n}", tmp_path, controller) for n in range(2)]
    try:
        wait_until(lambda: controller.live() == 4, "all streams are live", 90)
        assert [node["streams"] for node in controller.status()["nodes"].values()] == [2, 2]
        controller.cut_off.add("n1")
        wait_until(lambda: predicted(tmp_path / "n0") == 4, "n0 publishes predictions of all streams", 90)
        controller.cut_off.clear()
        wait_until(lambda: controller.status()["nodes"]["n1"].get("refused", 0) > 0, "n1 counts refused events", 90)
        wait_until(lambda: controller.status()["nodes"]["n1"].get("live", 0) > 0, "n1 has a stream again", 90)
        wait_until(lambda: controller.stop() == 0, "the nodes end", 90)
    finally:
        for node in nodes:
            node.stop()
    periods: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name in ("n0", "n1"):
        for event in read_journal(tmp_path / name / "streamclf.db"):
            if event["type"] == "prediction":
                periods[event["stream"]][event["lease"]].append(event["time"])
    assert len(periods) == 4
    assert max(len(tokens) for tokens in periods.values()) > 1
    for tokens in periods.values():
        in_order = [times for _, times in sorted(tokens.items())]
        for before, after in itertools.pairwise(in_order):
            assert max(before) < min(after)


def test_a_node_that_cannot_write_its_leases_gives_its_streams_away_when_they_end(tmp_path, monkeypatch):
    """The service reads the leases from the file, so it may publish until those in the old file have ended."""
    clock_ns = 1000 * NS
    monkeypatch.setattr("streamclf.fleet.node.lease_clock_ns", lambda: clock_ns)
    monkeypatch.setattr(Node, "_watch_service", lambda _: None)
    reports = []

    def ask(report, seq) -> Orders:
        reports.append(report)
        return Orders(tokens={} if report.broken else {"cam": 7}, lease_s=3.0)

    identity = Identity(name="n0", owner="n0", host="127.0.0.1", cpus=2, gpus=0, site=None, folder=tmp_path)
    node = Node(identity, ask, lambda *_: None)
    node.step()
    file = next((tmp_path / "n0").glob("leases-*.json"))
    before = file.read_bytes()
    (blocked := file.with_name(file.name + ".new")).mkdir()
    clock_ns += NS
    node.step()
    clock_ns += NS
    node.step()
    assert (reports[-1].held, reports[-1].broken) == ({"cam": 7}, False)
    assert "the leases cannot be written" in reports[-1].error
    assert file.read_bytes() == before
    clock_ns += 2 * NS
    node.step()
    node.step()
    assert (reports[-1].held, reports[-1].broken) == ({}, True)
    blocked.rmdir()
    node.step()
    node.step()
    assert (reports[-1].broken, reports[-1].error) == (False, None)
    node.step()
    assert reports[-1].held == {"cam": 7}
