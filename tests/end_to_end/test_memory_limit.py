"""A capture process that takes too much memory costs its own stream alone, and the status gives the reason."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.bundles import make_brightness_bundle
from support.service import Service
from support.watcher import Watcher

import streamclf

START_S = 60.0

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc, which Linux has")


def test_a_stream_that_takes_too_much_memory_is_restarted_alone(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    (tmp_path / "shots").mkdir()
    for i in range(20):
        cv2.imwrite(str(tmp_path / "shots" / f"{i}.png"), np.full((90, 160, 3), 200 + i, np.uint8))
    streams = {
        "huge": {"push": "./sockets/huge", "memory_limit": "200MB"},
        "witness": {"images": "shots", "fps": 10, "loop": True},
    }
    publish = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"}
    (tmp_path / "s.yaml").write_text(json.dumps({"model": "brightness", "streams": streams, "publish": publish}))
    stop = threading.Event()
    frame = np.zeros((8000, 8500, 3), np.uint8)  # 204 MB

    def produce() -> None:
        with streamclf.push(str(tmp_path / "sockets" / "huge"), width=8500, height=8000, queue=1) as sink:
            while not stop.wait(0.2):
                sink.write(frame)

    program = threading.Thread(target=produce)
    with Service("run", "s.yaml", cwd=tmp_path) as service, Watcher(service.endpoint) as watcher:
        watcher.wait("prediction", "witness", since=time.monotonic(), within=START_S)
        began = time.monotonic()
        program.start()
        try:
            watcher.state("huge", "offline", since=began, within=START_S, reason="took more than 200 MB of memory")
            watcher.wait("prediction", "witness", since=time.monotonic(), within=START_S)
        finally:
            stop.set()
            program.join(60)
        service.interrupt()
        assert service.wait() == 0
    assert "capture[witness]: ended" not in "\n".join(service.lines)
    assert "Traceback" not in "\n".join(service.lines)
