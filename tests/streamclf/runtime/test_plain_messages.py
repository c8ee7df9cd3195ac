"""Messages of plain dataclasses."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import orjson
import pytest

from streamclf.config.clips import ClipsConfig
from streamclf.config.picture_area import PictureArea
from streamclf.config.source import SourceConfig
from streamclf.config.source_settings import SourceSettings
from streamclf.runtime.capture_job import CaptureChange, CaptureJob, ViewJob
from streamclf.runtime.jobs import LinkedJob
from streamclf.runtime.plain_messages import decode_message, encode_message

VIEW = ViewJob(
    view="a/gate",
    region="gate",
    fps=12.5,
    frames_per_chunk=2,
    height=90,
    width=160,
    resize="crop",
    area=PictureArea(rotate=90, flip="vertical", mask=[[0, 0, 0.5, 0.5]], region=(0, 0, 0.5, 1)),  # type: ignore[arg-type]
    ring_fd=3,
    wake_fd=4,
)
JOB = CaptureJob(
    liveness_fd=7,
    memory_limit=2 * 10**9,
    link="ipc:///run/link",
    stream="door",
    source=SourceSettings(url="rtsp://user:hunter2@camera/1", transport="udp", frozen_s=30),
    picture=PictureArea(rotate=180),
    views=(VIEW, replace(VIEW, view="a", region=None, progress_fd=5)),
    clips=ClipsConfig().model_dump(mode="json"),
)


def changed(change: dict[str, Any]) -> bytes:
    return orjson.dumps(orjson.loads(encode_message(JOB)) | change)


def test_a_message_is_the_same_after_the_way_through_json() -> None:
    assert decode_message(CaptureJob, encode_message(JOB)) == JOB
    assert ClipsConfig.model_validate(JOB.clips) == ClipsConfig()
    for source in (SourceSettings(camera=0), SourceSettings(camera="/dev/video0"), SourceSettings(images="i", fps=2)):
        assert decode_message(SourceSettings, encode_message(source)) == source
    change = CaptureChange(descriptors=2, add=VIEW, remove="b", update={"a": PictureArea(flip="horizontal")})
    assert decode_message(CaptureChange, encode_message(change)) == change
    assert b"\n" not in encode_message(JOB)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"more": 1}, "CaptureJob: unknown keys more"),
        ({"stream": 5}, "CaptureJob.stream: int instead of str"),
        ({"memory_limit": True}, "CaptureJob.memory_limit: bool instead of int"),
        ({"views": {}}, "CaptureJob.views: dict instead of"),
        (
            {"picture": {"rotate": 45, "flip": None, "mask": [], "region": None}},
            "CaptureJob.picture.rotate: int instead",
        ),
        ({"source": {"url": "rtsp://user:hunter2@camera/1"}}, "CaptureJob.source: camera, images, "),
    ],
)
def test_a_message_of_another_version_is_refused_without_its_values(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        decode_message(CaptureJob, changed(change))
    assert "hunter2" not in str(caught.value)


def test_a_capture_process_gets_each_key_of_its_source() -> None:
    settings = {each.name: each.default for each in fields(SourceSettings)}
    keys = {name: info.default for name, info in SourceConfig.model_fields.items() if name != "memory_limit"}
    assert settings == keys, "add the key to streamclf/config/source_settings.py, with the same default"


def test_a_capture_process_gets_what_each_linked_process_gets() -> None:
    assert LinkedJob.model_fields.keys() <= {each.name for each in fields(CaptureJob)}
