"""Decoding on a device, tested without one: the CPU replaces a device that fails, with a note and no error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from support.clips import film, read_number, write_clip
from support.rtsp_server import RtspServer

from streamclf.commands import doctor
from streamclf.config.service import parse_config
from streamclf.config.stream import StreamConfig
from streamclf.errors import ConfigError, SourceError
from streamclf.sources import hw_decode, open_source
from streamclf.sources.hw_decode import CPU, DEVICES, DecodeDevice, HardwareError, choose_device, opening_failure
from streamclf.sources.orientation import UPRIGHT
from streamclf.sources.resize import FrameRenderer, OrientedFrame

FRAMES = 50


class Device:
    """A simulated device that opens. PyAV gets settings for a device that lacks the codec, so it decodes on the CPU."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, works: bool = True) -> None:
        self.made: list[str] = []
        monkeypatch.setattr(hw_decode, "opening_failure", lambda device: None if device == "cuda" else "not here")
        monkeypatch.setattr(hw_decode, "make_accelerator", self._make)
        for module in (
            "streamclf.sources.hw_decode",
            "streamclf.sources.av_container",
            "streamclf.sources.av_opening",
            "streamclf.sources.rtsp.decoder",
        ):
            monkeypatch.setattr(f"{module}.uses_hardware", lambda context: works)

    def _make(self, device: str) -> Any:
        from av.codec.hwaccel import HWAccel

        self.made.append(device)
        return HWAccel(device_type="videotoolbox", allow_software_fallback=True)


@pytest.fixture(autouse=True)
def no_failed_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = hw_decode.FailedDevices()
    for module in ("hw_decode", "av_container", "rtsp.decoder"):
        monkeypatch.setattr(f"streamclf.sources.{module}.FAILED_DEVICES", failed)


@pytest.fixture
def nothing_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no device open, even on a machine that has one."""
    monkeypatch.setattr(hw_decode, "opening_failure", lambda device: f"no {device} here")


def numbers(config: StreamConfig) -> tuple[list[int], str | None]:
    with open_source(config) as source:
        seen = [read_number(frame.to_rgb(180, 320)) for frame, _ in zip(source, range(FRAMES), strict=False)]
        return seen, source.info.note


def test_the_default_device_is_the_cpu_without_a_note(clip: Path) -> None:
    assert StreamConfig(url=str(clip)).decode_device == "cpu"
    assert choose_device("cpu") is CPU
    assert numbers(StreamConfig(url=str(clip), pace="fast")) == (list(range(FRAMES)), None)


@pytest.mark.parametrize("device", DEVICES)
def test_probing_a_device_never_raises(device: hw_decode.HardwareDevice) -> None:
    reason = opening_failure(device)
    assert reason is None or reason.startswith(("cannot be opened: ", "not in this FFmpeg"))


def test_pyav_without_hardware_decoding_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def old(device: str) -> Any:
        raise ImportError("No module named 'av.codec.hwaccel'")

    monkeypatch.setattr(hw_decode, "make_accelerator", old)
    assert "has no hardware decoding; pip install 'av>=15'" in str(opening_failure("cuda"))


@pytest.mark.parametrize("decode", ["auto", *DEVICES])
@pytest.mark.usefixtures("nothing_opens")
def test_the_cpu_decodes_with_a_note_if_no_device_opens(clip: Path, decode: str) -> None:
    config = StreamConfig.model_validate({"url": str(clip), "pace": "fast", "decode_device": decode})
    seen, note = numbers(config)
    assert seen == list(range(FRAMES))
    tried = DEVICES if decode == "auto" else (decode,)
    assert note == f"decoded by the CPU ({'; '.join(f'{device}: no {device} here' for device in tried)})"


@pytest.mark.usefixtures("nothing_opens")
@pytest.mark.parametrize("demuxer", ["rtp", "ffmpeg"])
def test_a_camera_stream_has_the_same_note(demuxer: str) -> None:
    with RtspServer({"cam": film(frames=60)}) as server:
        server.fault("cam", rate=4.0)
        keys = {"url": server.url("cam"), "demuxer": demuxer, "decode_device": "cuda"}
        seen, note = numbers(StreamConfig.model_validate(keys))
    assert seen[:5] == list(range(seen[0], seen[0] + 5))
    assert note == "decoded by the CPU (cuda: no cuda here)"


@pytest.mark.parametrize("decode", ["auto", "cuda"])
def test_a_device_that_opens_is_used_and_noted(monkeypatch: pytest.MonkeyPatch, clip: Path, decode: str) -> None:
    device = Device(monkeypatch)
    config = StreamConfig.model_validate({"url": str(clip), "pace": "fast", "decode_device": decode})
    assert numbers(config) == (list(range(FRAMES)), "decoded by cuda")
    assert device.made == ["cuda"]
    with RtspServer({"cam": film(frames=60)}) as server:
        server.fault("cam", rate=4.0)
        _, note = numbers(StreamConfig.model_validate({"url": server.url("cam"), "decode_device": decode}))
    assert note == "decoded by cuda"
    assert device.made == ["cuda"] * 2


def test_the_cpu_decodes_codecs_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch, clip: Path) -> None:
    Device(monkeypatch, works=False)
    config = StreamConfig(url=str(clip), pace="fast", decode_device="cuda")
    assert numbers(config) == (list(range(FRAMES)), "decoded by the CPU (cuda does not decode h264)")


class Broken:
    """A decoder whose device fails at its first `uses` packets."""

    def __init__(self, real: Any, *, uses: int) -> None:
        self._real, self._left = real, uses

    def decode(self, packet: Any) -> Any:
        if self._left:
            self._left -= 1
            raise av.error.ExternalError(5, "the device is gone")
        return self._real.decode(packet)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def test_a_device_that_decodes_nothing_of_a_camera_is_replaced_by_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """No frame is lost, because the key frame is decoded again."""
    Device(monkeypatch)
    created: list[Any] = []
    real = av.CodecContext.create

    class Creator:
        @staticmethod
        def create(codec: str, mode: str, **keys: Any) -> Any:
            created.append(Broken(real(codec, mode), uses=1) if keys else real(codec, mode))
            return created[-1]

    monkeypatch.setattr("streamclf.sources.rtsp.decoder.av.CodecContext", Creator)
    with RtspServer({"cam": film(frames=60)}) as server:
        server.fault("cam", rate=4.0)
        config = StreamConfig(url=server.url("cam"), decode_device="cuda", demuxer="rtp")
        seen, note = numbers(config)
        assert seen[:10] == list(range(10))
        assert "decoded by the CPU (cuda: does not decode this h264" in str(note)
        assert len(created) == 2
        assert "cuda: does not decode" in str(choose_device("cuda").note), "it is not tried again"


def write_with_broken_key_frame(path: Path) -> Path:
    """Write a file whose first key frame cannot be decoded; the next key frame comes ten frames later."""
    write_clip(path, frames=30, gop=10)
    with av.open(str(path)) as container:
        first = bytes(next(container.demux(video=0)))
    at = 0
    while first[at + 4] & 31 != 5:  # each NAL unit follows its length
        at += 4 + int.from_bytes(first[at : at + 4], "big")
    data = path.read_bytes()
    assert data.count(first) == 1
    path.write_bytes(data.replace(first, first[: at + 5] + bytes(len(first) - at - 5)))
    return path


@pytest.mark.parametrize("decode", ["auto", "cuda"])
def test_a_device_that_cannot_decode_a_files_key_frame_is_replaced_by_the_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, decode: str
) -> None:
    """The CPU starts from the beginning, as if there were no device."""
    config = {"url": str(write_with_broken_key_frame(tmp_path / "film.mkv")), "pace": "fast"}
    expected, _ = numbers(StreamConfig.model_validate(config))
    assert expected
    assert expected[-1] == 29
    device = Device(monkeypatch)
    seen, note = numbers(StreamConfig.model_validate({**config, "decode_device": decode}))
    assert seen == expected
    assert str(note).startswith("decoded by the CPU (cuda: ")
    assert "cuda does not decode it: it could not decode a key frame" in str(note)
    assert device.made == ["cuda"]


def test_a_broken_file_fails_on_the_device_only_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that the CPU cannot decode either ends with its own error."""
    Device(monkeypatch)
    monkeypatch.setattr("streamclf.sources.av_container.AvContainer._decoded", lambda self, packet: iter(()))
    path = write_clip(tmp_path / "film.mp4", frames=5)
    with pytest.raises(SourceError, match="no frame could be decoded") as caught:
        numbers(StreamConfig(url=str(path), pace="fast", decode_device="cuda"))
    assert not isinstance(caught.value, HardwareError)


def test_nv12_frames_of_devices_are_rendered_like_the_cpus(clip: Path) -> None:
    """Devices return NV12, which has the same values as the CPU's planes."""
    render = FrameRenderer()
    with av.open(str(clip)) as container:
        frame = next(container.decode(video=0))
    rendered = []
    for one in (frame, frame.reformat(format="nv12")):
        out = np.empty((90, 160, 3), np.uint8)
        render(OrientedFrame(frame=one, orientation=UPRIGHT, width=320, height=180), 90, 160, "stretch", out)
        rendered.append(out)
    assert np.abs(rendered[0].astype(int) - rendered[1]).max() <= 2
    assert read_number(rendered[1], 320, 180) == 0


def test_a_device_is_refused_for_other_sources(tmp_path: Path) -> None:
    raw = {"streams": {"desk": {"camera": 0, "decode_device": "cuda"}}}
    with pytest.raises(ConfigError, match="decode_device: cuda is for files and URLs; leave it out"):
        parse_config(raw, base=tmp_path, origin="x")


def test_doctor_lists_available_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw_decode, "opening_failure", lambda device: None if device == "vaapi" else "not here")
    report = doctor.examine_machine(gpus=list, cameras=list)
    assert report["decoding"]["hardware"] == {"cuda": "not here", "vaapi": None, "videotoolbox": "not here"}
    lines = doctor.format_report(report)
    assert "           vaapi: available" in lines
    assert "           cuda: not here" in lines


def test_the_cpu_has_no_device_and_no_note() -> None:
    assert DecodeDevice() == CPU
    assert (CPU.device, CPU.note) == (None, None)


def test_decoders_on_cuda_share_the_primary_context() -> None:
    assert hw_decode.make_accelerator("cuda").options == {"primary_ctx": "1"}
    assert hw_decode.make_accelerator("vaapi").options == {}
