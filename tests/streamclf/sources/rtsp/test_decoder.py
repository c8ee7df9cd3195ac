"""Access units into frames, without a network."""

from __future__ import annotations

from support.clips import Film, film

from streamclf.sources.rtsp.access_units import START_CODE, AccessUnit
from streamclf.sources.rtsp.decoder import RtspDecoder
from streamclf.sources.rtsp.media import TrackReceiver
from streamclf.sources.rtsp.sdp import VideoTrack

TRACK = VideoTrack(codec="H264", payload_types=frozenset({96}))


def shaped(sar: str, width: int = 160) -> Film:
    """Ten frames, two of them key frames, with this pixel shape."""
    options = (("preset", "ultrafast"), ("tune", "zerolatency"), ("x264-params", f"sar={sar}"))
    return film(frames=10, width=width, height=90, gop=5, options=options)


def test_frames_have_the_pixel_shape_of_their_key_frame() -> None:
    """The camera's settings change while it plays: first the pixel shape, then the frame size."""
    decoder = RtspDecoder(TrackReceiver(TRACK, reorder_s=0.0), TRACK, shown="cam", held_after_s=1.0)
    sizes = []
    films = [shaped("1/1"), shaped("2/1"), shaped("0/0"), shaped("4/3"), shaped("4/3", width=120), shaped("9/2")]
    for number, unit in enumerate(unit for one in films for unit in one.units):
        data = b"".join(START_CODE + nal for nal in unit)
        sizes += [
            (frame.width, frame.height)
            for to_decode in decoder.units_to_decode(AccessUnit(data, number * 3600, False, 0.0))
            for frame in decoder.decoded(to_decode)
        ]
    expected = [(160, 90), (320, 90), (160, 90), (213, 90), (160, 90), (160, 90)]
    assert sizes == [size for size in expected for _ in range(10)], "an implausible shape counts as square"
    assert decoder.size == (160, 90)
    assert decoder.undecodable == 0
