"""RTSPS and HTTPS: only the servers that the configuration trusts are accepted."""

from __future__ import annotations

import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.certificates import make_certificate, server_context
from support.clips import film, read_number
from support.rtsp_server import RtspServer

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import open_source

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make certificates")

FILM = film(frames=50)


def secure(url: str, **keys: object) -> StreamConfig:
    return StreamConfig.model_validate({"url": url, "open_timeout_s": 3, "read_timeout_s": 1, **keys})


@pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
def test_a_self_signed_certificate_is_trusted_only_as_tls_ca(tmp_path: Path, demuxer: str) -> None:
    own, other = (make_certificate(tmp_path, name) for name in ("own", "other"))
    with RtspServer({"cam": FILM}, auth=("ann", "s3cret/"), tls=server_context(own)) as server:
        url = server.url("cam")
        assert url.startswith("rtsps://")
        with open_source(secure(url, tls_ca=str(own), demuxer=demuxer)) as source:
            assert read_number(next(source).to_rgb(180, 320)) == 0
        for keys in ({}, {"tls_ca": str(other)}):
            with pytest.raises(SourceError, match=r"certificate is not trusted .*give the camera's own") as caught:
                open_source(secure(url, demuxer=demuxer, **keys))
            assert "s3cret" not in str(caught.value)
        with open_source(secure(url, demuxer=demuxer, tls_verify=False)) as source:
            assert read_number(next(source).to_rgb(180, 320)) == 0


@pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
def test_a_certificate_for_another_address_is_refused(tmp_path: Path, demuxer: str) -> None:
    elsewhere = make_certificate(tmp_path, "elsewhere", address="10.0.0.9")
    with (
        RtspServer({"cam": FILM}, tls=server_context(elsewhere)) as server,
        pytest.raises(SourceError, match="has another name"),
    ):
        open_source(secure(server.url("cam"), tls_ca=str(elsewhere), demuxer=demuxer))


def test_a_server_without_tls_is_reported(tmp_path: Path) -> None:
    with RtspServer({"cam": FILM}) as server, pytest.raises(SourceError, match=r"no TLS, or its certificate|no video"):
        open_source(secure(server.url("cam").replace("rtsp:", "rtsps:"), open_timeout_s=1))


def test_a_film_is_read_over_https_only_from_a_trusted_server(tmp_path: Path, clip: Path) -> None:
    own = make_certificate(tmp_path, "own")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(clip.read_bytes())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server has this name
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.socket = server_context(own).wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever, args=(0.05,))
        thread.start()
        try:
            url = f"https://127.0.0.1:{http.server_port}/film.mp4"
            for keys in ({"tls_ca": str(own)}, {"tls_verify": False}):
                with open_source(secure(url, **keys)) as source:
                    assert read_number(next(source).to_rgb(180, 320)) == 0
            with pytest.raises(SourceError, match="certificate is not trusted"):
                open_source(secure(url))
        finally:
            http.shutdown()
            thread.join(60)
