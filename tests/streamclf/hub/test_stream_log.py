"""The lines about streams that are lost and back: each change once, and a dead camera does not fill the disk."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from streamclf.hub.stream_log import StreamLog

REFUSED = "rtsp://***@10.0.0.7/live: connection refused"
LIVE = {"state": "live", "codec": "h264", "counters": {"width": 1920, "height": 1080}}


class Night:
    """A log with a clock of the test's own. Every stream sends a status each 5 s, as capture processes do."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        self.log, self.now_s = StreamLog(), 0.0
        self.states: dict[str, dict[str, Any]] = {}
        self._caplog = caplog

    def status(self, stream: str, state: str, reason: str | None = None, **more: Any) -> None:
        self.states[stream] = {**(LIVE if state == "live" else {}), "state": state, "reason": reason, **more}
        self.log.apply(stream, self.states[stream], self.now_s)

    def start(self, *streams: str) -> None:
        for stream in streams:
            self.status(stream, "connecting")
            self.status(stream, "live")
        self.lines()

    def sleep(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(end_s, self.now_s + 1)
            if self.now_s % 5 == 0:
                for stream, state in self.states.items():
                    self.log.apply(stream, state, self.now_s)
            self.log.tick(self.now_s)

    def lines(self) -> list[str]:
        """Return the lines since the last call, as `LEVEL STREAM: MESSAGE`."""
        found = [
            f"{record.levelname} {getattr(record, 'stream', '-')}: {record.getMessage()}"
            for record in self._caplog.records
        ]
        self._caplog.clear()
        return found


@pytest.fixture
def night(caplog: pytest.LogCaptureFixture) -> Night:
    return Night(caplog)


def test_a_stream_gives_one_line_when_it_is_live_lost_and_back(night: Night) -> None:
    night.status("door", "connecting")
    night.status("door", "live")
    night.sleep(30)
    assert night.lines() == ["INFO door: live (h264, 1920x1080)"]
    night.status("door", "connecting", REFUSED)
    night.status("door", "offline", REFUSED)
    night.status("door", "offline", "rtsp://***@10.0.0.7/live: no answer within 5 s")  # another reason is no news
    night.sleep(50)
    assert night.lines() == [f"WARNING door: lost: {REFUSED}"]
    night.status("door", "live")
    assert night.lines() == ["INFO door: live again after 50 s (h264, 1920x1080)"]


def test_a_stream_that_never_was_live_says_so_once(night: Night) -> None:
    night.status("door", "connecting")
    night.status("door", "connecting", REFUSED)
    night.sleep(4)
    night.status("door", "offline", REFUSED)
    assert night.lines() == [f"WARNING door: not live yet: {REFUSED}"]


def test_a_dead_camera_is_reported_less_and_less_often(night: Night) -> None:
    night.start("door")
    night.status("door", "connecting", REFUSED)
    night.lines()
    night.sleep(60)
    assert night.lines() == [f"WARNING door: still away after 1 min: {REFUSED}"]
    night.sleep(86_400)
    lines = night.lines()
    assert [line.split(": ")[1].partition("after ")[2] for line in lines[:4]] == ["5 min", "15 min", "1 h", "2 h"]
    assert len(lines) == 26


def test_many_cameras_behind_a_dead_switch_share_their_lines(night: Night) -> None:
    cameras = [f"cam-{number:02d}" for number in range(60)]
    night.start(*cameras)
    for camera in cameras:
        night.sleep(1)
        night.status(camera, "connecting", f"rtsp://10.0.0.{camera[4:]}/live: no answer within 5 s")
    night.sleep(30)
    lines = night.lines()
    assert sum(": lost: " in line for line in lines) == 60
    night.sleep(1800)
    reminders = night.lines()
    assert 3 <= len(reminders) <= 8
    assert reminders[0].startswith("WARNING -: 60 streams still away: cam-00 (2 min), cam-01 (")
    assert reminders[0].endswith(") and 48 more")
    assert max(map(len, reminders)) < 400


def test_an_unstable_camera_is_counted_instead_of_logged_each_time(night: Night) -> None:
    night.start("door")
    for _ in range(360):  # an hour: a loss every 10 s
        night.status("door", "connecting", REFUSED)
        night.sleep(2)
        night.status("door", "live")
        night.sleep(8)
    lines = night.lines()
    assert "WARNING door: unstable, 4 times within 30 s lost: " in lines[6]
    assert len(lines) < 12
    assert "still unstable, lost 9 times within 1 min, now " in lines[7]
    night.sleep(700)
    assert night.lines()[-1] == (
        "INFO door: stable again, live for 10 min; before, it was lost 360 times within 59 min 22 s"
    )
    night.status("door", "connecting", REFUSED)
    assert night.lines() == [f"WARNING door: lost: {REFUSED}"]


def test_a_short_stall_is_no_loss_and_a_long_one_is_measured_from_its_last_frame(night: Night) -> None:
    night.start("door")
    night.status("door", "stalled", "no frame for 1.0 s")
    night.sleep(1)
    night.status("door", "live")
    assert night.lines() == []
    night.status("door", "stalled", "no frame for 1.0 s")
    night.sleep(2)
    night.status("door", "offline", "no frame for 3.0 s")
    night.sleep(8)
    night.status("door", "live")
    assert night.lines() == [
        "WARNING door: lost: no frame for 3.0 s",
        "INFO door: live again after 10 s (h264, 1920x1080)",
    ]


def test_a_frozen_camera_is_a_change_of_its_own(night: Night) -> None:
    night.start("door")
    night.status("door", "frozen", "no new image for 30 s, though frames arrive")
    night.sleep(100)
    night.status("door", "live")
    assert night.lines() == [
        "WARNING door: frozen: no new image for 30 s, though frames arrive",
        "WARNING door: still frozen after 1 min: no new image for 30 s, though frames arrive",
        "INFO door: new images again after 1 min 40 s",
    ]


def test_a_restarted_hub_repeats_nothing_about_live_streams(night: Night) -> None:
    night.status("door", "live")  # without `connecting`: another hub has received that
    night.status("yard", "offline", REFUSED)
    assert night.lines() == [f"WARNING yard: not live yet: {REFUSED}"]


def test_a_restarted_capture_process_does_not_end_an_outage(night: Night) -> None:
    night.start("door")
    night.status("door", "offline", "capture process ended (signal 9); starting it again in 0.2 s")
    night.sleep(1)
    night.status("door", "connecting")
    night.sleep(1)
    night.status("door", "live")
    assert night.lines() == [
        "WARNING door: lost: capture process ended (signal 9); starting it again in 0.2 s",
        "INFO door: live again after 2 s (h264, 1920x1080)",
    ]


def test_a_stream_that_has_ended_is_not_reported_as_away(night: Night) -> None:
    night.start("film", "bad", "old")
    night.status("film", "offline", "end of the file", finished=True)
    night.status("bad", "offline", "bad.mp4: not a video")
    night.status("old", "offline", "removed from the configuration")
    night.states.clear()  # their processes have ended
    night.sleep(4000)
    assert night.lines() == [
        "INFO film: ended: end of the file",
        "WARNING bad: lost: bad.mp4: not a video",
        "INFO old: removed from the configuration",
    ]


def test_a_paused_stream_is_no_loss_and_is_logged_once(night: Night) -> None:
    night.start("door")
    night.status("door", "offline", "paused in the configuration (enabled: false)", paused=True)
    night.sleep(7200)
    assert night.lines() == ["INFO door: paused in the configuration (enabled: false)"]
    night.status("door", "connecting")
    night.status("door", "live")
    assert night.lines() == ["INFO door: live (h264, 1920x1080)"]
