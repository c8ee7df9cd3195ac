"""The process of the bench's cameras: `python -m streamclf.bench.cameras`, told what to do on standard input.

In: one line of JSON, a `CamerasJob`; then any other, from which on clients are answered. Out: one line with the port;
and once its input ends, one with all that was sent.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import orjson
from pydantic import BaseModel, ConfigDict

from streamclf.bench.film import load_film
from streamclf.bench.rtsp import Cameras


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
    cameras = Cameras(load_film(job.film), job.cameras)
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
