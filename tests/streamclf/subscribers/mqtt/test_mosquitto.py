"""A real broker holds the descriptions of all configured actions, and of nothing that is no longer configured."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.clip_events import store_picture
from support.hub_process import HubProcess, action, clip, prediction, status, wait_until
from support.mosquitto import DEADLINE_S, PROGRAM, Mosquitto
from support.preview_camera import PreviewCamera
from support.service import Service
from support.short_silence import short_silence_program

from streamclf.producer.link import EventProducer
from streamclf.runtime.jobs import StreamDescription

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="mosquitto is not installed")

DOOR = "homeassistant/binary_sensor/streamclf_door"


def retained(broker: Mosquitto) -> dict[str, str]:
    """Return the messages that a new subscriber gets."""
    return {topic: payload.decode() for topic, payload in retained_bytes(broker).items()}


def retained_bytes(broker: Mosquitto) -> dict[str, bytes]:
    from paho.mqtt import client as mqtt

    found: dict[str, bytes] = {}
    done = threading.Event()

    def keep(client: Any, userdata: Any, message: Any) -> None:
        if message.topic == "snapshot/end":
            done.set()
        elif message.retain:
            found[message.topic] = message.payload

    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    client.on_message = keep
    client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
    client.on_subscribe = lambda client, *_: client.publish("snapshot/end", "", qos=1)
    client.connect("127.0.0.1", broker.port)
    client.loop_start()
    try:
        assert done.wait(DEADLINE_S)
    finally:
        client.disconnect()
        client.loop_stop()
    return found


def start(hub: HubProcess, broker: Mosquitto, folder: Path, *options: str) -> Service:
    return Service("mqtt", hub.events, broker.url, *options, cwd=folder, program=short_silence_program())


def test_descriptions_come_before_anything_happens_and_go_with_the_configuration(tmp_path: Path) -> None:
    streams = {
        "door": StreamDescription(name="Haustür", actions=("wave", "covered", "Wave", "wavé")),
        "yard": StreamDescription(actions=("wave",)),
    }
    with HubProcess(streams=streams) as hub, Mosquitto() as broker:
        with start(hub, broker, tmp_path) as outlet:
            wait_until(lambda: broker.on("streamclf/status") == ["online"], "online")
            with EventProducer(hub.link, "test") as link:
                for stream in streams:
                    link.post(status(stream, "live"))
                wait_until(lambda: "streamclf/yard/availability" in retained(broker), "both streams")
                found = retained(broker)
                configs = {t: json.loads(p) for t, p in found.items() if t.startswith("homeassistant/")}
                assert len([topic for topic in configs if topic.startswith(f"{DOOR}/active_")]) == 4
                assert f"{DOOR}/connectivity/config" in configs
                assert "homeassistant/event/streamclf_door/action/config" in configs
                assert configs[f"{DOOR}/active_covered/config"]["device_class"] == "tamper"
                assert configs[f"{DOOR}/active_covered/config"]["device"]["name"] == "Haustür"
                assert json.loads(found["streamclf/door/active/covered"])["state"] == "OFF"
                assert "streamclf/door/event" not in found
                link.post(action("start"))
                link.post(prediction("yard"))
                wait_until(lambda: len(broker.on("streamclf/door/event")) == 1, "an event")
                assert json.loads(broker.on("streamclf/door/event")[0])["event_type"] == "wave"
                wait_until(lambda: "streamclf/yard/label" in retained(broker), "a label")
            outlet.interrupt()
            assert outlet.wait() == 0
        # The configuration changes while the outlet does not run.
        hub.kill()
        hub.job = hub.job.model_copy(update={"streams": {"door": StreamDescription(actions=("wave",))}})
        hub.start()
        with start(hub, broker, tmp_path) as outlet:
            wait_until(lambda: not any("yard" in topic for topic in retained(broker)), "the removal of a stream")
            with EventProducer(hub.link, "test") as link:
                link.post(status("door", "live"))
                wait_until(lambda: f"{DOOR}/active_covered/config" not in retained(broker), "the removal of an action")
                link.post(status("yard", "offline"))  # a late event does not bring the stream back
                link.post(prediction("door", number=9))
                wait_until(lambda: "streamclf/door/label" in retained(broker), "a label")
            found = retained(broker)
            assert [t for t in found if t.startswith(f"{DOOR}/active_")] == [f"{DOOR}/active_wave/config"]
            assert [t for t in found if t.startswith("streamclf/door/active/")] == ["streamclf/door/active/wave"]
            assert not [t for t in found if "yard" in t]
            described = json.loads(found["homeassistant/event/streamclf_door/action/config"])
            assert described["event_types"] == ["wave"]
            assert described["device"]["name"] == "door"
            outlet.interrupt()
            assert outlet.wait() == 0


def test_a_stream_that_reconnects_stays_available(tmp_path: Path) -> None:
    topic = "streamclf/door/availability"
    with (
        HubProcess(streams={"door": StreamDescription(actions=("wave",))}) as hub,
        Mosquitto() as broker,
        start(hub, broker, tmp_path),
        EventProducer(hub.link, "test") as link,
    ):
        wait_until(lambda: broker.on("streamclf/status") == ["online"], "online")
        for state in ("live", "stalled", "connecting", "live"):
            link.post(status("door", state))
        link.post(prediction("door"))
        wait_until(lambda: broker.on("streamclf/door/label") != [], "the events")
        assert broker.on(topic) == ["online"]
        link.post(status("door", "offline"))
        wait_until(lambda: broker.on(topic) == ["online", "offline"], "an offline stream")


def test_an_outlet_that_is_killed_and_started_again_stays_online(tmp_path: Path) -> None:
    """Without the delay of the last will, the broker publishes `offline` when the new connection ends the old one."""
    topic = "streamclf/status"
    with HubProcess() as hub, Mosquitto() as broker:
        # Longer than the usual 10 s, within which a busy machine may not have started it again.
        program = short_silence_program(will_delay_s=50)
        with Service("mqtt", hub.events, broker.url, cwd=tmp_path, program=program) as first:
            wait_until(lambda: broker.on(topic) == ["online"], "online")
            first.process.kill()
            first.wait()
        with Service("mqtt", hub.events, broker.url, cwd=tmp_path, program=program) as second:
            wait_until(lambda: len(broker.on(topic)) > 1, "the new connection")
            assert broker.on(topic) == ["online", "online"]
            second.interrupt()
            assert second.wait() == 0
        wait_until(lambda: broker.on(topic)[-1] == "offline", "the last message of an outlet that ends")


def test_an_outlet_that_stays_away_is_offline_after_the_delay(tmp_path: Path) -> None:
    topic = "streamclf/status"
    with HubProcess() as hub, Mosquitto() as broker:
        program = short_silence_program(will_delay_s=1)
        with Service("mqtt", hub.events, broker.url, cwd=tmp_path, program=program) as outlet:
            wait_until(lambda: broker.on(topic) == ["online"], "online")
            outlet.process.kill()
            outlet.wait()
            wait_until(lambda: broker.on(topic) == ["online", "offline"], "the last will")
            assert retained(broker)[topic] == "offline"


def test_a_broker_that_rejects_messages_is_named_once(tmp_path: Path) -> None:
    acl = tmp_path / "acl"
    acl.write_text("topic read #\ntopic write streamclf/status\n")
    with (
        HubProcess() as hub,
        Mosquitto(f"acl_file {acl}", "user root") as broker,
        EventProducer(hub.link, "test") as link,
        start(hub, broker, tmp_path) as outlet,
    ):
        wait_until(lambda: broker.on("streamclf/status") == ["online"], "online")
        for number in range(5):
            link.post(action("start", at_s=float(number)))
        outlet.wait_for_line(r"rejects messages \(Not authorized\)")
        outlet.interrupt()
        assert outlet.wait() == 0
        assert sum("rejects messages" in line for line in outlet.lines) == 1


def test_the_picture_of_a_clip_is_kept_until_its_stream_is_removed(tmp_path: Path) -> None:
    topic, options = "streamclf/door/picture", ("--clips", str(tmp_path / "clips"))
    description = StreamDescription(actions=("wave",))
    draft = clip("door")
    draft = replace(draft, body={**draft.body, "drawn": draft.body["file"].replace(".mp4", ".drawn.jpg")})
    picture = store_picture(tmp_path / "clips", draft.body["drawn"])
    with HubProcess(streams={"door": description, "yard": description}) as hub, Mosquitto() as broker:
        with start(hub, broker, tmp_path, *options) as outlet:
            wait_until(lambda: broker.on("streamclf/status") == ["online"], "online")
            with EventProducer(hub.link, "test") as link:
                link.post(status("door", "live"))
                link.post(draft)
                wait_until(lambda: topic in retained_bytes(broker), "the picture")
            found = retained_bytes(broker)
            assert found[topic] == picture
            assert json.loads(found[f"{topic}/about"])["label"] == "wave"
            described = json.loads(found["homeassistant/image/streamclf_door/picture/config"])
            assert (described["image_topic"], described["content_type"]) == (topic, "image/jpeg")
            outlet.interrupt()
            assert outlet.wait() == 0
        hub.kill()
        hub.job = hub.job.model_copy(update={"streams": {"yard": description}})
        hub.start()
        with start(hub, broker, tmp_path, *options) as outlet:
            wait_until(lambda: not any("door" in each for each in retained_bytes(broker)), "the removal")
            outlet.interrupt()
            assert outlet.wait() == 0


def test_the_start_of_an_action_publishes_a_picture(tmp_path: Path) -> None:
    topic = "streamclf/door/picture"
    with (
        HubProcess(streams={"door": StreamDescription(actions=("wave",))}) as hub,
        Mosquitto() as broker,
        start(hub, broker, tmp_path, "--first-picture"),
        EventProducer(hub.link, "capture-door") as link,
        PreviewCamera(link, "door"),
    ):
        wait_until(lambda: broker.on("streamclf/status") == ["online"], "online")
        link.post(status("door", "live"))
        link.post(action("start"))
        wait_until(lambda: topic in retained_bytes(broker), "the picture")
        found = retained_bytes(broker)
        assert found[topic].startswith(b"\xff\xd8\xff")
        about = json.loads(found[f"{topic}/about"])
        assert (about["label"], about["probability"]) == ("wave", 0.9)
        assert "homeassistant/image/streamclf_door/picture/config" in found
