"""Events become the messages and descriptions that Home Assistant needs. An old event does not switch an entity on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from support.clip_events import CLIP_STEM, clip_event, store_picture

from streamclf.clips.links import linked_path
from streamclf.config.picture_keys import PictureKeys
from streamclf.errors import UsageError
from streamclf.events.types import Action, Lost, Prediction, Status, Window
from streamclf.events.views import MAX_VIEWS, ViewDescription
from streamclf.net.signer import Signer
from streamclf.subscribers.clip_pictures import ClipPictures
from streamclf.subscribers.mqtt.home_assistant import (
    AWAY_S,
    MAX_LABELS,
    MAX_STREAMS,
    STALE_S,
    Topics,
)
from streamclf.subscribers.mqtt.message import MqttMessage
from streamclf.subscribers.mqtt.view_topics import slug
from streamclf.subscribers.outlet_report import OutletReport

EPOCH = "9f" * 16
NOW = datetime(2026, 1, 31, 12, 0, 0, tzinfo=timezone.utc)


def action(phase: Any, label: str = "wave", stream: str = "door", offset: int = 7, **view: Any) -> Action:
    return Action(
        stream=stream, epoch=EPOCH, offset=offset, previous=0, time=NOW, label=label, phase=phase,
        started_s=1.0, at_s=2.0, probability=0.9, peak=0.95, **view,
    )  # fmt: skip


def prediction(label: str, stream: str = "door", **more: Any) -> Prediction:
    return Prediction(
        stream=stream, epoch=EPOCH, offset=8, previous=7, time=NOW, model="gestures@1",
        window=Window(start_s=1.0, end_s=3.5, frames=32), top=((label, 0.91), ("still", 0.04)), **more,
    )  # fmt: skip


def status(state: Any, stream: str = "door", **more: Any) -> Status:
    return Status(**{"stream": stream, "epoch": EPOCH, "offset": 9, "previous": 8, "time": NOW, "state": state} | more)


def messages(topics: Topics, *items: Any, age_s: float = 0.0) -> list[tuple[str, str, bool]]:
    found = [m for item in items for m in topics.messages(item, age_s)]
    return [(m.topic, m.payload.decode(), m.retain) for m in found if not m.topic.startswith("homeassistant/")]


def configs(found: Iterable[MqttMessage]) -> dict[str, dict[str, Any]]:
    """Return the payloads of discovery by topic, without `homeassistant/` and `/config`."""
    return {
        m.topic.removeprefix("homeassistant/").removesuffix("/config"): json.loads(m.payload)
        for m in found
        if m.topic.startswith("homeassistant/") and m.retain
    }


def test_every_configured_action_is_described_before_it_happens() -> None:
    topics = Topics("streamclf", memory={})
    found = list(topics.messages(status("live", name="Front door", actions=("wave", "covered")), 0.0))
    described = configs(found)
    assert set(described) == {
        "sensor/streamclf_door/label",
        "binary_sensor/streamclf_door/connectivity",
        "binary_sensor/streamclf_door/active_wave",
        "binary_sensor/streamclf_door/active_covered",
        "event/streamclf_door/action",
    }
    states = {m.topic: m.payload.decode() for m in found if not m.topic.startswith("homeassistant/") and m.retain}
    assert states == {
        "streamclf/door/active/wave": '{"state":"OFF","label":"wave"}',
        "streamclf/door/active/covered": '{"state":"OFF","label":"covered"}',
        "streamclf/door/availability": "online",
    }
    for each in described.values():
        assert each["device"]["name"] == "Front door"
        assert each["device"]["identifiers"] == ["streamclf_door"]
        assert each["icon"].startswith("mdi:")
    covered = described["binary_sensor/streamclf_door/active_covered"]
    assert (covered["device_class"], covered["unique_id"]) == ("tamper", "streamclf_door_active_covered")
    assert "device_class" not in described["binary_sensor/streamclf_door/active_wave"]
    both = [{"topic": "streamclf/status"}, {"topic": "streamclf/door/availability"}]
    assert covered["availability"] == described["event/streamclf_door/action"]["availability"] == both
    connectivity = described["binary_sensor/streamclf_door/connectivity"]
    assert connectivity["availability"] == both[:1]
    assert connectivity["state_topic"] == "streamclf/door/availability"
    assert described["event/streamclf_door/action"]["event_types"] == ["wave", "covered"]
    # Nothing is published again without a change.
    assert configs(topics.messages(status("live", name="Front door", actions=("wave", "covered")), 0.0)) == {}
    renamed = configs(topics.messages(status("live", name="Back", actions=("wave", "covered")), 0.0))
    assert {each["device"]["name"] for each in renamed.values()} == {"Back"}
    quiet = Topics("streamclf", discovery=False, memory={})
    assert configs(quiet.messages(status("live", actions=("wave",)), 0.0)) == {}


def test_an_event_entity_gets_starts_and_ends_as_they_happen() -> None:
    topics = Topics("streamclf", memory={})
    messages(topics, status("live", actions=("wave",)))
    found = [m for phase in ("start", "update", "end") for m in topics.messages(action(phase), 0.0)]
    events = [json.loads(m.payload) for m in found if m.topic == "streamclf/door/event" and not m.retain]
    assert [(each["event_type"], each["phase"], each["probability"]) for each in events] == [
        ("wave", "start", 0.9),
        ("wave", "end", 0.9),
    ]
    assert not [m for m in topics.messages(action("start"), STALE_S + 1) if m.topic == "streamclf/door/event"]


def test_an_action_that_is_no_longer_configured_loses_its_retained_messages() -> None:
    topics = Topics("streamclf", memory={})
    messages(topics, status("live", actions=("wave", "a/b")))
    assert topics.obsolete.messages() == []
    later = configs(topics.messages(status("live", actions=("wave",)), 0.0))
    assert later["event/streamclf_door/action"]["event_types"] == ["wave"]
    gone = {m.topic: (m.payload, m.retain) for m in topics.obsolete.messages()}
    assert gone == {
        f"streamclf/door/active/{slug('a/b')}": (b"", True),
        f"homeassistant/binary_sensor/streamclf_door/active_{slug('a/b')}/config": (b"", True),
    }
    # Its last event, and one of a label that is not listed, make no entity.
    topics.obsolete.confirm()
    assert [topic for topic, *_ in messages(topics, action("end", "a/b"))] == ["streamclf/door/action"]
    assert topics.obsolete.messages() == []
    messages(topics, status("live", actions=("wave", "a/b")))
    assert topics.obsolete.messages() == []
    messages(topics, status("live", actions=()))
    assert "homeassistant/event/streamclf_door/action/config" in {m.topic for m in topics.obsolete.messages()}


def test_a_stream_that_is_no_longer_configured_loses_its_retained_messages() -> None:
    topics = Topics("streamclf", memory={})
    retained = {m.topic for m in topics.messages(status("live", actions=("wave",)), 0.0) if m.retain}
    retained |= {m.topic for m in topics.messages(prediction("wave"), 0.0) if m.retain}
    kept = json.loads(json.dumps(topics.memory()))
    for earlier in (topics, Topics("streamclf", memory=kept)):  # also if the outlet did not run meanwhile
        earlier.configure(["yard"], NOW + timedelta(seconds=1))
        assert {m.topic for m in earlier.obsolete.messages()} == retained
        assert earlier.memory()["streams"] == {}
        # Another process continues if this one is killed before the broker has confirmed.
        again = Topics("streamclf", memory=json.loads(json.dumps(earlier.memory())))
        assert {m.topic for m in again.obsolete.messages()} == retained
        earlier.obsolete.confirm()
        # Late events of the removed stream describe nothing, and do not remove the topics again and again.
        late = status("offline", time=NOW + timedelta(seconds=2))
        assert messages(earlier, late, prediction("wave")) == []
        assert earlier.obsolete.messages() == []
    # So does an outlet that is to publish other streams from now on.
    other = Topics("streamclf", streams=("yard",), memory=kept)
    other.configure(["yard", "door"], NOW)
    assert {m.topic for m in other.obsolete.messages()} == retained
    # A process without the memory removes what the journal's events show.
    fresh = Topics("streamclf", memory={})
    fresh.configure(["yard"], NOW + timedelta(seconds=1))
    assert messages(fresh, status("live", actions=("wave",))) == []
    assert {m.topic for m in fresh.obsolete.messages()} >= retained
    # The stream is configured again: its status is newer than the heartbeat that did not list it.
    fresh.obsolete.confirm()
    back = status("live", actions=("wave",), time=NOW + timedelta(seconds=3))
    assert "streamclf/door/availability" in {topic for topic, *_ in messages(fresh, back)}
    fresh.configure(["yard"], NOW + timedelta(seconds=2))  # an older heartbeat that is handled after it
    assert fresh.obsolete.messages() == []
    fresh.configure(["yard", "door"], NOW + timedelta(seconds=4))
    assert fresh.obsolete.messages() == []


def test_other_options_remove_what_the_former_ones_published() -> None:
    first = Topics("old", memory={})
    retained = {m.topic for m in first.messages(status("live", actions=("wave",)), 0.0) if m.retain}
    kept = json.loads(json.dumps(first.memory()))
    assert {m.topic for m in Topics("new", memory=kept).obsolete.messages()} >= retained | {"old/status"}
    without = {m.topic for m in Topics("old", discovery=False, memory=kept).obsolete.messages()}
    assert without == {topic for topic in retained if topic.startswith("homeassistant/")}
    for wrong in ({"prefix": 3}, {"discovery": "x"}, {"obsolete": [3]}, {"obsolete": 1}):
        with pytest.raises(UsageError, match="remove the file"):
            Topics("old", memory=kept | wrong)


def test_a_stream_that_is_soon_live_again_stays_available() -> None:
    topics = Topics("streamclf", memory={})
    topic = "streamclf/door/availability"
    assert messages(topics, status("live")) == [(topic, "online", True)]
    for state in ("stalled", "connecting", "offline"):
        assert messages(topics, status(state)) == []
    assert topics.overdue(100.0) == topics.overdue(100.0 + AWAY_S - 0.1) == []
    assert messages(topics, status("live")) == []
    assert topics.overdue(200.0) == []
    messages(topics, status("stalled"))
    assert topics.overdue(300.0) == []
    assert [(m.topic, m.payload, m.retain) for m in topics.overdue(300.0 + AWAY_S)] == [(topic, b"offline", True)]
    assert topics.overdue(301.0 + AWAY_S) == []
    assert messages(topics, status("live")) == [(topic, "online", True)]


def test_labels_are_published_when_they_change_and_actions_when_they_start_and_end() -> None:
    topics = Topics("home/cams", memory={})
    found = messages(
        topics, prediction("wave"), prediction("wave"), prediction("still"), action("start"), action("update")
    )
    assert [(topic, retain) for topic, _, retain in found] == [
        ("home/cams/door/availability", True),
        ("home/cams/door/label", True),
        ("home/cams/door/label", True),
        ("home/cams/door/action", False),
        ("home/cams/door/event", False),
        ("home/cams/door/active/wave", True),
    ]
    assert json.loads(found[1][1]) == {
        "label": "wave", "probability": 0.91, "model": "gestures@1",
        "time": "2026-01-31T12:00:00.000000Z", "epoch": EPOCH, "offset": 8,
    }  # fmt: skip
    assert json.loads(found[5][1])["state"] == "ON"
    off = messages(topics, action("end"))
    assert [json.loads(payload).get("state") for _, payload, _ in off] == [None, None, "OFF"]
    assert messages(topics, status("live")) == []  # its prediction has shown that it is live
    every = Topics("streamclf", types=("prediction", "action", "status"), updates=True, memory={})
    assert [topic for topic, _, _ in messages(every, prediction("wave"), action("update"), status("live"))] == [
        "streamclf/door/prediction", "streamclf/door/availability", "streamclf/door/label",
        "streamclf/door/action", "streamclf/door/active/wave", "streamclf/door/status",
    ]  # fmt: skip


def test_an_old_start_does_not_switch_on_but_an_old_end_switches_off() -> None:
    topics = Topics("streamclf", memory={})
    old = STALE_S + 1
    assert [topic for topic, _, _ in messages(topics, action("start"), prediction("wave"), age_s=old)] == [
        "streamclf/door/action"
    ]
    # The action goes on: its next update, at most a second old, switches it on.
    assert json.loads(messages(topics, action("update"))[0][1])["state"] == "ON"
    assert [json.loads(p).get("state") for _, p, _ in messages(topics, action("end"), age_s=old)] == [None, "OFF"]


def test_another_node_of_the_fleet_ends_the_actions_of_the_one_before() -> None:
    topics = Topics("streamclf", memory={}, types=("action",))
    messages(topics, status("live", actions=("wave",), lease=3), action("start", lease=3))
    again = Topics("streamclf", memory=topics.memory(), types=("action",))
    for each in (topics, again):
        moved = messages(each, prediction("still", lease=5))
        assert json.loads({topic: text for topic, text, _ in moved}["streamclf/door/active/wave"])["state"] == "OFF"
        # The journal of the lost node is read later: its events are passed on, and change no state.
        for phase in ("start", "update", "end"):
            late = messages(each, action(phase, lease=3))
            assert [topic for topic, _, _ in late if topic != "streamclf/door/action"] == []
        assert any(topic.endswith("active/wave") for topic, _, _ in messages(each, action("start", lease=5)))


def test_another_process_continues_from_the_memory() -> None:
    first = Topics("streamclf", memory={})
    messages(first, status("live"), prediction("wave"), action("start"))
    kept = json.loads(json.dumps(first.memory()))
    second = Topics("streamclf", memory=kept)
    assert messages(second, prediction("wave"), action("update")) == [("streamclf/door/availability", "online", True)]
    described = {m.topic for m in second.retained()}
    assert "homeassistant/binary_sensor/streamclf_door/active_wave/config" in described
    # The broker may have lost everything, and only the first process knew the full messages: publish both again.
    assert [topic for topic, _, _ in messages(second, prediction("wave"), action("update"))] == [
        "streamclf/door/label",
        "streamclf/door/active/wave",
    ]
    messages(first, action("end"))
    third = Topics("streamclf", memory=first.memory())
    assert {"state": "OFF", "label": "wave"} in [json.loads(m.payload) for m in third.retained()]
    messages(first, action("start"))
    again = {m.topic: m.payload for m in first.retained()}
    assert json.loads(again["streamclf/door/active/wave"])["state"] == "ON"
    with pytest.raises(UsageError, match="remove the file to start anew"):
        Topics("streamclf", memory={"streams": {"door": 3}})


def test_labels_that_cannot_be_topics_stay_different() -> None:
    assert slug("wave") == "wave"
    names = ["a/b", "a b", "a+b", "a#b", "é", "\0", "x" * 128, "x" * 127]
    found = [slug(name) for name in names]
    assert len(set(found)) == len(names)
    assert all(
        each.replace("_", "").replace("-", "").isalnum() and each.isascii() and len(each) <= 64 for each in found
    )
    for prefix in ("", "a/", "/a", "a//b", "#", "a b", "$SYS", "a/b/c/d/e"):
        with pytest.raises(UsageError, match="prefix"):
            Topics(prefix, memory={})


def test_streams_and_labels_beyond_the_limits_have_no_entity_but_their_actions_are_published() -> None:
    topics = Topics("streamclf", memory={})
    for number in range(MAX_LABELS + 3):
        assert messages(topics, action("start", f"label{number}"))[0][0] == "streamclf/door/action"
    assert topics.unlisted == 3
    for number in range(MAX_STREAMS):
        assert messages(topics, action("start", stream=f"cam{number}"))[0][0] == f"streamclf/cam{number}/action"
    assert topics.unlisted == 4
    assert len(topics.memory()["streams"]) == MAX_STREAMS


def test_a_lost_range_is_published() -> None:
    ((topic, payload, retain),) = messages(Topics("streamclf", memory={}), Lost(epoch=EPOCH, first=3, last=None))
    assert (topic, retain) == ("streamclf/lost", False)
    assert json.loads(payload) == {"type": "lost", "epoch": EPOCH, "first": 3, "last": None}


def with_pictures(folder: Path, memory: dict[str, Any] | None = None, **keys: Any) -> Topics:
    pictures = ClipPictures(PictureKeys(clips=folder, **keys), OutletReport("mqtt"))
    return Topics("streamclf", memory=memory or {}, pictures=pictures)


def test_the_picture_of_the_latest_clip_is_an_image_entity(tmp_path: Path) -> None:
    topics = with_pictures(tmp_path)
    described = configs(topics.messages(status("live", name="Front door", actions=("wave",)), 0.0))
    image = described["image/streamclf_door/picture"]
    assert image["image_topic"] == "streamclf/door/picture"
    assert image["content_type"] == "image/jpeg"
    assert image["json_attributes_topic"] == "streamclf/door/picture/about"
    assert image["unique_id"] == "streamclf_door_picture"
    assert image["device"]["name"] == "Front door"
    assert image["availability"] == [{"topic": "streamclf/status"}]  # it stays while the stream is offline
    picture = store_picture(tmp_path)
    about, shown = topics.messages(clip_event(), 0.0)
    assert (about.topic, about.retain) == ("streamclf/door/picture/about", True)
    body = json.loads(about.payload)
    assert (body["label"], body["probability"], body["file"]) == ("wave", 0.9, f"{CLIP_STEM}.mp4")
    assert (shown.topic, shown.payload, shown.retain) == ("streamclf/door/picture", picture, True)
    # A broker that has lost everything gets both again.
    again = {m.topic: m.payload for m in topics.retained()}
    assert again["streamclf/door/picture"] == picture
    assert again["streamclf/door/picture/about"] == about.payload
    # An old clip, one without a picture, and one whose picture has expired, change nothing.
    assert list(topics.messages(clip_event(10), STALE_S + 1)) == []
    assert list(topics.messages(clip_event(11, still=None, drawn=None), 0.0)) == []
    (tmp_path / f"{CLIP_STEM}.drawn.jpg").unlink()
    assert list(topics.messages(clip_event(12), 0.0)) == []
    assert "streamclf/door/picture" not in {m.topic for m in topics.retained()}


def test_the_whole_event_of_a_clip_is_published_if_types_have_it(tmp_path: Path) -> None:
    topics = Topics("streamclf", types=("clip",), memory={})
    assert [topic for topic, *_ in messages(topics, clip_event())] == ["streamclf/door/clip"]
    assert configs(topics.messages(clip_event(), 0.0)) == {}


def test_a_link_can_take_the_place_of_the_picture(tmp_path: Path) -> None:
    token = "a-token-of-the-page-0123456789"
    topics = with_pictures(tmp_path, link="http://host:8080", link_token=token)
    image = configs(topics.messages(status("live"), 0.0))["image/streamclf_door/picture"]
    assert (image["url_topic"], image["url_template"]) == ("streamclf/door/picture/about", "{{ value_json.url }}")
    assert "image_topic" not in image
    (about,) = topics.messages(clip_event(), 0.0)
    body = json.loads(about.payload)
    assert linked_path(Signer(token), body["url"].removeprefix("http://host:8080")) == f"{CLIP_STEM}.drawn.jpg"
    assert linked_path(Signer(token), body["film_url"].removeprefix("http://host:8080")) == f"{CLIP_STEM}.mp4"


def test_pictures_go_with_their_stream_and_with_the_option(tmp_path: Path) -> None:
    topics = with_pictures(tmp_path)
    list(topics.messages(status("live", actions=("wave",)), 0.0))
    own = {
        "streamclf/door/picture",
        "streamclf/door/picture/about",
        "homeassistant/image/streamclf_door/picture/config",
    }
    kept = json.loads(json.dumps(topics.memory()))
    assert {m.topic for m in Topics("streamclf", memory=kept).obsolete.messages()} == own
    link = {"link": "http://host:8080", "link_token": "a-token-of-the-page-0123456789"}
    assert {m.topic for m in with_pictures(tmp_path, kept, **link).obsolete.messages()} == {"streamclf/door/picture"}
    assert with_pictures(tmp_path, kept).obsolete.messages() == []
    topics.configure(["yard"], NOW + timedelta(seconds=1))
    assert {m.topic for m in topics.obsolete.messages()} > own
    topics.obsolete.confirm()
    store_picture(tmp_path)
    assert list(topics.messages(clip_event(), 0.0)) == []  # a late clip of the removed stream
    with pytest.raises(UsageError, match="remove the file"):
        Topics("streamclf", memory=kept | {"pictures": "film"})


GATE, HANDS = (
    ViewDescription(region="gate", actions=("wave",)),
    ViewDescription(region="gate", model_name="hands", actions=("wave", "covered")),
)


def in_view(view: ViewDescription) -> dict[str, Any]:
    return {"region": view.region, "model_name": view.model_name}


def test_each_view_has_entities_of_its_own() -> None:
    topics = Topics("streamclf", memory={})
    whole = ViewDescription(actions=("wave",))
    listed = status("live", name="Door", actions=("wave", "covered"), views=(whole, GATE, HANDS))
    found = list(topics.messages(listed, 0.0))
    described = configs(found)
    plain = configs(Topics("streamclf", memory={}).messages(status("live", name="Door", actions=("wave",)), 0.0))
    assert {topic: described[topic] for topic in plain} == plain, "the unnamed view keeps its entities and ids"
    waves = [each for each in described.values() if each["state_topic"].endswith("/active/wave")]
    assert [(each["name"], each["state_topic"]) for each in waves] == [
        ("wave", "streamclf/door/active/wave"),
        ("gate wave", "streamclf/door/region/gate/active/wave"),
        ("gate hands wave", "streamclf/door/region/gate/model/hands/active/wave"),
    ]
    assert len({each["unique_id"] for each in described.values()}) == len(described) == 1 + 3 + 4 + 3
    assert not any(char in topic for topic in described for char in "+#")
    events = [topics_of for topics_of in described.values() if "event_types" in topics_of]
    assert [(each["name"], each["event_types"]) for each in events] == [
        ("Action", ["wave"]), ("gate action", ["wave"]), ("gate hands action", ["wave", "covered"]),
    ]  # fmt: skip


def test_equal_labels_of_two_views_are_switched_apart() -> None:
    topics = Topics("streamclf", memory={})
    messages(topics, status("live", actions=("wave",), views=(GATE, HANDS)))
    found = messages(topics, action("start", **in_view(GATE)), prediction("wave", **in_view(GATE)))
    assert [(topic, json.loads(body).get("model_name")) for topic, body, retain in found if retain] == [
        ("streamclf/door/region/gate/active/wave", None),
        ("streamclf/door/region/gate/label", None),
    ]
    found = messages(topics, action("start", **in_view(HANDS)), prediction("wave", **in_view(HANDS)))
    assert [(topic, json.loads(body)["model_name"]) for topic, body, retain in found if retain] == [
        ("streamclf/door/region/gate/model/hands/active/wave", "hands"),
        ("streamclf/door/region/gate/model/hands/label", "hands"),
    ]
    found = messages(topics, action("end", **in_view(GATE)))
    states = {topic: json.loads(body)["state"] for topic, body, retain in found if retain}
    assert states == {"streamclf/door/region/gate/active/wave": "OFF"}
    whole = [json.loads(body) for topic, body, _ in found if topic == "streamclf/door/action"]
    assert [(each["region"], each["phase"]) for each in whole] == [("gate", "end")]
    assert "streamclf/door/region/gate/event" in [topic for topic, _, _ in found]


def test_a_view_that_is_removed_loses_its_retained_messages_also_while_the_outlet_did_not_run() -> None:
    listed = status("live", actions=("wave", "covered"), views=(GATE, HANDS))
    topics = Topics("streamclf", memory={})
    retained = {m.topic for m in topics.messages(listed, 0.0) if m.retain}
    retained |= {m.topic for m in topics.messages(prediction("wave", **in_view(HANDS)), 0.0) if m.retain}
    of_hands = {topic for topic in retained if "hands" in topic}
    assert len(of_hands) == 2 + 4 + 1
    kept = json.loads(json.dumps(topics.memory()))
    for each in (topics, Topics("streamclf", memory=kept)):
        messages(each, status("live", actions=("wave",), views=(GATE,)))
        assert {m.topic for m in each.obsolete.messages()} == of_hands
        assert messages(each, prediction("wave", **in_view(HANDS)), action("start", **in_view(HANDS)))[:-1] == []
        assert each.unlisted == 2, "late events of the removed view publish nothing retained again"
        each.obsolete.confirm()
        messages(each, status("live", actions=("wave",)))  # without views
        of_gate = {topic for topic in retained - of_hands if "gate" in topic} | {"streamclf/door/region/gate/label"}
        assert {m.topic for m in each.obsolete.messages()} == of_gate
    again = Topics("streamclf", memory=kept)
    messages(again, listed)
    assert again.obsolete.messages() == []


def test_memory_of_earlier_versions_is_read_and_written_for_a_stream_without_names() -> None:
    old = {"prefix": "streamclf", "discovery": True, "pictures": "", "obsolete": [],
           "streams": {"door": {"name": "Door", "label": "wave", "actions": {"wave": True}}}}  # fmt: skip
    assert Topics("streamclf", memory=old).memory() == old
    for wrong in ("a/b", 5, ["x"]):
        views = [{"region": wrong, "model_name": None, "label": None, "actions": {}}]
        stream = {"label": None, "actions": {}, "views": views}
        with pytest.raises(UsageError, match="unknown form"):
            Topics("streamclf", memory={"streams": {"door": stream}})


def test_the_views_of_one_stream_are_limited() -> None:
    topics = Topics("streamclf", memory={})
    for number in range(MAX_VIEWS + 20):
        messages(topics, action("start", region=f"r{number}"), prediction("wave", region=f"r{number}"))
    assert topics.unlisted == 40
    assert len(topics.memory()["streams"]["door"]["views"]) == MAX_VIEWS


def test_a_model_with_several_labels_publishes_all_that_apply() -> None:
    topics = Topics("streamclf", memory={})
    messages(topics, status("live"))
    steps: list[tuple[str, ...]] = [("wave", "still"), ("still", "wave"), (), ("still",)]
    found = [messages(topics, prediction("wave", labels=labels)) for labels in steps]
    assert [[json.loads(body)["label"] for _, body, _ in each] for each in found] == [
        ["still, wave"], [], ["none"], ["still"],
    ]  # fmt: skip
    assert json.loads(found[0][0][1])["labels"] == ["wave", "still"]
