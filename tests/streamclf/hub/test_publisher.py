"""Test the publisher: previews only while wanted, slow subscribers, topics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from support.hub_process import wait_until

from streamclf.events.views import ViewKey
from streamclf.hub.journal import Entry
from streamclf.hub.publisher import Publisher


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    context = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def publisher(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[Publisher]:
    publisher = Publisher(context, "tcp://127.0.0.1:*", high_water=10)
    yield publisher
    publisher.close()


def wait_for_subscription(publisher: Publisher) -> None:
    def has_subscriber() -> bool:
        publisher.receive_subscriptions()
        return publisher.has_new_subscriber

    wait_until(has_subscriber, "a subscription")


def test_previews_are_wanted_only_while_subscribed_to(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher
) -> None:
    def watched_becomes(streams: set[str]) -> None:
        def is_watched() -> bool:
            publisher.receive_subscriptions()
            return publisher.watched == streams

        wait_until(is_watched, f"watched {streams}")

    everything = context.socket(zmq.SUB)
    everything.subscribe(b"")
    everything.connect(publisher.endpoint)
    viewer = context.socket(zmq.SUB)
    viewer.subscribe(b"preview/door/")
    viewer.connect(publisher.endpoint)
    watched_becomes({"door"})
    viewer.subscribe(b"preview/")
    watched_becomes({"door", "*"})
    viewer.close(0)
    watched_becomes(set())
    everything.close(0)


def test_subscriber_that_does_not_read_delays_no_other(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher
) -> None:
    lazy = context.socket(zmq.SUB)
    lazy.rcvhwm = 1
    lazy.subscribe(b"")
    lazy.connect(publisher.endpoint)
    good = context.socket(zmq.SUB)
    good.subscribe(b"prediction/last/")
    good.connect(publisher.endpoint)
    wait_for_subscription(publisher)
    entry = Entry(1, "door", "prediction", b"x" * 2000)

    def last_arrives() -> bool:
        publisher.publish([entry] * 100)
        publisher.send(b"prediction/last/", b"{}")
        return bool(good.poll(10))

    wait_until(last_arrives, "the message for the good subscriber")
    publisher.publish([entry] * 20_000)
    for subscriber in (lazy, good):
        subscriber.close(0)


def test_topics_match_whole_stream_names(context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher) -> None:
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(b"prediction/cam1/")
    subscriber.connect(publisher.endpoint)
    wait_for_subscription(publisher)
    publisher.publish([Entry(1, "cam10", "prediction", b"wrong"), Entry(2, "cam1", "prediction", b"right")])
    assert subscriber.poll(60_000)
    assert subscriber.recv_multipart() == [b"prediction/cam1/", b"right"]
    subscriber.close(0)


def test_stream_topic_matches_its_regions_and_a_region_topic_matches_only_that(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher
) -> None:
    stream, region = context.socket(zmq.SUB), context.socket(zmq.SUB)
    stream.subscribe(b"prediction/cam/")
    region.subscribe(b"prediction/cam/gate/")
    for subscriber in (stream, region):
        subscriber.connect(publisher.endpoint)
    wait_until(lambda: publisher.receive_subscriptions() or publisher.subscription_messages == 2, "both subscriptions")
    publisher.publish(
        [
            Entry(1, "cam", "prediction", b"whole"),
            Entry(2, "cam", "prediction", b"gate", ViewKey("gate", "hands")),
            Entry(3, "cam", "prediction", b"gate2", ViewKey("gate2")),
            Entry(4, "cam", "prediction", b"model", ViewKey(None, "gate")),
            Entry(5, "cam", "prediction", b"last", ViewKey("gate")),
        ]
    )
    got = [stream.recv_multipart() for _ in range(5) if stream.poll(60_000)]
    assert got[:2] == [[b"prediction/cam/", b"whole"], [b"prediction/cam/gate/", b"gate"]]
    assert [body for _, body in got] == [b"whole", b"gate", b"gate2", b"model", b"last"]
    assert [region.recv_multipart()[1] for _ in range(2) if region.poll(60_000)] == [b"gate", b"last"]
    for subscriber in (stream, region):
        subscriber.close(0)


@pytest.mark.parametrize(
    ("topic", "watched"),
    [
        (b"preview/", {"*"}),
        (b"preview/do", {"*"}),
        (b"preview/door/", {"door"}),
        (b"preview/door/gate/", set()),
        (b"preview/door/g", set()),
    ],
)
def test_no_topic_of_a_region_requests_previews(
    context: zmq.Context[zmq.Socket[bytes]], publisher: Publisher, topic: bytes, watched: set[str]
) -> None:
    subscriber = context.socket(zmq.SUB)
    subscriber.subscribe(topic)
    subscriber.connect(publisher.endpoint)
    wait_for_subscription(publisher)
    assert publisher.watched == watched
    subscriber.close(0)


def test_topics_of_regions_are_known_once_they_have_events(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    publisher = Publisher(context, "tcp://127.0.0.1:*", streams={"door"})
    publisher.publish([Entry(1, "door", "prediction", b"x", ViewKey("gate"))])
    subscriber = context.socket(zmq.SUB)
    longest = b"prediction/" + b"s" * 64 + b"/" + b"r" * 64 + b"/"
    for topic in (
        b"prediction/door/gate/",
        b"clip/door/gate/",
        b"prediction/door/yard/",
        b"status/door/gate/",
        longest,
    ):
        subscriber.subscribe(topic)
    subscriber.connect(publisher.endpoint)
    wait_until(lambda: publisher.receive_subscriptions() or publisher.subscription_messages == 5, "all subscriptions")
    (peer,) = publisher.peers.connected()
    assert peer.unknown_topics == {b"prediction/door/yard/", b"status/door/gate/", longest}
    subscriber.close(0)
    publisher.close()


def test_topics_of_known_streams_do_not_count_as_unknown(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    publisher = Publisher(context, "tcp://127.0.0.1:*", streams={"door"})
    subscriber = context.socket(zmq.SUB)
    subscriber.linger = 0
    for topic in (b"", b"pred", b"prediction/", b"action/door/", b"preview/door/", b"heartbeat/", b"action/yard/"):
        subscriber.subscribe(topic)
    subscriber.connect(publisher.endpoint)

    def unknown() -> set[bytes]:
        publisher.receive_subscriptions()
        return {topic for peer in publisher.peers.connected() for topic in peer.unknown_topics}

    wait_until(lambda: publisher.subscription_messages == 7 or unknown() is None, "all subscriptions")
    assert unknown() == {b"action/yard/"}
    subscriber.close(0)
    publisher.close()


def test_viewers_that_are_gone_are_forgotten_though_no_picture_arrives(
    context: zmq.Context[zmq.Socket[bytes]],
) -> None:
    publisher = Publisher(context, "tcp://127.0.0.1:*")
    for _ in range(150):
        with context.socket(zmq.SUB) as viewer:
            viewer.linger = 0
            viewer.subscribe(b"preview/nowhere/")
            viewer.connect(publisher.endpoint)
            wait_for_subscription(publisher)
            publisher.has_new_subscriber = False
    assert len(publisher._pacer._viewers) < 140
    publisher.close()
