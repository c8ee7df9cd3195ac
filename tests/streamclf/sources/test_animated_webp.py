"""An animated WebP image is a video like any other, in serving and in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features
from support.clips import draw, read_number

from streamclf.config.stream import StreamConfig
from streamclf.errors import SourceError
from streamclf.sources import Frame, open_source

pytestmark = pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")
MS = 1_000_000


def animation(path: Path, *, durations: list[int], orientation: int = 1) -> Path:
    first, *others = (Image.fromarray(draw(number, 320, 180)) for number in range(len(durations)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    first.save(path, "WEBP", save_all=True, append_images=others, duration=durations, quality=90, exif=exif)
    return path


def frames_of(path: Path, **keys: object) -> list[Frame]:
    with open_source(StreamConfig.model_validate({"url": str(path), "pace": "fast", **keys})) as source:
        assert not source.live
        return list(source)


def test_frames_come_with_the_times_of_the_animation(tmp_path: Path) -> None:
    frames = frames_of(animation(tmp_path / "a.WEBP", durations=[40, 200, 0, 100]))
    assert [frame.pts_ns // MS for frame in frames] == [0, 40, 240, 340], "a duration of 0 is shown for 100 ms"
    assert [read_number(frame.to_rgb(180, 320)) for frame in frames] == [0, 1, 2, 3]
    assert (frames[0].width, frames[0].height) == (320, 180)


def test_its_orientation_is_applied(tmp_path: Path) -> None:
    (frame, *_) = frames_of(animation(tmp_path / "a.webp", durations=[40, 40], orientation=6))
    assert (frame.width, frame.height) == (180, 320)
    expected = np.rot90(draw(0, 320, 180), 3)
    assert np.abs(frame.to_rgb(320, 180).astype(int) - expected).mean() < 10


def test_a_loop_begins_again_with_a_discontinuity(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp", durations=[40, 40])
    with open_source(StreamConfig(url=str(path), pace="fast", loop=True)) as source:
        frames = [next(source) for _ in range(5)]
    assert [frame.discontinuity for frame in frames] == [False, False, True, False, True]
    assert [frame.pts_ns // MS for frame in frames] == [0, 40, 0, 40, 0]


@pytest.mark.parametrize("share", [0.9, 0.1])
def test_a_cut_animation_is_refused(tmp_path: Path, share: float) -> None:
    path = animation(tmp_path / "a.webp", durations=[40] * 10)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(SourceError, match=r"a\.webp: it is damaged or cut off"):
        frames_of(path)


def test_a_damaged_frame_ends_the_animation_and_is_counted(tmp_path: Path) -> None:
    path = animation(tmp_path / "a.webp", durations=[40] * 10)
    data = bytearray(path.read_bytes())
    frame = [at for at in range(len(data)) if data[at : at + 4] == b"ANMF"][5]
    data[frame + 40 : frame + 60] = bytes(range(20))
    path.write_bytes(data)
    with open_source(StreamConfig(url=str(path), pace="fast")) as source:
        assert len(list(source)) == 5
        assert source.undecodable == 1


def test_a_huge_animation_is_refused_by_its_header(tmp_path: Path) -> None:
    data = bytearray(animation(tmp_path / "a.webp", durations=[40, 40]).read_bytes())
    data[24:30] = (15_999).to_bytes(3, "little") * 2
    (tmp_path / "a.webp").write_bytes(data)
    with pytest.raises(SourceError, match=r"a\.webp: it has over 67 million pixels"):
        frames_of(tmp_path / "a.webp")
