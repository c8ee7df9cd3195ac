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
    """The film to serve, a file of `save_film`, and the number of cameras."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    film: Path
    cameras: int


def main() -> None:
    """Serve until standard input ends: the process that started this one is then done, or has ended."""
    job = CamerasJob.model_validate_json(sys.stdin.buffer.readline())
    asyncio.run(_serve(job))


async def _serve(job: CamerasJob) -> None:
    server = CameraServer(load_film(job.film), job.cameras)
    _print_line({"port": await server.listen()})
    done, loop = asyncio.Event(), asyncio.get_running_loop()

    def read_input() -> None:
        if sys.stdin.buffer.readline():
            loop.call_soon_threadsafe(server.answering.set)
            sys.stdin.buffer.read()
        loop.call_soon_threadsafe(done.set)

    threading.Thread(target=read_input, name="input", daemon=True).start()
    await done.wait()
    await server.close()
    _print_line({"sent": server.sent})


def _print_line(message: object) -> None:
    sys.stdout.buffer.write(orjson.dumps(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
