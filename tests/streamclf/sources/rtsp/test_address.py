"""RTSP URLs: parsing, the URLs of tracks, and redirections."""

from __future__ import annotations

import pytest

from streamclf.errors import SourceError
from streamclf.sources.rtsp.address import Credentials, join_control, parse_url, resolve_redirect


def test_credentials_are_separated_from_the_request_url() -> None:
    address, credentials = parse_url("RTSP://a%40n:p%3A%2F@cam.example:8554/live?channel=1&x=ü", "cam")
    assert (address.url, address.host, address.port, address.tls) == (
        "rtsp://cam.example:8554/live?channel=1&x=%C3%BC", "cam.example", 8554, False,
    )  # fmt: skip
    assert credentials == Credentials(user="a@n", password="p:/")
    assert "p:/" not in repr(credentials)
    assert [parse_url(f"{scheme}://[::1]/", "x")[0].port for scheme in ("rtsp", "rtsps")] == [554, 322]
    assert parse_url("rtsp://cam/a b\r\nX: y", "x")[0].url == "rtsp://cam/a%20b%0D%0AX:%20y"


@pytest.mark.parametrize(
    "url", ["rtsp://", "http://cam/", "rtsp://cam:port/", "rtsp://[::1/", "rtsp://c/" + "x" * 3000]
)
def test_an_invalid_rtsp_url_is_refused(url: str) -> None:
    with pytest.raises(SourceError, match="give one like rtsp://HOST:PORT/PATH"):
        parse_url(url, "cam")


def test_a_track_url_is_appended_as_servers_expect() -> None:
    assert join_control("rtsp://c/live?channel=1", "track1") == "rtsp://c/live?channel=1/track1"
    assert join_control("rtsp://c/live/", "track1") == "rtsp://c/live/track1"
    assert join_control("rtsp://c/live/", "rtsp://10.0.0.1/live/1") == "rtsp://10.0.0.1/live/1"
    assert join_control("rtsp://c/live", "*") == join_control("rtsp://c/live", "") == "rtsp://c/live"


def test_redirects_to_another_host_or_without_tls_are_refused() -> None:
    plain, _ = parse_url("rtsp://cam/a", "cam")
    safe, _ = parse_url("rtsps://cam/a", "cam")
    assert resolve_redirect(plain, "rtsps://CAM:555/b", "cam").port == 555
    for address, location, why in (
        (plain, "rtsp://cam.evil/a", "another host"),
        (plain, "rtsp://cam@evil/a", "another host"),
        (safe, "rtsp://cam/a", "without encryption"),
        (plain, "http://cam/a", "an invalid address"),
        (plain, "", "an invalid address"),
    ):
        with pytest.raises(SourceError, match=why):
            resolve_redirect(address, location, "cam")
