"""Several GPUs: streams are dealt to them, move from a lost one to the others, and come back. Each GPU is a double."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.gpu_double import double_platform
from support.live import Setup, assert_unbroken
from support.service import DEADLINE_S, Service
from support.two_gpus import install
from support.watcher import Seen, Watcher

import engines.backends.tensorrt
import engines.opening
from engines.bundle import load_bundle
from engines.opening import open_engine

STREAMS = ("a", "b", "c", "d")
ENGINE: dict[str, Any] = {"precision": "fp32", "max_batch": 4, "devices": [0, 1]}


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Setup:
    """A service with four streams on two GPUs, whose plans are in the cache."""
    setup = Setup(tmp_path)
    monkeypatch.setenv("STREAMCLF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engines.backends.tensorrt, "load_platform", double_platform)
    monkeypatch.setattr(engines.opening, "missing_libraries", lambda backend: [])
    bundle = load_bundle(tmp_path / "brightness")
    open_engine(bundle, backend="tensorrt", precision="fp32", max_batch=4).close()
    setup.config["engine"] = dict(ENGINE)
    setup.config["streams"] = dict.fromkeys(STREAMS, setup.film)
    return setup


def start(setup: Setup) -> Service:
    return Service("run", str(setup.write()), cwd=setup.folder, env=setup.env | install(setup.folder))


def classifier(service: Service, gpu: int) -> int:
    """Return the id of the classifier process of a GPU."""
    (pid,) = [
        pid
        for pid in service.children("streamclf.classifier")
        if Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").endswith(f"@{gpu}")
    ]
    return pid


def wait_gpus(watcher: Watcher, since: float, **expected: tuple[str, int] | None) -> dict[str, Any]:
    """Wait for a heartbeat with these (state, views) of `gpu0` and `gpu1`, None if it is not listed; return them."""

    def matches(seen: Seen) -> bool:
        devices = seen.event.get("devices", {})
        found = {f"gpu{number}": (each["state"], each["views"]) for number, each in devices.items()}
        return all(found.get(name) == each for name, each in expected.items())

    found = watcher.wait("heartbeat", None, since=since, within=DEADLINE_S, where=matches)
    return dict(found.event.get("devices", {}))


def wait_predictions(watcher: Watcher, since: float, streams: Iterable[str] = STREAMS) -> None:
    """Wait for a prediction of each stream."""
    for stream in streams:
        watcher.wait("prediction", stream, since=since, within=DEADLINE_S)


def assert_each_window_once(watcher: Watcher) -> None:
    """Check that no window of a stream was classified twice, on two GPUs."""
    for stream in STREAMS:
        ends = [seen.window[2] for seen in watcher.events("prediction", stream)]
        assert ends == sorted(set(ends)), (stream, ends)


@pytest.mark.flaky(reruns=0)
def test_streams_of_a_killed_classifier_move_to_the_other_gpu_and_come_back(setup: Setup) -> None:
    with start(setup) as service, Watcher(service.endpoint) as watcher:
        began = time.monotonic()
        wait_gpus(watcher, began, gpu0=("serving", 2), gpu1=("serving", 2))
        wait_predictions(watcher, began)
        captures = set(service.children("streamclf.capture"))
        (setup.folder / "broken-1").touch()
        killed = time.monotonic()
        os.kill(classifier(service, 1), signal.SIGKILL)
        service.wait_for_line(r"classifier@1: lost; other GPUs continue with 2 of its 2 streams or regions")
        lost = wait_gpus(watcher, killed, gpu0=("serving", 4), gpu1=("lost", 0))
        assert lost["1"]["reason"] in ("signal 9", "it cannot start; the log has the reason")
        wait_predictions(watcher, time.monotonic())
        service.wait_for_line(r"the GPU has fallen off the bus")
        (setup.folder / "broken-1").unlink()
        back = time.monotonic()
        service.wait_for_line(r"classifier@1: takes over 2 streams or regions from other GPUs")
        wait_gpus(watcher, back, gpu0=("serving", 2), gpu1=("serving", 2))
        wait_predictions(watcher, time.monotonic() + 1)
        assert set(service.children("streamclf.capture")) == captures
        assert_each_window_once(watcher)
        service.interrupt()
        assert service.wait() == 0


def test_a_service_without_any_gpu_ends_with_the_reason(setup: Setup) -> None:
    (setup.folder / "broken-0").touch()
    (setup.folder / "broken-1").touch()
    with start(setup) as service:
        service.wait_for_line(r"backend tensorrt: CUDA does not start: the GPU has fallen off the bus")
        assert service.wait() == 1


def test_a_gpu_that_refuses_every_start_is_replaced_and_gpus_and_streams_come_and_go(setup: Setup) -> None:
    (setup.folder / "broken-0").touch()
    with start(setup) as service, Watcher(service.endpoint) as watcher:
        began = time.monotonic()
        service.wait_for_line(r"classifier@0: cannot open its models; parked for 60 s; the other GPUs go on")
        wait_gpus(watcher, began, gpu0=("lost", 0), gpu1=("serving", 4))
        wait_predictions(watcher, began)
        captures, first = set(service.children("streamclf.capture")), classifier(service, 1)
        (setup.folder / "broken-0").unlink()
        repaired = reload(service, setup, actions={"dark": {"on": 0.9}})  # starts parked processes again
        service.wait_for_line(r"classifier@0: takes over 2 streams or regions from other GPUs")
        wait_gpus(watcher, repaired, gpu0=("serving", 2), gpu1=("serving", 2))
        wait_predictions(watcher, time.monotonic() + 1)
        joined = reload(service, setup, streams=dict.fromkeys((*STREAMS, "e"), setup.film))
        watcher.wait("prediction", "e", since=joined, within=DEADLINE_S)
        for stream in STREAMS:  # nothing moves for a new stream
            assert_unbroken(watcher, stream, since=joined, at_least=1)
        reload(service, setup, engine=ENGINE | {"devices": [0, 1, 9]})
        service.wait_for_line(r"GPU 9: CUDA sees the numbers 0, 1; give a number that nvidia-smi lists")
        service.wait_for_line(r"refused: the classifier on GPU 9 cannot start with it; back to the one before")
        assert classifier(service, 1) == first
        removed = reload(service, setup, engine=ENGINE | {"devices": [0]})
        wait_gpus(watcher, removed, gpu0=("serving", 5), gpu1=None)
        wait_predictions(watcher, time.monotonic() + 1)
        assert captures < set(service.children("streamclf.capture"))
        assert_each_window_once(watcher)


def reload(service: Service, setup: Setup, **changes: Any) -> float:
    setup.write(**changes)
    os.kill(service.process.pid, signal.SIGHUP)
    return time.monotonic()
