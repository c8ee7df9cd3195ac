"""Processes load no library that they do not need. There is one capture process for each stream."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from support.clips import write_clip

NOT_NEEDED = {
    "pydantic": "20 MB with the models of the configuration; the messages are plain dataclasses",
    "cv2": "25 MB; only webcams, folders of images, previews and stills need it",
    "ssl": "5 MB with OpenSSL; only for TLS",
    "hashlib": "4 MB with OpenSSL; only for passwords and pushed frames",
    "http": "2 MB; only for HTTP sources",
    "asyncio": "5 MB",
    "yaml": "only the supervisor reads the configuration",
    "typer": "only for commands",
    "rich": "only for commands",
    "PIL": "only for animated WebP",
    "openvino": "only for the classifier",
    "onnxruntime": "only for the classifier",
    "onnx": "only for the classifier",
    "streamclf.clips": "only for a stream with films",
    "streamclf.runtime.jobs": "the jobs of the other processes, with pydantic",
}

PLAY = """
import os, sys, threading
from streamclf.capture import process
from streamclf.producer.link import EventProducer
from streamclf.runtime.capture_job import CaptureJob, ViewJob
from streamclf.runtime.child import EXIT_ENDED, run_child
from streamclf.runtime.plain_messages import decode_message, encode_message
from streamclf.config.source_settings import SourceSettings
from streamclf.windows.ring import create_ring
import streamclf.sources.network, streamclf.sources.rtsp.reader

view = ViewJob(
    view="a", fps=5, frames_per_chunk=1, height=32, width=32, resize="stretch", ring_fd=create_ring(64, (1, 32, 32, 3)),
    wake_fd=os.pipe()[1]
)
source = SourceSettings(url=sys.argv[1], pace="fast")
job = CaptureJob(link=sys.argv[2], stream="door", source=source, views=(view,))
with EventProducer(job.link, "capture-door") as producer:
    capture = process.Capture(decode_message(CaptureJob, encode_message(job)), producer, threading.Event())
    assert capture.run() == EXIT_ENDED
    assert capture._views.counters["chunks"] > 3
    producer.close(0)
print(*sys.modules)
"""


def test_the_hub_loads_no_library_that_it_does_not_need() -> None:
    command = [sys.executable, "-c", "import sys, streamclf.hub.process; print(*sys.modules)"]
    loaded = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
    assert not {"numpy", "yaml", "av", "cv2", "ssl", "streamclf.config.service"} & set(loaded)


def test_a_capture_process_loads_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    write_clip(film, frames=20, fps=10)
    command = [sys.executable, "-c", PLAY, str(film), f"ipc://{tmp_path}/link"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0, run.stderr
    loaded = {name for name in run.stdout.split() if sys.modules.get(name, name) is not None}
    found = {name: why for name, why in NOT_NEEDED.items() if name in loaded}
    assert not found, f"a capture process loads {found}; import them where they are used"
