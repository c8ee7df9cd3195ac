"""The control channel: whole messages in order, each with its own descriptors, and an end."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import orjson
import pytest

from streamclf.runtime import control_channel
from streamclf.runtime.control_channel import ControlReader, ControlSender


@contextmanager
def connected() -> Iterator[tuple[ControlSender, ControlReader]]:
    sender = ControlSender()
    with closing(sender), closing(ControlReader(sender.child_end.fileno())) as reader:
        sender.child_end.close()
        yield sender, reader


def message(number: int, descriptors: int = 0) -> bytes:
    return orjson.dumps({"number": number, "descriptors": descriptors})


def test_each_message_comes_with_its_own_descriptors() -> None:
    pipes = [os.pipe() for _ in range(5)]
    with connected() as (sender, reader):
        for number, (read_end, write_end) in enumerate(pipes):
            assert sender.send(message(3 * number))
            assert sender.send(message(3 * number + 1, 1), [write_end])
            assert sender.send(message(3 * number + 2, 1), [read_end])
        for number in range(5):
            plain, writer, ours = (reader.next() for _ in range(3))
            assert plain is not None
            assert writer is not None
            assert ours is not None
            assert orjson.loads(plain.body)["number"] == 3 * number
            assert plain.fds == ()
            os.write(writer.fds[0], b"%d" % number)
            assert os.read(ours.fds[0], 8) == b"%d" % number
            for fd in (*writer.fds, *ours.fds):
                os.close(fd)
        sender.close()
        assert reader.next() is None
    for fd in (fd for ends in pipes for fd in ends):
        os.close(fd)


def test_a_large_message_is_one_message() -> None:
    body = orjson.dumps({"text": "x" * 1_000_000})
    sent: list[bool] = []
    with connected() as (sender, reader):
        thread = threading.Thread(target=lambda: sent.append(sender.send(body)))
        thread.start()
        got = reader.next()
        thread.join(60)
    assert sent == [True]
    assert got is not None
    assert got.body == body


def test_a_child_that_does_not_read_blocks_the_supervisor_only_until_the_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control_channel, "SEND_S", 0.1)
    with connected() as (sender, _):
        assert not all(sender.send(b'"%s"' % (b"x" * 100_000)) for _ in range(50))


def test_sending_to_an_ended_child_fails() -> None:
    sender = ControlSender()
    sender.child_end.close()
    assert not sender.send(message(1))
    sender.close()
    assert not sender.send(message(2))


def test_a_pipe_can_carry_a_job() -> None:
    read_end, write_end = os.pipe()
    reader = ControlReader(read_end)
    os.write(write_end, b'{"job": 1}\n{"half"')
    os.close(write_end)
    first = reader.next()
    assert first is not None
    assert first.body == b'{"job": 1}'
    assert reader.next() is None
    os.close(read_end)


@pytest.mark.parametrize("line", [b'{"descriptors": 2}\n', b'{"descriptors": 1}\n'])
def test_a_message_without_its_descriptors_ends_the_input(line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(ControlReader(theirs.fileno())) as reader:
        ours.sendall(line)
        assert reader.next() is None


def test_an_endless_line_ends_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_channel, "MAX_MESSAGE_BYTES", 1000)
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(ControlReader(theirs.fileno())) as reader:
        ours.sendall(b"x" * 2000)
        assert reader.next() is None
