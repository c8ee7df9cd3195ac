"""Test the JSON of events: as documented, bounded, and an EventError for anything else."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamclf.errors import EventError
from streamclf.events.kinds import MAX_HEARTBEAT_BYTES
from streamclf.events.types import (
    Action,
    Clip,
    Event,
    Heartbeat,
    Latency,
    Prediction,
    Status,
    Window,
    check_event,
    format_wall_time,
    json_schema,
    parse_event,
    to_json,
    topic_of,
)
from streamclf.events.views import MAX_VIEWS, ActionKey, ViewDescription, ViewKey, action_of, qualified, title, view_of

EPOCH = "9f" * 16
PREDICTION = {
    "v": 1,
    "type": "prediction",
    "stream": "door",
    "epoch": EPOCH,
    "offset": 4711,
    "previous": 4708,
    "time": "2026-01-02T03:04:05.678901Z",
    "window": {"start_s": 12.0, "end_s": 14.5, "frames": 32, "duplicates": 0, "corrupt": 0, "segment": 3},
    "top": [["wave", 0.91], ["still", 0.04]],
    "model": "gestures@1",
    "latency_ms": {"capture_to_publish": 48.1, "encode": 5.2, "classify": 0.7},
}

names = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
labels = st.text(min_size=1, max_size=128).filter(lambda text: text.isprintable())
seconds = st.floats(allow_nan=False, allow_infinity=False)
probabilities = st.floats(0, 1)
counts = st.integers(0, 2**53)
view_names = {"region": st.none() | names, "model_name": st.none() | names}
envelope = {
    "stream": names,
    "epoch": st.from_regex(r"[0-9a-f]{32}", fullmatch=True),
    "offset": st.one_of(st.none(), st.integers(0, 2**62)),
    "previous": st.integers(0, 2**62),
    "time": st.datetimes(
        min_value=datetime(1970, 1, 1), max_value=datetime(9999, 1, 1), timezones=st.just(timezone.utc)
    ),
    "durable": st.booleans(),
}
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        Prediction,
        type=st.just("prediction"),
        v=st.just(1),
        window=st.builds(
            Window, start_s=seconds, end_s=seconds, frames=counts, duplicates=counts, corrupt=counts, segment=counts
        ),
        top=st.lists(st.tuples(labels, probabilities), min_size=1, max_size=5).map(tuple),
        model=st.text(max_size=64).filter(str.isprintable),
        latency_ms=st.builds(Latency, capture_to_publish=st.none() | seconds, encode=seconds, classify=seconds),
        labels=st.none() | st.lists(labels, max_size=3).map(tuple),
        **view_names,
        **envelope,
    ),
    st.builds(
        Action,
        type=st.just("action"),
        v=st.just(1),
        label=labels,
        phase=st.sampled_from(["start", "update", "end"]),
        started_s=seconds,
        at_s=seconds,
        probability=probabilities,
        peak=probabilities,
        segment=counts,
        reason=st.none() | labels,
        **view_names,
        **envelope,
    ),
    st.builds(
        Status,
        type=st.just("status"),
        v=st.just(1),
        state=st.sampled_from(["connecting", "live", "frozen", "stalled", "offline"]),
        reason=st.none() | labels,
        codec=st.none() | st.sampled_from(["h264", "hevc", "mjpeg"]),
        counters=st.dictionaries(st.text("abc_", min_size=1, max_size=20), counts, max_size=5),
        views=st.none()
        | st.lists(
            st.builds(
                ViewDescription,
                area=st.none() | st.tuples(*[probabilities] * 4),
                actions=st.lists(labels, max_size=3).map(tuple),
                **view_names,
            ),
            max_size=3,
        ).map(tuple),
        **envelope,
    ),
    st.builds(
        Clip,
        type=st.just("clip"),
        v=st.just(1),
        label=labels,
        action=st.none() | counts,
        actions=st.lists(counts, max_size=3).map(tuple),
        part=st.integers(1, 9),
        last=st.booleans(),
        began=envelope["time"],
        start_s=seconds,
        end_s=seconds,
        file=st.just("door/2026-01-02/030405-678-wave.mp4"),
        still=st.none() | st.just("door/2026-01-02/030405-678-wave.jpg"),
        bytes=counts,
        probability=probabilities,
        note=st.none() | labels,
        **view_names,
        **envelope,
    ),
)


def test_prediction_is_read_and_written_as_documented() -> None:
    payload = json.dumps(PREDICTION, separators=(",", ":")).encode()
    event = parse_event(payload)
    assert isinstance(event, Prediction)
    assert event.top[0] == ("wave", 0.91)
    assert event.window == Window(start_s=12.0, end_s=14.5, frames=32, duplicates=0, corrupt=0, segment=3)
    assert event.durable
    assert event.raw == payload
    assert to_json(event) == payload


@given(events)
def test_written_event_is_read_back_equal(event: Event) -> None:
    assert parse_event(to_json(event)) == event


@given(st.binary(max_size=200))
def test_random_bytes_give_an_event_error(payload: bytes) -> None:
    with pytest.raises(EventError):
        parse_event(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@given(key=st.sampled_from(sorted(PREDICTION)), value=json_values)
def test_any_value_is_accepted_or_refused_with_its_key(key: str, value: object) -> None:
    try:
        payload = orjson.dumps({**PREDICTION, key: value})
    except (TypeError, orjson.JSONEncodeError):
        return
    try:
        event = parse_event(payload)
    except EventError as error:
        message = str(error)
    else:
        message = key
        assert parse_event(to_json(event)) == event
    assert key in message or key == "type"
    assert len(message) < 700


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"stream": "../../etc/passwd"}, "stream"),
        ({"stream": "door'; DROP TABLE events; --"}, "stream"),
        ({"stream": "door\n"}, "stream"),
        ({"stream": "a" * 65}, "stream"),
        ({"epoch": "Z" * 32}, "epoch"),
        ({"offset": -1}, "offset"),
        ({"offset": 2**63}, "offset"),
        ({"top": []}, "top"),
        ({"top": [["wave", 1.5]]}, "top"),
        ({"top": [["wave", 0.5]] * 65}, "top"),
        ({"v": 2}, "v"),
        ({"time": "yesterday"}, "time"),
        ({"window": None}, "window"),
    ],
)
def test_value_out_of_bounds_is_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(EventError, match=named):
        parse_event(json.dumps({**PREDICTION, **change}).encode())
    with pytest.raises(EventError, match=named):
        check_event({**PREDICTION, **change})


def test_unknown_key_is_ignored_and_kept_in_raw() -> None:
    payload = json.dumps({**PREDICTION, "mood": "good", "_raw": "x"}).encode()
    event = parse_event(payload)
    assert isinstance(event, Prediction)
    assert event.raw == payload


def test_too_large_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(EventError, match=str(MAX_HEARTBEAT_BYTES)):
        parse_event(b" " * (MAX_HEARTBEAT_BYTES + 1))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(EventError):
        parse_event(b'{"type":' + b"[" * 100_000)


def test_heartbeat_with_the_most_streams_fits() -> None:
    last = {f"{i:064d}": 2**62 for i in range(1024)}
    beat = Heartbeat(
        epoch=EPOCH, time=datetime.now(timezone.utc), head=2**62, oldest=1, last=last, replay="tcp://127.0.0.1:5556"
    )
    assert len(to_json(beat)) < MAX_HEARTBEAT_BYTES
    assert parse_event(to_json(beat)) == beat


def test_topics_of_one_stream_do_not_match_another() -> None:
    assert topic_of("prediction", "cam1") == b"prediction/cam1/"
    assert not topic_of("prediction", "cam10").startswith(topic_of("prediction", "cam1"))


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_timestamps_are_exact_to_the_microsecond(time_ns: int) -> None:
    moment = datetime.fromisoformat(format_wall_time(time_ns).replace("Z", "+00:00"))
    whole, micros = divmod(time_ns // 1000, 1_000_000)
    assert (int(moment.replace(microsecond=0).timestamp()), moment.microsecond) == (whole, micros)


def test_schema_names_every_type_of_event() -> None:
    assert set(json_schema()["discriminator"]["mapping"]) == {"prediction", "action", "status", "clip", "heartbeat"}


@pytest.mark.parametrize(
    "path",
    ["../a/b.mp4", "/etc/2026-01-02/a.mp4", "door/2026-01-02/../a.mp4", "door/2026-01-02/.a.mp4", "door/x/a.mp4",
     "door/2026-01-02/a/b.mp4", "door/2026-01-02/a\\b.mp4", "door/2026-01-02/a\n", "C:/2026-01-02/a.mp4", ""],
)  # fmt: skip
def test_the_path_of_a_clip_stays_below_its_folder(path: str) -> None:
    event = {
        "v": 1, "type": "clip", "stream": "door", "epoch": EPOCH, "offset": 9, "previous": 8,
        "time": "2026-01-02T03:04:05.678901Z", "label": "wave", "action": 7, "began": "2026-01-02T03:04:05Z",
        "start_s": 1.0, "end_s": 2.0, "file": "door/2026-01-02/030405-678-wave.mp4", "bytes": 10, "probability": 0.5,
    }  # fmt: skip
    assert isinstance(parse_event(json.dumps(event).encode()), Clip)
    with pytest.raises(EventError, match="file"):
        parse_event(json.dumps({**event, "file": path}).encode())


VIEW = {"region": "gate", "model_name": "hands"}
ACTION = {
    **{key: PREDICTION[key] for key in ("v", "stream", "epoch", "offset", "previous", "time")},
    "type": "action", "label": "wave", "phase": "start", "started_s": 1.0, "at_s": 1.5, "probability": 0.9, "peak": 0.9,
    "segment": 0, "reason": None,
}  # fmt: skip
STATUS = {
    **{key: PREDICTION[key] for key in ("v", "stream", "epoch", "offset", "previous", "time")},
    "type": "status", "state": "live", "reason": None, "codec": "h264", "note": None, "counters": {},
}  # fmt: skip


@pytest.mark.parametrize("event", [PREDICTION, ACTION, STATUS])
def test_events_without_a_view_stay_as_they_are_byte_for_byte(event: dict[str, object]) -> None:
    body = orjson.loads(to_json(parse_event(json.dumps(event).encode())))
    assert body == event
    assert not {"region", "model_name", "labels", "views"} & body.keys()


@pytest.mark.parametrize("event", [PREDICTION, ACTION])
def test_region_and_model_are_read_and_written(event: dict[str, object]) -> None:
    parsed = parse_event(json.dumps(event | VIEW).encode())
    assert isinstance(parsed, Prediction | Action)
    assert view_of(parsed) == ViewKey("gate", "hands")
    assert orjson.loads(to_json(parsed)) == event | VIEW
    if isinstance(parsed, Action):
        assert action_of(parsed) == ActionKey("gate", "hands", "wave")


@pytest.mark.parametrize(
    "name", ["", "a" * 65, "a/b", "gate\n", "#", "+", "..", "ga te", "g\0", "\u202egate", 5, ["gate"], {"a": 1}, True]
)
@pytest.mark.parametrize("key", ["region", "model_name"])
def test_hostile_names_of_views_are_refused(key: str, name: object) -> None:
    for event in (PREDICTION, ACTION, STATUS | {"views": [{"region": "gate"}]}):
        hostile = event | {key: name} if event["type"] != "status" else event | {"views": [{key: name}]}
        with pytest.raises(EventError, match=key):
            parse_event(json.dumps(hostile).encode())
        with pytest.raises(EventError, match=key):
            check_event(hostile)


def test_number_of_views_and_their_areas_are_bounded() -> None:
    for views in (
        [{}] * (MAX_VIEWS + 1),
        [{"area": [0, 0, 1]}],
        [{"area": [0, 0, 1, 1.5]}],
        [{"area": [0, 0, 1, float("nan")]}],
        [{"actions": ["x"] * 65}],
    ):
        with pytest.raises(EventError, match="views"):
            check_event(STATUS | {"views": views})


def test_names_of_views_for_people_are_in_one_order() -> None:
    assert title("Front door", ViewKey()) == "Front door"
    assert title("Front door", ViewKey("gate", "hands")) == "Front door · gate · hands"
    assert qualified(ViewKey(None, "hands"), "wave") == "hands · wave"
    keys = [ViewKey("b", None), ViewKey(None, "x"), ViewKey("a", "x"), ViewKey()]
    assert sorted(keys, key=lambda key: key.sort_key) == [
        ViewKey(),
        ViewKey(None, "x"),
        ViewKey("a", "x"),
        ViewKey("b"),
    ]


@given(
    st.sampled_from(["region", "model_name"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=70) | names,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
        max_leaves=3,
    ),
)
def test_a_draft_with_any_name_of_a_view_is_valid_exactly_if_the_name_is(key: str, value: object) -> None:
    is_valid = value is None or (isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,64}", value) is not None)
    for event in (PREDICTION, ACTION):
        if is_valid:
            check_event(event | {key: value})
        else:
            with pytest.raises(EventError):
                check_event(event | {key: value})
