"""Test the gate of a service with keys, and its allow-list."""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

import pytest
import zmq
from support.hub_process import wait_until

from streamclf.client.subscription import subscribe
from streamclf.errors import BusError
from streamclf.hub.guard.curve_gate import AllowList, CurveGate
from streamclf.hub.publisher import Publisher
from streamclf.net.curve_keys import load_certificate, make_keys


def test_no_client_connects_after_the_gate_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamclf.net.curve_client.REFUSED_S", 60.0)
    (tmp_path / "allowed").mkdir()
    server, server_secret = make_keys(tmp_path, "server")
    public, secret = make_keys(tmp_path, "viewer", service=server)
    shutil.copy(public, tmp_path / "allowed")
    context = zmq.Context()
    gate = CurveGate(context, load_certificate(server_secret, secret=True), AllowList(tmp_path / "allowed"))
    publisher = Publisher(context, "tcp://127.0.0.1:*", gate=gate)
    gate.close()
    with subscribe(publisher.endpoint, keys=secret) as events:
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            publisher.receive_subscriptions()
            publisher.send(b"heartbeat/", b"{}")
            assert events.receive(0.05) is None
            assert events.refused == 0, "a message came through"
    assert not publisher.has_new_subscriber
    publisher.close()
    context.term()


def test_each_refused_key_is_logged_once_and_a_flood_of_keys_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A client without a valid key tries again each second. It must not hide another client, nor fill the log."""
    (tmp_path / "allowed").mkdir()
    _, server_secret = make_keys(tmp_path, "server")
    context = zmq.Context()
    gate = CurveGate(context, load_certificate(server_secret, secret=True), AllowList(tmp_path / "allowed"))
    caplog.clear()

    def refuse(key: int) -> None:
        request = [b"1.0", b"1", b"streamclf", b"10.0.0.9", b"", b"CURVE", key.to_bytes(32, "big")]
        assert gate._answer(request)[2] == b"400"

    try:
        for _ in range(20):
            refuse(1)
        refuse(2)
        assert [message.partition(":")[0] for message in caplog.messages] == [
            "refused a client at 10.0.0.9 (1 refusals so far)",
            "refused a client at 10.0.0.9 (21 refusals so far)",
        ]
        for key in range(3, 200):
            refuse(key)
        assert len(caplog.messages) == 10
        assert gate.refused == 218
    finally:
        gate.close()
        context.term()


def test_unreadable_list_allows_no_key_and_bad_files_do_not_block_good_ones(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    _, secret = make_keys(allowed, "good")
    certificate = load_certificate(secret)
    (allowed / "notes.key").write_text("roses are red")
    (allowed / "huge.key").write_bytes(b"x" * 100_000)
    (allowed / "dangling.key").symlink_to("nowhere")
    allow = AllowList(allowed)
    assert allow.name_of(certificate.public) == "good"
    assert len(allow) == 1
    shutil.rmtree(allowed)
    wait_until(lambda: allow.name_of(certificate.public) is None, "no key to be allowed")


def test_a_pipe_in_the_list_neither_blocks_nor_locks_out_other_keys(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    _, secret = make_keys(allowed, "good")
    public = load_certificate(secret).public
    allow = AllowList(allowed)
    os.mkfifo(allowed / "pipe.key")
    (allowed / "zero.key").symlink_to("/dev/zero")
    _, other = make_keys(allowed, "other")
    assert allow.name_of(load_certificate(other).public) == "other"
    assert allow.allows(public)


def test_a_key_that_others_may_change_is_not_allowed(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    file, secret = make_keys(allowed, "viewer")
    public = load_certificate(secret).public
    allow = AllowList(allowed)
    assert allow.name_of(public) == "viewer"
    file.chmod(0o666)
    wait_until(lambda: not allow.allows(public), "the key to be refused")
    file.chmod(0o644)
    assert allow.name_of(public) == "viewer"
    allowed.chmod(0o777)
    wait_until(lambda: not allow.allows(public), "all keys to be refused")


def test_a_list_that_is_being_read_does_not_stop_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = tmp_path / "allowed"
    _, secret = make_keys(allowed, "viewer")
    public = load_certificate(secret).public
    allow = AllowList(allowed)
    is_reading, may_end = threading.Event(), threading.Event()

    def read_slowly(path: Path) -> None:
        is_reading.set()
        assert may_end.wait(30)

    monkeypatch.setattr("streamclf.hub.guard.curve_gate.check_key_directory", read_slowly)
    reader = threading.Thread(target=allow.name_of, args=(b"x" * 40,))
    reader.start()
    assert is_reading.wait(30)
    assert allow.allows(public), "answered from the last reading, while another thread reads"
    may_end.set()
    reader.join(60)
    assert not reader.is_alive()


@pytest.mark.parametrize("endpoint", ["tcp://0.0.0.0:*", "tcp://[::]:*"])
def test_endpoint_that_the_network_can_reach_needs_keys(tmp_path: Path, endpoint: str) -> None:
    if "[" in endpoint and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    (tmp_path / "allowed").mkdir()
    _, secret = make_keys(tmp_path, "server")
    context = zmq.Context()
    with pytest.raises(BusError, match=r"publish\.keys and publish\.allow"):
        Publisher(context, endpoint)
    gate = CurveGate(context, load_certificate(secret, secret=True), AllowList(tmp_path / "allowed"))
    publisher = Publisher(context, endpoint, gate=gate)
    assert int(publisher.endpoint.rpartition(":")[2]) > 0
    publisher.close()
    gate.close()
    context.term()


def test_the_key_of_the_services_own_outlets_is_allowed_besides_the_list(tmp_path: Path) -> None:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    own, _ = zmq.curve_keypair()
    other, _ = zmq.curve_keypair()
    allow = AllowList(allowed, own.decode())
    assert allow.name_of(own)
    assert allow.allows(own)
    assert allow.name_of(other) is None
    assert not allow.allows(other)
    assert not AllowList(allowed).allows(own)
