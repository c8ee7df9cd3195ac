"""Open one source, and print its codec, size, rate and first picture as JSON. The page runs it as a process.

The source arrives on standard input, because its URL may hold a password and everybody can read a command line.
"""

from __future__ import annotations

import base64
import sys
import time
from typing import Any, Final

import orjson

from streamclf.config.placeholders import register_config_secrets
from streamclf.config.source import SourceConfig
from streamclf.errors import SourceError
from streamclf.redact import redact
from streamclf.runtime.memory_limit import limit_own_memory
from streamclf.sources import Frame, Source, open_source

MEASURE_S: Final = 2.0
"""A live source is read for this long, to measure its rate."""
MAX_FRAMES: Final = 240
_LONGEST_SIDE: Final = 640
_JPEG_QUALITY: Final = 75


def main() -> int:
    """Read a `SourceConfig` from standard input, and print one line of JSON."""
    config = SourceConfig.model_validate_json(sys.stdin.buffer.read())
    register_config_secrets(config.model_dump())
    limit_own_memory(config.memory_limit)
    try:
        report = _probe(config)
    except SourceError as error:
        report = {"error": redact(str(error))}
    except MemoryError:
        report = {"error": f"needs more memory than memory_limit={config.memory_limit}"}
    sys.stdout.buffer.write(orjson.dumps(report) + b"\n")
    sys.stdout.flush()
    return 0


def _probe(config: SourceConfig) -> dict[str, Any]:
    with open_source(config) as source:
        first = next(source, None)
        if first is None:
            raise SourceError("holds no frame; check the file")
        picture = _jpeg(first)
        rate = _measured_rate(source) if source.live else source.info.fps
        info = source.info
        return {
            "codec": info.codec,
            "width": first.width,
            "height": first.height,
            "fps": None if rate is None else round(rate, 2),
            "note": info.note,
            "jpeg": base64.b64encode(picture).decode(),
        }


def _measured_rate(source: Source) -> float | None:
    """Count frames for up to two seconds; the first may have waited for a key frame, so the clock starts after it."""
    times_s: list[float] = []
    end_s = time.monotonic() + MEASURE_S
    while time.monotonic() < end_s and len(times_s) < MAX_FRAMES:
        if next(source, None) is None:
            break
        times_s.append(time.monotonic())
    span_s = times_s[-1] - times_s[0] if len(times_s) > 1 else 0.0
    return (len(times_s) - 1) / span_s if span_s > 0 else source.info.fps


def _jpeg(frame: Frame) -> bytes:
    import cv2

    scale = min(1.0, _LONGEST_SIDE / max(frame.height, frame.width))
    height, width = max(1, round(frame.height * scale)), max(1, round(frame.width * scale))
    ok, jpeg = cv2.imencode(
        ".jpg",
        cv2.cvtColor(frame.to_rgb(height, width), cv2.COLOR_RGB2BGR),
        [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY],
    )
    return jpeg.tobytes() if ok else b""


if __name__ == "__main__":
    sys.exit(main())
