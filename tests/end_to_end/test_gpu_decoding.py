"""A service whose GPU decodes and classifies: all its processes use a substitute driver and a double of TensorRT."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import av
import pytest
from support.cuda_driver import build_driver
from support.hub_process import wait_until
from support.live import Setup
from support.repository import ROOT
from support.service import DEADLINE_S, Service
from support.watcher import Watcher

from engines.backends.choice import is_installed
from engines.backends.names import CUDA_ADAPTERS

pytestmark = [
    pytest.mark.skipif(int(av.__version__.split(".")[0]) < 17, reason="PyAV before 17 keeps no pictures on a GPU"),
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc, no GPU"),
    pytest.mark.skipif(not any(map(is_installed, CUDA_ADAPTERS)), reason="needs PyCUDA or cuda-bindings, no GPU"),
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    build_driver(tmp_path)
    folders = [ROOT / "tests" / "support" / "gpu_service", ROOT, ROOT / "tests"]
    return {"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": os.pathsep.join(map(str, folders))}


def wait_for_count(watcher: Watcher, name: str, since: float) -> None:
    """Wait for a status with this counter above 0, and for a prediction afterwards."""
    seen = watcher.wait(
        "status",
        "yard",
        since=since,
        within=DEADLINE_S,
        where=lambda seen: seen.event.get("counters", {}).get(name, 0) > 0,
    )
    watcher.wait("prediction", "yard", since=seen.at_s, within=DEADLINE_S)


def kill(service: Service, module: str) -> float:
    """Kill the process of a module; return when a new one runs."""
    (pid,) = service.children(module)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: service.children(module) not in ([], [pid]), f"a new {module}")
    return time.monotonic()


def test_chunks_stay_on_the_gpu_over_crashes_and_changes(tmp_path: Path, environment: dict[str, str]) -> None:
    """The stream begins on the CPU's backend, since the plans are not built, and comes to the GPU without a restart."""
    setup = Setup(tmp_path)
    stream = setup.film | {"decode_device": "cuda"}
    engine = {"backend": "tensorrt", "precision": "fp32"}
    path = setup.write(streams={"yard": stream}, engine=engine)
    with Service("run", str(path), cwd=tmp_path, env=environment) as service, Watcher(service.endpoint) as watcher:
        service.wait_for_line("now on tensorrt")
        wait_for_count(watcher, "gpu_chunks", time.monotonic())
        wait_for_count(watcher, "gpu_chunks", kill(service, "streamclf.capture"))
        since = kill(service, "streamclf.classifier")
        watcher.wait(
            "prediction", "yard", since=since, within=DEADLINE_S, where=lambda seen: "tensorrt" in seen.event["engine"]
        )
        setup.write(streams={"yard": stream | {"motion_gate": 1.0}}, engine=engine)
        service.process.send_signal(signal.SIGHUP)
        service.wait_for_line("new configuration applied: changed yard")
        wait_for_count(watcher, "gpu_pictures", time.monotonic())  # a motion gate needs the pixels on the host
        assert not [line for line in service.lines if "scaled on the host" in line]
        service.interrupt()
        assert service.wait() == 0
