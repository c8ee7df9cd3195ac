"""Run the bench's cameras in a process: `python -m streamclf.bench.cameras.camera_process`.

Standard input: one line of JSON, a `CamerasJob`; then any second line, from which on the server answers clients.
Standard output: one line with the port; and once the input has ended, one line with the send times of all frames.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from streamclf.bench.cameras.film import load_film
from streamclf.bench.cameras.rtsp_server import CameraServer


class CamerasJob(BaseModel):
    """What this process is told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    film: Path
    cameras: int


def main() -> None:
    """Serve until standard input ends: whoever started this is then done, or gone."""
    job = CamerasJob.model_validate_json(sys.stdin.buffer.readline())
    asyncio.run(_serve(job))


async def _serve(job: CamerasJob) -> None:
    cameras = CameraServer(load_film(job.film), job.cameras)
    _say({"port": await cameras.listen()})
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def wait() -> None:
        if sys.stdin.buffer.readline():
            loop.call_soon_threadsafe(cameras.began.set)
            sys.stdin.buffer.read()
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=wait, name="input", daemon=True).start()
    await done.wait()
    await cameras.close()
    _say({"played": cameras.played})


def _say(message: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
