"""Latency: which frame completes a window, and which predictions are matched with a frame."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import pytest

from streamclf.bench.service.latency import ReceivedPrediction, completing_frame, latencies_ms
from streamclf.windows.sampling import ChunkSampler
from streamclf.windows.time_grid import exact_fps

MS = 1_000_000


@pytest.mark.parametrize(
    ("fps", "model_fps", "frames_per_chunk"),
    [(25, 10, 2), (30, 12.5, 2), (15, 10, 1), (29.97, 8, 4), (10, 10, 1), (60, 25, 2)],
)
def test_the_completing_frame_is_the_one_that_completes_the_window_in_the_sampler(
    fps: float, model_fps: float, frames_per_chunk: int
) -> None:
    """Compare with the service's own sampler: with another frame, the bench would report another latency."""
    rate, model_rate = exact_fps(fps), exact_fps(model_fps)
    sampler = ChunkSampler(model_fps, frames_per_chunk)
    completed = []
    for number in range(200):
        ticks = number * 90_000 * rate.denominator // rate.numerator  # RTP's clock
        pts_ns = round(Fraction(ticks * 1_000_000_000, 90_000))
        placements = sampler.push(pts_ns, 0)
        completed += [(each.chunk.end_pts_ns / 1e9, number) for each in placements if each.chunk is not None]
    assert len(completed) > 10
    for end_s, number in completed:
        assert completing_frame(end_s, model_rate=model_rate, rate=rate) == number


def test_only_predictions_of_the_first_segment_in_the_interval_count() -> None:
    rates = {"model_rate": Fraction(10), "rate": Fraction(25)}
    sent_ns = [1000 * MS + 40 * MS * i for i in range(60)]
    received = [
        # Windows of 0.4 s every 0.2 s, on a clock that begins at 7 s, each 30 ms after its last frame.
        ReceivedPrediction(
            segment=4,
            start_s=7 + 0.2 * i,
            end_s=7.4 + 0.2 * i,
            received_ns=sent_ns[completing_frame(0.4 + 0.2 * i, **rates)] + 30 * MS,
        )
        for i in range(8)
    ]
    later = ReceivedPrediction(segment=5, start_s=9, end_s=9.4, received_ns=received[-1].received_ns)
    since_ns, until_ns = received[2].received_ns, received[6].received_ns
    found = latencies_ms([*received, later], sent_ns, since_ns=since_ns, until_ns=until_ns, **rates)
    assert found == pytest.approx([30.0] * 4)
    sent_ns[completing_frame(1.0, **rates)] = 0  # a frame that the camera dropped
    assert len(latencies_ms(received, sent_ns, since_ns=since_ns, until_ns=until_ns, **rates)) == 3
    assert latencies_ms([], sent_ns, since_ns=0, until_ns=1, **rates) == []


def test_latency_is_known_if_the_first_windows_were_dropped() -> None:
    """Media time must count from the first frame; otherwise nothing is matched, rather than the wrong frame."""
    rates = {"model_rate": Fraction(10), "rate": Fraction(25)}
    sent_ns = [i * 40 * MS for i in range(100)]
    windows = [(i, completing_frame(i / 10 + 1.6, **rates)) for i in range(4, 12)]
    received = [
        ReceivedPrediction(segment=1, start_s=i / 10, end_s=i / 10 + 1.6, received_ns=sent_ns[number] + 50 * MS)
        for i, number in windows
    ]
    found = latencies_ms(received, sent_ns, lost_first=True, since_ns=0, until_ns=1 << 62, **rates)
    assert found == pytest.approx([50.0] * 8)
    for unmatched in (replace(received[0], segment=2), replace(received[0], start_s=0.44)):
        assert latencies_ms([unmatched], sent_ns, lost_first=True, since_ns=0, until_ns=1 << 62, **rates) == []
