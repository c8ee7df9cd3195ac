"""Run a fleet on several Ray nodes of this machine, break it in six ways, and measure what subscribers see.

    PYTHONPATH=.:tests python tests/fleet_chaos.py [--nodes 3] [--streams 24] [--only kill,cut]

kill     kill -9 of every process of a node: seconds until its streams publish predictions again
cut      SIGSTOP of every process of a node, SIGCONT after its leases have ended: its late events are refused
join     a node joins, and takes its share of the streams
control  kill -9 of the controller, which holds the leases
update   a rolling update of the model's actions under load
worse    a rolling update whose new version cannot serve: it halts, and the node goes back

A subscriber (`streamclf log fleet://...`) runs all the time. At the end, its log must have each event of all journals
once. After each part, the journals of all nodes are read. For each stream, the periods in which a node published it, by
its lease, must not overlap: no window of the new owner begins before the last window of the old one ended. A window's
times are those of its capture, by the clock of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import yaml
import zmq
from support.clips import write_clip

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
}
RAY_NODE = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
MISSING_KEYS = ("epoch", "offset", "type", "stream", "lease", "time")
DIRECTORY = "tcp://127.0.0.1:5598"


class Rig:
    """A Ray cluster on this machine, and a fleet on it."""

    def __init__(self, folder: Path, nodes: int, streams: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        film = write_clip(folder / "film.mp4", frames=300, fps=5, width=160, height=120)
        self.config: dict[str, Any] = {
            "model": "camera-events",
            "fleet": {
                "folder": str(folder / "fleet"),
                "directory": DIRECTORY,
                "rollout": {"observe_s": 5, "settle_s": 60, "max_latency_factor": 20},
            },
            "streams": {f"cam{n:02d}": {"url": str(film), "loop": True, "cpus": 0.05} for n in range(streams)},
        }
        self.cluster = Cluster(initialize_head=True, head_node_args={**RAY_NODE, "labels": {"node": "n0"}})
        self.ray_nodes = {"n0": self.cluster.head_node} | {f"n{n}": self._add(f"n{n}") for n in range(1, nodes)}

    def _add(self, name: str) -> Any:
        return self.cluster.add_node(**RAY_NODE, labels={"node": name})

    def add(self, name: str) -> None:
        self.ray_nodes[name] = self._add(name)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "streamclf", "fleet", *arguments, "--address", self.cluster.address],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def up(self, wait_s: float = 120) -> subprocess.CompletedProcess[str]:
        path = self.folder / "FLEET.yaml"
        path.write_text(yaml.safe_dump(self.config))
        return self.command("up", str(path), "--wait", str(wait_s))

    def status(self) -> dict[str, Any]:
        answer = self.command("status", "--json")
        assert answer.stdout, answer.stderr
        return dict(orjson.loads(answer.stdout))

    def directory(self) -> dict[str, Any]:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger, socket.rcvtimeo = 0, 10_000
            socket.connect(DIRECTORY)
            socket.send(b'{"v":1,"request":"directory"}')
            return dict(orjson.loads(socket.recv()))

    def owners(self) -> dict[str, tuple[str | None, int | None]]:
        """Return (node, token) of each stream."""
        return {stream: (entry["node"], entry["lease"]) for stream, entry in self.directory()["streams"].items()}

    def pids(self, name: str) -> list[int]:
        """Return all processes of a node: Ray's, and those of its service."""
        found = [self.ray_nodes[name].all_processes["raylet"][0].process.pid]
        for pid in found:  # the list grows meanwhile
            for path in Path(f"/proc/{pid}/task").glob("*/children"):
                found += [int(child) for child in path.read_text().split()]
        return found

    def start_log(self) -> None:
        """Start a subscriber that logs every event of the fleet, from the first one on."""
        arguments = [DIRECTORY.replace("tcp:", "fleet:"), "-o", str(self.folder / "log.db")]
        with (self.folder / "log.err").open("wb") as errors:
            self.log = subprocess.Popen(
                [sys.executable, "-m", "streamclf", "log", *arguments, "--types", "prediction,action,status"],
                stderr=errors,
            )

    def check_log(self) -> tuple[int, int]:
        """Return (events in the journals, events that the log lacks); its table refuses an event that it has."""
        end = time.monotonic() + 60
        while True:
            published = {(event["epoch"], event["offset"]): event for event in journals(self.folder)}
            with closing(sqlite3.connect(self.folder / "log.db")) as db:
                logged = {(row[0], row[1]) for row in db.execute("SELECT epoch, offset FROM events")}
            missing = published.keys() - logged
            if not missing or time.monotonic() > end:
                for key in sorted(missing)[:20]:
                    print("  missing in the log:", {k: published[key].get(k) for k in MISSING_KEYS})
                return len(published), len(missing)
            time.sleep(1)

    def close(self) -> None:
        if hasattr(self, "log"):
            self.log.terminate()
            self.log.wait(20)
        print(self.command("down").stdout.strip())
        self.cluster.shutdown()


def journals(folder: Path) -> list[dict[str, Any]]:
    """Return the events in the journals of all nodes."""
    found = []
    for path in sorted((folder / "fleet").glob("*/streamclf.db")):
        with closing(sqlite3.connect(path)) as db:
            found += [orjson.loads(body) for (body,) in db.execute("SELECT body FROM events ORDER BY offset")]
    return found


def predictions(folder: Path) -> list[dict[str, Any]]:
    return [event for event in journals(folder) if event["type"] == "prediction"]


def captured(event: dict[str, Any]) -> tuple[float, float]:
    """Return when the window of a prediction was captured: begin and end, in seconds of the wall clock."""
    end = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
    end -= event["latency_ms"]["capture_to_publish"] / 1000
    return end - (event["window"]["end_s"] - event["window"]["start_s"]), end


def check_periods(folder: Path) -> tuple[int, int, float]:
    """Return (periods, overlaps, longest pause between two owners in seconds)."""
    periods: dict[str, dict[int, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for event in predictions(folder):
        periods[event["stream"]][event["lease"]].append(captured(event))
    overlaps, longest = 0, 0.0
    for by_token in periods.values():
        before_end = None
        for _, windows in sorted(by_token.items()):
            begin, end = min(begin for begin, _ in windows), max(end for _, end in windows)
            if before_end is not None:
                overlaps += begin < before_end
                longest = max(longest, begin - before_end)
            before_end = end
    return sum(len(by_token) for by_token in periods.values()), overlaps, longest


def wait_for_tokens(rig: Rig, lost: dict[str, int], deadline_s: float) -> dict[str, float]:
    """Return when each stream published its first prediction with a newer token, by the clock of the wall."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        first: dict[str, float] = {}
        for event in predictions(rig.folder):
            if event["lease"] > lost.get(event["stream"], sys.maxsize):
                at = datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
                first[event["stream"]] = min(at, first.get(event["stream"], at))
        if first.keys() == lost.keys():
            return first
        time.sleep(0.5)
    raise AssertionError(f"not live again within {deadline_s} s: {sorted(lost.keys() - first.keys())}")


def wait_until_live(rig: Rig, streams: int, deadline_s: float = 300) -> dict[str, Any]:
    end = time.monotonic() + deadline_s
    while (status := rig.status())["live"] < streams or status["moving"]:
        assert time.monotonic() < end, f"{status['live']} of {streams} streams are live after {deadline_s} s: {status}"
    return status


def owned(rig: Rig, name: str) -> dict[str, int]:
    return {stream: token for stream, (node, token) in rig.owners().items() if node == name and token}


def kill(rig: Rig, streams: int) -> None:
    lost = owned(rig, "n1")
    pids, killed = rig.pids("n1"), time.time()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    live = [at - killed for at in wait_for_tokens(rig, lost, 90).values()]
    since = next(node["since"] for name, node in rig.status()["nodes"].items() if name == "n1")
    noticed = datetime.fromisoformat(since.replace("Z", "+00:00")).timestamp() - killed
    print(f"kill: {len(lost)} streams; noticed after {noticed:.1f} s; first new predictions {min(live):.1f} to "
          f"{max(live):.1f} s after the kill, {max(live) - noticed:.1f} s after it was noticed")  # fmt: skip
    rig.add("n1")
    wait_until_live(rig, streams)


def cut(rig: Rig, streams: int) -> None:
    lost = owned(rig, "n2")
    endpoint = next(node["events"] for node in rig.directory()["nodes"] if node["name"] == "n2")
    pids, began = rig.pids("n2"), time.time()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    live = [at - began for at in wait_for_tokens(rig, lost, 90).values()]
    refused = 0
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger, socket.rcvtimeo = 0, 500
        socket.subscribe(b"heartbeat/")
        socket.connect(endpoint)
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        end = time.monotonic() + 8
        while time.monotonic() < end:
            with contextlib.suppress(zmq.Again):
                refused = sum(orjson.loads(socket.recv_multipart()[1]).get("refused", {}).values())
    print(f"cut: {len(lost)} streams; first new predictions {min(live):.1f} to {max(live):.1f} s after the cut; "
          f"{refused} late events refused by its hub")  # fmt: skip
    if not any(node["state"] == "live" and node["name"] == "n2" for node in rig.directory()["nodes"]):
        rig.add("n2")  # Ray does not take a node back that it has declared dead
    wait_until_live(rig, streams)


def join(rig: Rig, streams: int) -> None:
    before, began = rig.owners(), time.monotonic()
    rig.add("n9")
    while not owned(rig, "n9"):
        time.sleep(0.2)
    first_s = time.monotonic() - began
    time.sleep(5)
    wait_until_live(rig, streams)
    after = rig.owners()
    moved = sum(before[stream] != after[stream] for stream in before)
    print(f"join: the first stream moves {first_s:.1f} s after `ray start`, {moved} streams move in "
          f"{time.monotonic() - began:.0f} s, one at a time")  # fmt: skip


def control(rig: Rig, streams: int) -> None:
    before = rig.owners()
    pid = next(pid for pid in rig.pids("n0") if b"ray::Controller" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    status = rig.status()
    away_s = time.monotonic() - began
    time.sleep(8)
    status = wait_until_live(rig, streams)
    same = sum(before[stream] == owner for stream, owner in rig.owners().items())
    print(f"control: `fleet status` answers after {away_s:.1f} s; {same} of {streams} leases are the same, "
          f"{status['live']} streams live")  # fmt: skip


def update(rig: Rig, streams: int) -> None:
    rig.config["actions"] = {"covered": {"on": 0.8}}
    began = time.monotonic()
    print("update:", rig.up().stdout.splitlines()[0])
    while (status := rig.status())["rollout"] and not status["rollout"]["halted"]:
        assert time.monotonic() - began < 240, status["rollout"]
    assert not status["rollout"], status["rollout"]
    print(f"update: {len(status['nodes'])} nodes in {time.monotonic() - began:.0f} s, {status['live']} streams live")


def worse(rig: Rig, streams: int) -> None:
    rig.config["engine"] = {"backend": "tensorrt"}
    began = time.monotonic()
    rig.up()
    while not (status := rig.status())["rollout"] or not status["rollout"]["halted"]:
        assert time.monotonic() - began < 120, status["rollout"]
    print(f"worse: halted after {time.monotonic() - began:.0f} s: {status['rollout']['halted']}")
    del rig.config["engine"]
    rig.up()
    wait_until_live(rig, streams)


PARTS = {"kill": kill, "cut": cut, "join": join, "control": control, "update": update, "worse": worse}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--streams", type=int, default=24)
    parser.add_argument("--only", default=",".join(PARTS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fleet-chaos-") as folder:
        rig = Rig(Path(folder), options.nodes, options.streams)
        try:
            began = time.monotonic()
            answer = rig.up()
            print(answer.stdout.strip(), answer.stderr.strip())
            print(
                f"up: {options.streams} streams on {options.nodes} nodes, live after {time.monotonic() - began:.1f} s"
            )
            rig.start_log()
            for name in options.only.split(","):
                PARTS[name](rig, options.streams)
                periods, overlaps, longest = check_periods(rig.folder)
                print(f"  {periods} periods of ownership so far, {overlaps} overlap; longest pause {longest:.1f} s")
                assert overlaps == 0
            published, missing = rig.check_log()
            print(f"log: {published} events in the journals of all nodes, {missing} missing in the log")
            assert missing == 0
        finally:
            rig.close()


if __name__ == "__main__":
    main()
