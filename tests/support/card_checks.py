"""Check pictures and chunks on a GPU; test_card.py runs this where `libcuda.so.1` is built from cuda_driver.c.

The frames are PyAV's own CUDA frames. Only the decoder is missing: decoded frames are moved to the GPU.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import numpy as np
from support.bundles import make_brightness_bundle
from support.card_frames import planes_alive, to_card
from support.classifier_rig import Posted
from support.gpu_pictures import noise
from support.host_device import use_host_devices

from engines.arrays import U8
from engines.bundle import Bundle
from engines.group import GroupOptions
from engines.opening import open_engine
from engines.serving import open_serving
from streamclf.capture.view import ViewSet
from streamclf.classifier.card_memory import CardMemory
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import Feed, ring_slots
from streamclf.config.classify import StreamSettings
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.errors import SourceError
from streamclf.runtime.capture_job import ViewJob
from streamclf.runtime.profiling import open_stages
from streamclf.sources import card_use
from streamclf.sources.card import MAX_CHECKS, CudaCard, enable
from streamclf.sources.card_use import open_card, pictures_scaled
from streamclf.sources.frame import Frame
from streamclf.sources.orientation import UPRIGHT
from streamclf.sources.resize import FrameRenderer, OrientedFrame, Resize
from streamclf.windows.card_channel import make_channel
from streamclf.windows.ring import RingReader, create_ring
from streamclf.windows.sampling import ChunkMeta

DRIVER = ctypes.CDLL("libcuda.so.1")
AREA = PictureArea(region=(0.1, 0.2, 0.9, 0.9), flip="horizontal", rotate=90, mask=(((0, 0), (0.3, 0), (0, 0.3)),))
TARGETS: list[tuple[int, int, Resize, PictureArea]] = [
    (32, 32, "stretch", WHOLE),
    (24, 40, "letterbox", AREA),
    (33, 45, "crop", WHOLE),
]


class Log(logging.Handler):
    """The warnings and notes of this process."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []
        logging.getLogger().addHandler(self)
        logging.getLogger().setLevel(logging.INFO)

    def emit(self, record: logging.LogRecord) -> None:
        if "GPU" in record.getMessage():
            self.lines.append(record.getMessage())

    def take(self, text: str) -> int:
        """Return how many lines contain `text`, and forget all lines."""
        found = sum(text in line for line in self.lines)
        self.lines.clear()
        return found


LOG = Log()


def forget_card() -> None:
    """Let the next picture open the GPU anew."""
    card = card_use._OPENED._card
    if isinstance(card, CudaCard):
        card.close()
    card_use._OPENED = card_use._Opened()  # type: ignore[misc]
    enable()


def oriented(frame: av.VideoFrame) -> OrientedFrame:
    return OrientedFrame(frame, UPRIGHT, frame.width, frame.height)


def rendered(render: FrameRenderer, frame: av.VideoFrame, target: tuple[int, int, Resize, PictureArea]) -> U8:
    height, width, resize, area = target
    out = np.full((height, width, 3), 9, np.uint8)
    render(oriented(frame), height, width, resize, out, area)
    return out


def difference(one: U8, other: U8) -> int:
    return int(np.abs(one.astype(int) - other).max())


def check_pictures() -> None:
    """Pictures are those of the host; whole ones leave the GPU only to be compared."""
    on_host, on_card = FrameRenderer(), FrameRenderer()
    for form in ("nv12", "p010le"):
        host = noise(form, 320, 240)
        for target in TARGETS:
            assert difference(rendered(on_card, to_card(host, form), target), rendered(on_host, host, target)) <= 1
        planes, scaled = DRIVER.whole_planes(), pictures_scaled()
        for target in TARGETS:
            assert difference(rendered(on_card, to_card(host, form), target), rendered(on_host, host, target)) <= 1
        assert DRIVER.whole_planes() == planes, "a whole picture was copied to the host"
        assert pictures_scaled() == scaled + len(TARGETS)
    gc.collect()
    assert planes_alive() == 0, "pictures of the decoder are kept"
    assert not LOG.lines, LOG.lines


def check_grey_pictures_first() -> None:
    """A camera may begin with pictures without colour, which do not show where colour is placed."""
    on_host, on_card, target = FrameRenderer(), FrameRenderer(), (16, 16, "stretch", WHOLE)
    grey = noise("nv12", 160, 120)
    np.frombuffer(grey.planes[1], np.uint8)[:] = 128
    for _ in range(3):
        rendered(on_card, to_card(grey), target)  # type: ignore[arg-type]
    host = noise("nv12", 160, 120)
    for _ in range(2):
        found = rendered(on_card, to_card(host), target)  # type: ignore[arg-type]
        assert difference(found, rendered(on_host, host, target)) <= 1  # type: ignore[arg-type]


def check_a_format_that_the_kernel_lacks() -> None:
    on_host, on_card, host = FrameRenderer(), FrameRenderer(), noise("p010le", 160, 120)
    wide = host.reformat(format="p016le")
    for _ in range(2):
        found = rendered(on_card, to_card(wide, "p016le"), TARGETS[0])
        assert difference(found, rendered(on_host, wide, TARGETS[0])) == 0
    assert LOG.take("pictures in the format p016le are scaled on the host") == 1


def check_a_kernel_with_other_results() -> None:
    """A GPU whose kernel computes something else must not change predictions."""
    card = open_card()
    assert isinstance(card, CudaCard)
    right = card.cuda.scale_picture

    def wrong(to: int, picture: Any, stream: Any) -> None:
        right(to, picture, stream)
        ctypes.memset(to, 0, 3)

    card.cuda.scale_picture = wrong  # type: ignore[method-assign]
    on_host, on_card, host = FrameRenderer(), FrameRenderer(), noise("nv12", 200, 120)
    for _ in range(3):
        found = rendered(on_card, to_card(host), TARGETS[0])
        assert difference(found, rendered(on_host, host, TARGETS[0])) == 0
    assert LOG.take("pictures of 200x120 are scaled to 32x32 on the host: the GPU's result differs") == 1
    del card.cuda.scale_picture


def check_a_gpu_that_fails() -> None:
    card = open_card()
    assert isinstance(card, CudaCard)
    on_host, on_card, host = FrameRenderer(), FrameRenderer(), noise("nv12", 320, 240)
    rendered(on_card, to_card(host), TARGETS[0])
    finish = card.cuda.finish

    def fail(stream: Any) -> None:
        raise RuntimeError("the GPU reports: an illegal address")

    card.cuda.finish = fail  # type: ignore[method-assign]
    for _ in range(2):
        assert difference(rendered(on_card, to_card(host), TARGETS[0]), rendered(on_host, host, TARGETS[0])) == 0
    assert LOG.take("because the GPU fails: the GPU reports: an illegal address") == 1
    card.cuda.finish = finish  # type: ignore[method-assign]
    forget_card()


class Rig:
    """One stream: its capture side, whose frames are on the GPU where `on_card` says so, and its classifier."""

    def __init__(self, bundle: Bundle, *, motion_gate: float = 0.0, compares: bool = False, slots: int = 0) -> None:
        self.bundle, self.spec = bundle, bundle.spec
        self.ring = create_ring(slots or ring_slots(self.spec), self.spec.chunk_shape)
        self.wake = os.pipe()
        for fd in self.wake:
            os.set_blocking(fd, False)
        self.channel = make_channel()
        self.settings = StreamSettings(motion_gate=motion_gate)
        self.render = FrameRenderer()
        self.compared: list[U8] = []
        self.start_capture(compares=compares)
        self.index = 0

    def start_capture(self, *, compares: bool = False) -> None:
        job = ViewJob(
            view="classifier",
            fps=self.spec.fps,
            frames_per_chunk=self.spec.frames_per_chunk,
            height=self.spec.height,
            width=self.spec.width,
            resize="stretch",
            ring_fd=os.dup(self.ring),
            wake_fd=os.dup(self.wake[1]),
            card_fd=os.dup(self.channel[1]),
        )
        stages, stop = open_stages("test"), threading.Event()
        self.views = ViewSet([job], "yard", stop, stages, self._compare, wants_pixels=compares)
        (self.view,) = self.views

    def start_classifier(self, *, resumed: bool = False, backend: str = "tensorrt") -> None:
        options = GroupOptions(backend=backend, precision="fp32", max_batch=4, bank_slots=40)  # type: ignore[arg-type]
        self.producer = Posted()
        self.reader = RingReader(self.ring)
        self.feed = Feed(
            stream="yard",
            reader=self.reader,
            wake_fd=self.wake[0],
            spec=self.spec,
            settings=self.settings,
            index=0,
            resumed=resumed,
            card=CardMemory(os.dup(self.channel[0]), self.reader.slots, "yard"),
        )
        self.classifier = Classifier(open_serving({"": self.bundle}, options), [self.feed], self.producer)  # type: ignore[arg-type]

    def stop_classifier(self) -> None:
        self.classifier.close()
        assert self.feed.card is not None
        self.feed.card._channel.close()

    def play(self, frames: int, on_card: Callable[[int], bool] | None = None) -> None:
        """Show frames of another brightness each, and classify what they complete."""
        for _ in range(frames):
            picture = noise("nv12", 160, 120)
            level = 20 + self.index * 37 % 200
            np.frombuffer(picture.planes[0], np.uint8)[:] = level
            np.frombuffer(picture.planes[1], np.uint8)[:] = 128
            image = oriented(to_card(picture) if on_card is None or on_card(self.index) else picture)
            frame = Frame(
                index=self.index,
                pts_ns=self.index * 100_000_000,
                captured_ns=self.index,
                width=160,
                height=120,
                image=image,
                render=self.render,
            )
            self.views_add(frame)
            self.index += 1
            if self.feed.card is not None:
                self.feed.card.answer()
            while self.classifier.step():
                pass
        self.classifier.publish_submitted()

    def views_add(self, frame: Frame) -> None:
        for view in self.views:
            view.add(frame)

    @property
    def predictions(self) -> list[float]:
        return [body["top"][0][1] if "top" in body else 0.0 for body in self.producer.of("yard")]

    def close(self) -> None:
        self.stop_classifier()
        self.view.close()
        for fd in (self.ring, *self.wake, *self.channel):
            os.close(fd)

    def _compare(self, chunk: Any, pixels: U8) -> None:
        self.compared.append(pixels.copy())


@contextmanager
def rigged(bundle: Bundle, **options: Any) -> Iterator[Rig]:
    """Yield a rig, and check that it leaves nothing behind."""
    rig = Rig(bundle, **options)
    rig.start_classifier()
    assert rig.feed.card is not None
    rig.feed.card.answer()
    yield rig
    rig.close()
    del rig
    gc.collect()
    assert planes_alive() == 0
    forget_card()
    assert DRIVER.live_allocations() == 0, DRIVER.live_allocations()


def check_chunks(bundle: Bundle) -> None:
    """Chunks on the GPU give the predictions of chunks on the host, in any order of both."""
    expected: list[float] = []
    for on_card in (never, always, lambda index: index % 3 > 0, lambda index: index // 8 % 2 == 0):
        with rigged(bundle) as rig:
            rig.play(60, on_card)
            assert not +rig.feed.drops, rig.feed.drops
            if not expected:
                expected = rig.predictions
                assert len(expected) > 20
            np.testing.assert_allclose(rig.predictions, expected, atol=0.02)
            chunks = rig.views.counters["gpu_chunks"]
            assert chunks == {never: 0, always: 30}.get(on_card, chunks)
            assert 0 < chunks < 30 or on_card in (never, always)
    assert not LOG.take("host")


def check_that_no_picture_of_a_chunk_leaves_the_gpu(bundle: Bundle) -> None:
    with rigged(bundle) as rig:
        rig.play(MAX_CHECKS)  # grey pictures, which do not show where colour is placed
        planes = DRIVER.whole_planes()
        rig.play(20)
        assert DRIVER.whole_planes() == planes
        assert pictures_scaled() == 0


def check_pixels_for_comparison(bundle: Bundle) -> None:
    """The detector of frozen pictures gets the pixels of chunks that stay on the GPU."""
    pixels = []
    for on_card in (never, always):
        with rigged(bundle, compares=True) as rig:
            rig.play(20, on_card)
            assert rig.views.counters["gpu_chunks"] == (10 if on_card is always else 0)
            pixels.append(np.stack(rig.compared))
    assert difference(*pixels) <= 1


def check_restarts(bundle: Bundle) -> None:
    """A new capture process gets the memory again, and a new classifier shares its own."""
    with rigged(bundle) as rig:
        rig.play(20)
        assert rig.views.counters["gpu_chunks"] == 10
        rig.view.close()  # a crash also ends its mapping and its channel
        rig.start_capture()
        assert rig.feed.card is not None
        rig.feed.card.answer()
        rig.play(20)
        assert rig.views.counters["gpu_chunks"] == 10
        before = len(rig.predictions)
        rig.stop_classifier()
        rig.start_classifier(resumed=True)
        rig.play(20)
        assert rig.views.counters["gpu_chunks"] == 20
        assert rig.feed.drops["overrun"] <= 1, rig.feed.drops  # a chunk in the memory of the classifier before
        assert before > 10
        assert len(rig.predictions) >= 5


def check_settings_that_need_the_host(bundle: Bundle) -> None:
    """A motion gate compares pixels on the host, and other backends have no GPU; the pictures come scaled."""
    with rigged(bundle, motion_gate=1.0) as rig:
        rig.play(20)
        assert rig.views.counters["gpu_chunks"] == 0
        assert pictures_scaled() == 20
        rig.feed.configure(StreamSettings())
        rig.play(20)
        assert rig.views.counters["gpu_chunks"] == 10
        rig.feed.configure(StreamSettings(motion_gate=1.0))
        rig.play(20)
        assert rig.views.counters["gpu_chunks"] in (10, 11)
        assert len(rig.predictions) > 20
    rig = Rig(bundle)
    rig.start_classifier(backend="onnxruntime")
    rig.play(20)
    assert rig.views.counters["gpu_chunks"] == 0
    assert pictures_scaled() == 20
    assert len(rig.predictions) == 7
    rig.close()
    del rig
    forget_card()
    assert not LOG.take("host")


def check_another_gpu(bundle: Bundle) -> None:
    """Chunks cannot stay on a GPU that is not the engine's."""
    rig = Rig(bundle)
    rig.start_classifier()
    assert rig.feed.card is not None
    rig.feed.card._offer = dataclasses.replace(rig.feed.card._offer, gpu="0000:99:00.0")
    rig.feed.card.answer()
    rig.play(20)
    assert rig.views.counters["gpu_chunks"] == 0
    assert pictures_scaled() == 20
    rig.close()
    del rig
    forget_card()
    assert LOG.take("the camera is decoded on GPU 0000:00:00.0, not on 0000:99:00.0") == 1


def check_a_chunk_that_is_written_while_it_is_copied(bundle: Bundle) -> None:
    """The classifier finds out by the slot's sequence number, and drops the chunk."""
    with rigged(bundle) as rig:
        rig.play(20)
        fetch = rig.classifier.group.fetch
        torn: list[int] = []

        def fetch_too_late(memory: Any, slot: int, row: int) -> None:
            fetch(memory, slot, row)
            if not torn:
                torn.append(slot)
                for _ in range(rig.reader.slots):
                    rig.view._ring.begin()
                    rig.view._ring.commit(META)

        rig.classifier.group.fetch = fetch_too_late  # type: ignore[method-assign]
        rig.play(4)
        assert torn
        assert rig.feed.drops["overrun"] >= 1


def check_a_gpu_that_fails_in_a_chunk(bundle: Bundle) -> None:
    """The error names the GPU, and after a new connection the stream continues on the host."""
    rig = Rig(bundle)
    rig.start_classifier()
    assert rig.feed.card is not None
    rig.feed.card.answer()
    rig.play(21)
    card = open_card()
    assert isinstance(card, CudaCard)
    scale, card.cuda.scale_picture = card.cuda.scale_picture, failing  # type: ignore[method-assign]
    try:
        rig.play(2)
    except SourceError as error:
        assert "the GPU failed while it held the pictures of a chunk" in str(error)  # noqa: PT017
    else:
        raise AssertionError("a chunk with missing pictures was published")
    card.cuda.scale_picture = scale  # type: ignore[method-assign]
    rig.view.connect()
    chunks = rig.views.counters["gpu_chunks"]
    rig.play(20)
    assert rig.views.counters["gpu_chunks"] == chunks
    assert len(rig.predictions) > 8
    rig.close()
    del rig
    forget_card()
    assert LOG.take("because the GPU fails") == 1


def never(index: int) -> bool:
    return False


def always(index: int) -> bool:
    return True


def failing(*_: Any) -> None:
    raise RuntimeError("the GPU reports: an illegal address")


META = ChunkMeta(segment=9, index=0, start_pts_ns=0, end_pts_ns=1, captured_ns=1, frames=2, duplicates=0, corrupt=0)


if __name__ == "__main__":
    use_host_devices()
    enable()
    check_pictures()
    check_grey_pictures_first()
    check_a_format_that_the_kernel_lacks()
    check_a_kernel_with_other_results()
    check_a_gpu_that_fails()
    brightness = make_brightness_bundle(Path(sys.argv[1]) / "bundle")
    open_engine(
        brightness, backend="tensorrt", precision="fp32", max_batch=4, bank_slots=40
    ).close()  # builds the plans
    check_chunks(brightness)
    check_that_no_picture_of_a_chunk_leaves_the_gpu(brightness)
    check_pixels_for_comparison(brightness)
    check_restarts(brightness)
    check_settings_that_need_the_host(brightness)
    check_another_gpu(brightness)
    check_a_chunk_that_is_written_while_it_is_copied(brightness)
    check_a_gpu_that_fails_in_a_chunk(brightness)
    print("all checks passed")
