"""Pictures of clips for other systems: bytes within a limit, links that expire, and no failure for a missing one."""

from __future__ import annotations

import base64
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.clip_events import CLIP_STEM as STEM
from support.clip_events import clip_event as clip

from streamclf.clips.links import linked_path
from streamclf.config.picture_keys import PictureKeys
from streamclf.errors import UsageError
from streamclf.net.signer import Signer
from streamclf.subscribers.clip_pictures import ClipPictures
from streamclf.subscribers.outlet_report import OutletReport

TOKEN = "a-token-of-the-page-0123456789"


def noise_jpeg(side: int = 600) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    return bytes(cv2.imencode(".jpg", noise)[1])


def pictures(folder: Path | None, **keys: Any) -> tuple[ClipPictures, list[str]]:
    notices: list[str] = []
    report = OutletReport("webhook", lambda level, text: notices.append(text))
    return ClipPictures(PictureKeys(clips=folder, **keys), report), notices


def store(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_the_bytes_of_the_drawn_picture_are_sent(tmp_path: Path) -> None:
    drawn = noise_jpeg(100)
    store(tmp_path, f"{STEM}.drawn.jpg", drawn)
    own, notices = pictures(tmp_path)
    assert own.body(clip()) == {"picture": {"media_type": "image/jpeg", "base64": base64.b64encode(drawn).decode()}}
    assert own.body(clip(drawn=None, still=None)) == {}
    assert notices == []


def test_a_large_picture_is_made_smaller(tmp_path: Path) -> None:
    store(tmp_path, f"{STEM}.drawn.jpg", noise_jpeg())
    own, notices = pictures(tmp_path, picture_bytes=40_000)
    jpeg = own.read(f"{STEM}.drawn.jpg")
    assert jpeg is not None
    assert len(jpeg) <= 40_000
    assert cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR) is not None
    assert notices == []
    assert len(base64.b64encode(jpeg)) <= own.bytes_each


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (f"{STEM}.drawn.jpg", None),
        (f"{STEM}.drawn.jpg", b"<script>"),
        (f"{STEM}.drawn.jpg", b"\xff\xd8\xff" + bytes(100_000)),
        (f"{STEM}.drawn.jpg", bytes(5_000_000)),
        (f"{STEM}.mp4", noise_jpeg(50)),
    ],
)
def test_a_picture_that_cannot_be_read_is_reported_once(tmp_path: Path, name: str, data: bytes | None) -> None:
    if data is not None:
        store(tmp_path, name, data)
    own, notices = pictures(tmp_path, picture_bytes=50_000)
    for _ in range(3):
        assert own.body(clip(drawn=name)) == {}
    assert own.missing == 3
    assert len(notices) == 1
    assert notices[0].startswith(f"no picture of {name}: ")


def test_links_lead_to_the_page_and_expire(tmp_path: Path) -> None:
    own, _ = pictures(tmp_path, link="http://192.168.1.5:8080/", link_token=TOKEN, link_valid="1h")
    body = own.body(clip())
    for key, media_type, path in (("picture", "image/jpeg", f"{STEM}.drawn.jpg"), ("film", "video/mp4", f"{STEM}.mp4")):
        assert body[key]["media_type"] == media_type
        assert body[key]["url"].startswith("http://192.168.1.5:8080/shared/clip/")
        assert TOKEN not in body[key]["url"]
        assert linked_path(Signer(TOKEN), body[key]["url"].removeprefix("http://192.168.1.5:8080")) == path
        left_s = datetime.fromisoformat(body[key]["expires"].replace("Z", "+00:00")) - datetime.now(timezone.utc)
        assert 3500 < left_s.total_seconds() <= 3600
    assert own.read(f"{STEM}.drawn.jpg") is None


def test_pictures_can_be_turned_off(tmp_path: Path) -> None:
    store(tmp_path, f"{STEM}.drawn.jpg", noise_jpeg(100))
    for own, _ in (
        pictures(tmp_path, picture_bytes=0),
        pictures(None),
        pictures(tmp_path, picture_bytes=0, link="http://host:8080", link_token=TOKEN),
    ):
        assert own.body(clip()) == {}
        assert not own.has_bytes
        assert not own.has_links


def test_links_need_the_token_of_the_page(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="links need the token of the page; give --link-token-file"):
        pictures(tmp_path, link="http://host:8080")
    file = tmp_path / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    own, _ = pictures(tmp_path, link="http://host:8080", link_token_file=file)
    link = own.link(f"{STEM}.jpg")
    assert link is not None
    assert linked_path(Signer(TOKEN), link.url.removeprefix("http://host:8080")) == f"{STEM}.jpg"
