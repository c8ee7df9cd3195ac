"""Read cameras, URLs and files as frames. The only package that reads through PyAV or `cv2.VideoCapture`."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from streamclf.config.source_settings import SourceSettings
from streamclf.errors import SourceError
from streamclf.sources.frame import Frame, Source, SourceInfo
from streamclf.sources.resize import Resize

if TYPE_CHECKING:
    from streamclf.config.source import SourceConfig

__all__ = ["Frame", "Resize", "Source", "SourceInfo", "open_source"]


def open_source(config: SourceConfig | SourceSettings, *, stop: threading.Event | None = None) -> Source:
    """Open the source that `config` describes; iteration ends early when `stop` is set.

    Blocks for at most `config.open_timeout_s`. Raises `SourceError`: one line with value and remedy, without
    credentials.
    """
    if config.camera is not None:
        try:
            from streamclf.sources.camera import CameraSource
        except ImportError as error:
            raise SourceError(f"camera {config.camera}: OpenCV is missing; pip install opencv-python") from error
        return CameraSource(config.camera, read_timeout_s=config.read_timeout_s, stop=stop)
    if config.images is not None:
        return _open_images(config, stop)
    if config.push is not None:
        from streamclf.sources.push import PushSource

        return PushSource(
            config.push,
            secret=config.push_secret or "",
            open_timeout_s=config.open_timeout_s,
            read_timeout_s=config.read_timeout_s,
            stop=stop,
        )
    assert config.url is not None  # the configuration requires one of the four
    try:
        from streamclf.sources.file import FileSource, is_animated_webp
        from streamclf.sources.network import NetworkSource
    except ImportError as error:
        raise SourceError("files and network streams need PyAV; pip install av") from error
    if config.is_file:
        path, realtime = config.file_path, config.pace == "realtime"
        if is_animated_webp(path):
            from streamclf.sources.animated_webp import AnimatedWebpSource

            return AnimatedWebpSource(path, realtime=realtime, loop=config.loop, stop=stop)
        return FileSource(path, realtime=realtime, loop=config.loop, device=config.decode_device, stop=stop)
    return NetworkSource(
        config.url,
        transport=config.transport,
        demuxer=config.demuxer,
        open_timeout_s=config.open_timeout_s,
        read_timeout_s=config.read_timeout_s,
        tls_ca=config.tls_ca,
        tls_verify=config.tls_verify,
        device=config.decode_device,
        stop=stop,
    )


def _open_images(config: SourceConfig | SourceSettings, stop: threading.Event | None) -> Source:
    assert config.images is not None
    assert config.fps is not None  # the configuration requires both or neither
    try:
        from streamclf.sources.images import ImageFolderSource
    except ImportError as error:
        raise SourceError("folders of images need OpenCV; pip install opencv-python") from error
    realtime = config.pace == "realtime"
    return ImageFolderSource(Path(config.images), fps=config.fps, realtime=realtime, loop=config.loop, stop=stop)
