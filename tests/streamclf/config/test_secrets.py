"""Broken configurations that contain a password: no error, log line or traceback may show it."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest

from engines.errors import EngineError
from streamclf.cli import _main
from streamclf.config.service import load_config
from streamclf.errors import ConfigError, StreamclfError
from streamclf.redact import RedactingFormatter
from streamclf.supervisor.config_watch import ConfigFile

SECRET = "Hidden9"
LONG = "Hidden9Hidden9"
ENVIRON = {
    "SECRET": LONG,
    "CAMERA_PASSWORD": "Hidden9[]#?/@",
    "WHOLE_URL": "rtsp://admin:Hidden9@10.0.0.5:99999/s1",
    "PLAIN": LONG,
}


def _url(url: str) -> str:
    return f"streams:\n  door: {{url: '{url}'}}\n"


URLS = {
    "brackets": "rtsp://admin:a[Hidden9]c@10.0.0.5/s1",
    "open bracket": "rtsp://admin:[Hidden9@10.0.0.5/s1",
    "NFKC": "rtsp://admin:Hidden9\u2100@10.0.0.5/s1",
    "full-width at": "rtsp://admin:Hidden9\uff2010.0.0.5/s1",
    "full-width slash": "rtsp://admin:Hidden9\uff0fx@10.0.0.5/s1",
    "full-width colon": "rtsp://admin\uff1aHidden9@10.0.0.5:0/s1",
    "hash": "rtsp://admin:pa#Hidden9@10.0.0.5/s1",
    "hash after digits": "rtsp://admin:12#Hidden9@10.0.0.5/s1",
    "question mark": "rtsp://admin:Hidden9?x@10.0.0.5/s1",
    "question mark after digits": "rtsp://admin:12?Hidden9@10.0.0.5/s1",
    "slash": "rtsp://admin:Hidden9/x@10.0.0.5/s1",
    "slash after digits": "rtsp://admin:12/Hidden9@10.0.0.5/s1",
    "at": "rtsp://admin:Hidden9@x@10.0.0.5/s1",
    "no at": "rtsp://admin:Hidden9/s1",
    "port": "rtsp://admin:Hidden9@10.0.0.5:99999/s1",
    "port of letters": "rtsp://admin:Hidden9@10.0.0.5:abc/s1",
    "no host": "rtsp://admin:Hidden9@/s1",
    "open IPv6": "rtsp://admin:Hidden9@[::1/s1",
    "scheme": "gopher://admin:Hidden9@10.0.0.5/s1",
    "scheme is the password": "Hidden9://10.0.0.5/s1",
    "no scheme": "admin:Hidden9@10.0.0.5/s1",
    "one slash": "rtsp:/admin:Hidden9@10.0.0.5/s1",
    "two slashes only": "//admin:Hidden9@10.0.0.5/s1",
    "file": "file://admin:Hidden9@10.0.0.5/s1.mp4",
    "token as user": "rtsp://Hidden9Hidden9@10.0.0.5:0/s1",
    "token in query": "http://10.0.0.5:0/s1?token=Hidden9",
    "password in query": "http://10.0.0.5:0/s1?user=a&password=Hidden9",
    "auth in query": "http://[10.0.0.5/s1?auth=Hidden9",
    "key in query": "http://10.0.0.5:99999/s1?key=Hidden9&x=1",
    "signature in query": "ftp://10.0.0.5/s1?X-Amz-Signature=Hidden9",
    "password in path": "rtsp://10.0.0.5:0/user=admin_password=Hidden9_channel=1.sdp",
    "space": "rtsp://admin:Hidden9 x@10.0.0.5:0/s1",
    "quote": 'rtsp://admin:"Hidden9@10.0.0.5:0/s1',
    "variable in port": "rtsp://10.0.0.5:${SECRET}/s1",
    "variable with a bad port": "rtsp://admin:${SECRET}@10.0.0.5:0/s1",
    "whole URL in a variable": "${WHOLE_URL}",
}
TEXTS = {
    "comma forgotten": "streams:\n  door: {url: 'rtsp://admin:Hidden9@10.0.0.5/s1' transport: tcp}\n",
    "comma forgotten after a secret": "streams:\n  s: {push: x, push_secret: 'Hidden9Hidden9' fps: 3}\n",
    "colon in a plain value": "streams:\n  s:\n    push: x\n    push_secret: Hidden9: more\n",
    "quotes that do not end": "streams:\n  s: {push: x, push_secret: 'Hidden9Hidden9}\n",
    "alias": "streams:\n  s: {push: x, push_secret: *Hidden9}\n",
    "anchor twice": "streams:\n  s: {push: &Hidden9 x, push_secret: &Hidden9 y}\n",
    "tag": "streams:\n  s: {push: x, push_secret: !Hidden9 x}\n",
    "tag handle": "streams:\n  s: {push: x, push_secret: !Hidden9!x y}\n",
    "sign at the beginning": "streams:\n  s: {push: x, push_secret: @Hidden9}\n",
    "percent at the beginning": "streams:\n  s: {push: x, push_secret: %Hidden9}\n",
    "block text": "streams:\n  s:\n    push: x\n    push_secret: |Hidden9\n",
    "escape": 'streams:\n  s: {push: x, push_secret: "\\Hidden9"}\n',
    "indentation": "streams:\n  s:\n    push: x\n   push_secret: Hidden9Hidden9\n",
    "tab": "streams:\n  s:\n\tpush_secret: Hidden9Hidden9\n",
    "number as a tag": "streams:\n  s: {push: x, push_secret: !!int Hidden9}\n",
    "control character": 'streams:\n  s: {push: x, push_secret: "Hidden9\\0"}\n',
    "key twice": "streams:\n  s: {push: x, 'push_secret=Hidden9': 1, 'push_secret=Hidden9': 2}\n",
    "no space after the colon": "streams:\n  s: {push: x, push_secret:Hidden9Hidden9}\n",
    "unknown key": "streams:\n  s: {push: x, Hidden9: x}\n",
    "misspelt key": "streams:\n  s: {push: x, push_secretHidden9: x}\n",
    "URL as a key": "streams:\n  s: {'rtsp://admin:Hidden9@10.0.0.5/s1': x}\n",
    "URL as a name": "streams:\n  'rtsp://admin:Hidden9@10.0.0.5/s1': {camera: 0}\n",
    "stream is a value": "streams:\n  door: Hidden9\n",
    "stream is a list": "streams:\n  door: ['rtsp://admin:Hidden9@10.0.0.5/s1']\n",
    "URL is a list": "streams:\n  door: {url: ['rtsp://admin:Hidden9@10.0.0.5/s1']}\n",
    "URL is a mapping": "streams:\n  door: {url: {rtsp://admin:Hidden9@10.0.0.5/s1}}\n",
    "secret is a list": "streams:\n  s: {push: x, push_secret: [Hidden9Hidden9]}\n",
    "secret without push": "streams:\n  s: {camera: 0, push_secret: Hidden9Hidden9}\n",
    "two sources": "streams:\n  s: {camera: 0, url: 'rtsp://admin:Hidden9@10.0.0.5/s1'}\n",
    "secret too short": "streams:\n  s: {push: 'tcp://127.0.0.1:7000', push_secret: Hidden9}\n",
    "user in a push address": "streams:\n  s: {push: 'tcp://u:Hidden9@127.0.0.1:7000', push_secret: Hidden9Hidden9}\n",
    "URL as images": "streams:\n  s: {images: 'rtsp://admin:Hidden9@10.0.0.5/s1', fps: 3}\n",
    "URL as model": "model: 'https://u:Hidden9@host/bundle'\nstreams: {s: {camera: 0}}\n",
    "URL as tls_ca": "streams:\n  s: {url: 'rtsps://10.0.0.5/s1', tls_ca: 'https://u:Hidden9@h/ca.pem'}\n",
    "user in an endpoint": "streams: {s: {camera: 0}}\npublish: {events: 'tcp://u:Hidden9@127.0.0.1:5555'}\n",
    "URL in several lines": "streams:\n  door:\n    url: >\n      rtsp://admin:Hidden9\n      @10.0.0.5:0/s1\n",
    "anchor of a URL": "streams:\n  a: &a {url: 'rtsp://admin:Hidden9@10.0.0.5:0/s1'}\n  b: *a\n",
    "merged URL": "streams:\n  a: &a {url: 'rtsp://admin:[Hidden9@10.0.0.5/s1'}\n  b: {<<: *a, hop: 2}\n",
    "variable as a number": "streams:\n  s: {camera: 0, hop: '${SECRET}'}\n",
    "variable as a time zone": "streams: {s: {camera: 0}}\ntimezone: ${PLAIN}\n",
    "variable as a duration": "streams: {s: {camera: 0}}\npublish: {keep: '${PLAIN}'}\n",
    "variable as a push address": "streams: {s: {push: 'tcp://${PLAIN}'}}\n",
    "variable as hours": "streams: {s: {camera: 0}}\nactions: {x: {active: '${PLAIN}'}}\n",
    "variable as a path": "streams: {s: {url: '${SECRET}/film.mp4'}}\n",
    "text instead of a configuration": "rtsp://admin:Hidden9@10.0.0.5/s1",
    "invalid bytes": "push_secret: Hidden9\udcff",
}
BROKEN = {**{name: _url(url) for name, url in URLS.items()}, **TEXTS}
PASSWORDS = ("a#b", "1#b", "a?b", "1?b", "a/b", "1/b", "a@b", "1@b")


@pytest.fixture(params=BROKEN.values(), ids=BROKEN)
def path(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    path = tmp_path / "service.yaml"
    path.write_bytes(request.param.encode("utf-8", "surrogateescape"))
    return path


def test_check_prints_one_line_without_the_secret(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _main(["check", str(path)]) in (1, 2)
    printed = "".join(capsys.readouterr())
    assert SECRET not in printed
    assert len(printed.splitlines()) == 1


def test_the_error_of_a_reload_and_its_traceback_do_not_show_the_secret(path: Path) -> None:
    log = io.StringIO()
    handler = logging.StreamHandler(log)
    handler.setFormatter(RedactingFormatter("%(message)s"))
    logger = logging.Logger("service")
    logger.addHandler(handler)
    with pytest.raises((StreamclfError, EngineError)) as caught:
        ConfigFile(path).read()
    logger.error("refused: %s", caught.value, exc_info=caught.value)
    assert log.getvalue()
    assert SECRET not in log.getvalue()


def test_the_error_of_the_file_itself_does_not_show_the_secret(path: Path) -> None:
    assert SECRET not in _error_of(path)


def _error_of(path: Path) -> str:
    """Return the error of `load_config`; an empty text where only a later check refuses the configuration."""
    try:
        load_config(path)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("password", PASSWORDS)
def test_raw_signs_in_a_password_are_refused_with_the_remedy(password: str, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(_url(f"rtsp://admin:{password}@10.0.0.5/s1"))
    with pytest.raises(ConfigError, match=r"percent-encode .*\$\{NAME\}"):
        load_config(tmp_path / "service.yaml")


@pytest.mark.parametrize(
    "url",
    [
        "rtsp://admin:p%40ss@10.0.0.5/s1",
        "rtsp://admin@camera.local/s1",
        "rtsp://u:p@camera/path@2x?mail=a@example.org",
        "http://10.0.0.5:8080/snapshot@2x.mjpg",
        "https://live.example.org/@channel/live.m3u8",
        "http://camera:80/live?mail=a@example.org",
        "rtsp://[fe80::1]:554/live@1",
    ],
)
def test_an_at_sign_in_the_path_of_a_valid_url_is_accepted(url: str, tmp_path: Path) -> None:
    (tmp_path / "service.yaml").write_text(_url(url))
    assert load_config(tmp_path / "service.yaml").streams["door"].url == url
