"""Corruption lasts until the next key frame; broken frames differ from frames predicted from them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from support.clips import draw, film
from support.rtsp_server import RtspServer

from streamclf.config.stream import StreamConfig
from streamclf.sources import Frame, open_source
from streamclf.sources.corruption import REFRESH_FRAMES, DamageTracker

FILM = film(frames=250, gop=25)


def flags(damage: DamageTracker, *frames: str) -> str:
    """Describe frames: `k` key, `p` predicted, `x` broken, `K` broken key, `!` a loss before the next frame.

    Returns for each frame: `.` intact, `c` corrupt, `b` corrupt and broken.
    """
    found = ""
    for frame in frames:
        if frame == "!":
            damage.add_damage()
            continue
        corrupt, broken = damage.add_frame(is_key=frame in "kK", is_corrupt=frame in "xK")
        assert corrupt or not broken
        found += "b" if broken else "c" if corrupt else "."
    return found


def test_frames_predicted_from_a_broken_one_are_corrupt_until_an_intact_key_frame() -> None:
    assert flags(DamageTracker(), *"kppxppkpp") == "...bcc..."
    assert flags(DamageTracker(), *"kp!ppkp") == "..bc.."


def test_a_damaged_key_frame_does_not_end_corruption() -> None:
    assert flags(DamageTracker(), *"kpxpKppkp") == "..bcbcc.."
    assert flags(DamageTracker(), *"kpxp!kppkp") == "..bcbcc.."


def test_without_key_frames_corruption_ends_after_a_full_refresh() -> None:
    damage = DamageTracker()
    found = flags(damage, *("kx" + "p" * (REFRESH_FRAMES + 5)))
    assert found.count("c") == REFRESH_FRAMES - 1
    assert found.endswith(".....")


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("fault", ["drop", "corrupt"])
def test_every_visibly_wrong_frame_is_marked_corrupt(transport: str, fault: str) -> None:
    """FFmpeg itself marks one frame of a smear that lasts a second, and none if a packet is missing."""
    with RtspServer({"cam": FILM}) as server:
        server.fault("cam", rate=8.0, **{fault: 0.02})
        config = StreamConfig.model_validate({"url": server.url("cam"), "transport": transport})
        with open_source(config) as source:
            frames = list(itertools.islice(source, 240))
    wrong = [frame for frame in frames if error_of(frame) > 8]
    assert wrong, "the test needs visible damage"
    assert all(frame.corrupt for frame in wrong)
    assert sum(frame.corrupt for frame in frames) < 0.8 * len(frames), "key frames end it"
    assert sum(frame.broken for frame in frames) < sum(frame.corrupt for frame in frames)


def error_of(frame: Frame) -> float:
    truth = draw(round(frame.pts_ns / 4e7) % 250, 320, 180)
    return float(np.abs(frame.to_rgb(180, 320).astype(int) - truth).mean())
