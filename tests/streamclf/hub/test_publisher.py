"""Test the publisher: previews only while wanted, slow subscribers, topics."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq
from support.hub_process import wait_until

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
    assert subscriber.poll(5000)
    assert subscriber.recv_multipart() == [b"prediction/cam1/", b"right"]
    subscriber.close(0)


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
