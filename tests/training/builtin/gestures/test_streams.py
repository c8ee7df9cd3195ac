"""Composed streams: the hand comes, draws, and goes, and windows have the label of the shape that has just ended."""

from __future__ import annotations

import numpy as np
import pytest
from support.labelled import draw_clip

from engines.arrays import F32, U8
from training.builtin.gestures.encoded_scenes import EncodedScene
from training.builtin.gestures.stream_maker import UNCLEAR, Event, StreamMaker, is_near_shape, window_labels
from training.builtin.gestures.streams import Footage, Lead, Scene, Trail, compose_scene

LABELS = ("left", "other", "right")
CLIP = Footage(frames=draw_clip("right", 3, frames=20), rate=10, label="right", last=15)


def scene(lead: Lead, trail: Trail, clip: Footage = CLIP) -> Scene:
    return compose_scene(np.random.default_rng(1), clip, 10, lead=lead, trail=trail, before_s=4, after_s=4)


def hand(image: U8) -> float:
    """Return the share of the frame that the bright hand fills."""
    return float((image.min(axis=2) > 200).mean())


def test_shape_is_shown_whole_at_the_reported_frames() -> None:
    composed = scene("enter", "leave")
    assert len(composed.frames) == 100
    assert (composed.first, composed.last) == (40, 55)
    np.testing.assert_array_equal(composed.frames[40:60], CLIP.frames)


@pytest.mark.parametrize("trail", ["leave", "return"])
def test_hand_comes_and_goes(trail: Trail) -> None:
    composed = scene("enter", trail)
    drawn = hand(CLIP.frames[0])
    assert hand(composed.frames[0]) < 0.2 * drawn, "the stream begins with the background"
    assert hand(composed.frames[composed.first - 1]) > 0.8 * drawn, "the hand is there when the shape begins"
    assert hand(composed.frames[-1]) < 0.2 * drawn, "the hand has gone"


def test_hand_rests_before_and_after() -> None:
    composed = scene("rest", "rest")
    for image in (composed.frames[0], composed.frames[-1]):
        assert hand(image) > 0.8 * hand(CLIP.frames[0])
    assert (composed.frames[0] != composed.frames[1]).any(), "a camera has noise"


def test_nothing_surrounds_a_cut() -> None:
    composed = scene("cut", "cut")
    assert (composed.first, len(composed.frames)) == (0, len(CLIP.frames))


def test_hand_rests_where_the_background_is_unknown() -> None:
    frames = np.random.default_rng(2).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    composed = scene("enter", "leave", Footage(frames=frames, rate=10, label="left", last=11))
    assert np.abs(composed.frames[0].astype(int) - frames[0]).mean() < 40, "the first frame is the clip's own"


def test_window_has_the_label_of_the_shape_that_has_just_ended() -> None:
    """Chunks of 0.25 s: not yet, unclear, five chunks with the label after its own, unclear, `other` again."""
    found = window_labels([Event("right", 4, 10)], np.arange(24), 0.25, LABELS)
    names = ["?" if label == UNCLEAR else LABELS[label][0] for label in found]
    assert "".join(names) == "ooooooooo?rrrrrr??oooooo"


def test_label_of_a_shape_wins_over_the_unclear_time_of_the_next() -> None:
    found = window_labels([Event("left", 0, 4), Event("right", 5, 7)], np.arange(10), 0.25, LABELS)
    assert [LABELS[label] for label in found[4:9]] == ["left", "left", "left", "right", "right"]


def test_windows_during_and_after_a_shape_are_near_it() -> None:
    near = is_near_shape([Event("left", 5, 10)], np.arange(40), 0.25)
    assert near.nonzero()[0].tolist() == list(range(5, 27))


def encoded(label: str, value: float) -> EncodedScene:
    """Return a scene whose features beyond the point are `value` in the middle of the shape and 0 around it."""

    def part(chunks: int, filled: float) -> F32:
        return np.tile(np.array([0, 0, 1, filled], np.float32), (chunks, 1))

    around = part(12, 0.0)
    return EncodedScene(
        label=label,
        rate=8.0,
        last=15,
        enter=around,
        rest=part(4, 0.0),
        middle=part(16, value),
        held=part(4, 0.0),
        leave=around,
        back=around,
        whole=part(32, value),
    )


def test_streams_report_where_shapes_end() -> None:
    scenes = {label: [encoded(label, value)] for label, value in (("left", 1.0), ("other", 3.0), ("right", 2.0))}
    maker = StreamMaker(scenes=[scenes], speeds=[(0.8, 1.25)], films=[], points=1, chunk_s=0.25)
    features, events = maker.compose(np.random.default_rng(0), 400)
    assert features.shape == (400, 4)
    assert len(events) > 5
    for event in events:
        value = {"left": 1.0, "right": 2.0}[event.label]
        assert (features[event.first : event.last, 3] == value).all(), "the shape ends in the last chunk or before it"
        assert 6 <= event.last - event.first + 1 <= 11, "two seconds at up to a quarter more or less speed"


def test_no_shape_ends_where_only_its_path_or_only_its_hand_is_shown() -> None:
    """Streams show the path of a shape in ordinary film, and a hand on another path; neither is a shape."""
    scenes = {label: [encoded(label, value)] for label, value in (("left", 2.0), ("other", 3.0), ("right", 2.0))}
    film = np.tile(np.array([90, 90, 1, 7], np.float32), (8, 1))
    maker = StreamMaker(scenes=[scenes], speeds=[(1.0, 1.0)], films=[film], points=1, chunk_s=0.25)
    features, events = maker.compose(np.random.default_rng(0), 2000)
    on_film_path, in_film = features[:, 0] > 45, features[:, 3] == 7
    path_alone, hand_alone = ~on_film_path & in_film, on_film_path & (features[:, 3] == 2)
    assert path_alone.sum() > 50
    assert hand_alone.sum() > 20
    drawn = np.zeros(len(features), bool)
    for event in events:
        drawn[event.first : event.last + 1] = True
    assert not drawn[path_alone | hand_alone].any()


def test_points_of_a_scene_move_together() -> None:
    maker = StreamMaker(scenes=[], speeds=[], films=[], points=2, chunk_s=0.25)
    still = np.zeros((20, 7), np.float32)
    still[:, :2] = [0.0, 1.0]
    moved = maker.moved(np.random.default_rng(4), still)
    assert np.ptp(moved[:, 1] - moved[:, 0]) < 0.25, "the distance of two points stays"
    assert np.abs(moved[:, 0]).mean() > 0.02
    np.testing.assert_array_equal(moved[:, 4:], still[:, 4:])
