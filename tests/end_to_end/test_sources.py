"""Sources other than cameras, through the whole service: frames that a program pushes, and a folder of images."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from support.bundles import make_brightness_bundle
from support.clips import draw_light
from support.ports import free_port
from support.service import Service
from support.watcher import Watcher

import streamclf

START_S = 60.0
SECRET = "correct horse battery"


def grey(number: int, light: int) -> npt.NDArray[np.uint8]:
    return draw_light(number, 160, 90, light)


def test_pushed_frames_and_folders_of_images_are_classified(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    (tmp_path / "shots").mkdir()
    for i in range(20):
        cv2.imwrite(str(tmp_path / "shots" / f"{i}.png"), grey(i, 40))
    remote = f"tcp://127.0.0.1:{free_port()}"
    streams = {
        "screen": {"push": "./sockets/screen"},
        "remote": {"push": remote, "push_secret": "${PUSH_SECRET}"},
        "shots": {"images": "shots", "fps": 10, "loop": True},
    }
    publish = {"events": "tcp://127.0.0.1:*", "replay": "tcp://127.0.0.1:*"}
    (tmp_path / "s.yaml").write_text(json.dumps({"model": "brightness", "streams": streams, "publish": publish}))
    stop = threading.Event()

    def produce(where: str, light: int, secret: str) -> None:
        with streamclf.push(where, width=160, height=90, secret=secret) as sink:
            number = 0
            while not stop.wait(0.04):
                sink.write(grey(number, light))
                number += 1

    programs = [
        threading.Thread(target=produce, args=(str(tmp_path / "sockets" / "screen"), 200, "")),
        threading.Thread(target=produce, args=(remote, 40, SECRET)),
    ]
    environment = {"PUSH_SECRET": SECRET}
    with Service("run", "s.yaml", cwd=tmp_path, env=environment) as service, Watcher(service.endpoint) as watcher:
        began = time.monotonic()
        for program in programs:
            program.start()
        try:
            for stream, label in (("screen", "bright"), ("remote", "dark"), ("shots", "dark")):
                seen = watcher.wait("prediction", stream, since=began, within=START_S)
                assert seen.probability(label) > 0.99
            live = watcher.state("screen", "live", since=0.0, within=float("inf"))
            assert live.event["codec"] == "raw"
        finally:
            stop.set()
            for program in programs:
                program.join(60)
        watcher.state("screen", "connecting", since=began, within=START_S, reason="the program closed the connection")
        service.interrupt()
        assert service.wait() == 0
    assert SECRET not in "\n".join(service.lines)
    assert not (tmp_path / "sockets" / "screen").exists()
