"""A node keeps its folder, and writes only files that others cannot read."""

from __future__ import annotations

import os
import threading

import pytest

from streamclf.config.service import load_config
from streamclf.errors import UsageError
from streamclf.fleet import node_folder
from streamclf.fleet.messages import NodeSpec
from streamclf.fleet.model_store import ModelStore
from streamclf.fleet.node import advertised
from streamclf.fleet.node_folder import NodeFolder, missing_file
from streamclf.net.curve_keys import make_keys


def test_nodes_of_one_machine_get_folders_of_their_own(tmp_path):
    names = [NodeFolder(tmp_path, "host.example", f"ray-{n}").name for n in range(3)]
    assert names == ["host.example", "host.example-2", "host.example-3"]


def test_an_agent_that_is_started_again_waits_for_the_service_of_its_last_run(tmp_path):
    first, second = NodeFolder(tmp_path, "host", "ray-0"), NodeFolder(tmp_path, "host", "ray-1")
    assert second.name == "host-2"
    threading.Timer(0.3, os.close, [second.lock_fd]).start()
    again = NodeFolder(tmp_path, "host", "ray-1")
    assert (first.name, again.name) == ("host", "host-2")


def test_a_node_that_returns_with_another_identity_gets_its_journal(tmp_path):
    before = NodeFolder(tmp_path, "host", "ray-0")
    os.close(before.lock_fd)
    assert NodeFolder(tmp_path, "host", "ray-7").path == before.path


def test_a_name_cannot_leave_the_folder(tmp_path):
    assert NodeFolder(tmp_path, "../../etc", "ray-0").path.parent == tmp_path


def test_too_many_nodes_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(node_folder, "MAX_NODES", 1)
    held = NodeFolder(tmp_path, "host", "ray-0")
    with pytest.raises(UsageError, match="1 nodes of this machine use it already"):
        NodeFolder(tmp_path, "host", "ray-1")
    os.close(held.lock_fd)


def spec(streams, **common):
    return NodeSpec(version="v", common={"model": "camera-events", **common}, streams=streams)


def test_the_configuration_is_private_and_a_service_can_read_it(tmp_path):
    folder = NodeFolder(tmp_path, "host", "ray-0")
    streams = {"door": {"url": "rtsp://user:hunter22@10.0.0.5/a"}, "yard": {"camera": 0}}
    folder.write_config(spec(streams), ["door"], ModelStore(tmp_path / "models"))
    assert folder.config.stat().st_mode & 0o777 == 0o600
    config = load_config(folder.config, {})
    assert [*config.streams] == ["door"]
    assert config.publish.leases == folder.leases
    assert config.publish.journal == folder.path / "streamclf.db"


def test_a_node_without_streams_still_has_a_service(tmp_path):
    folder = NodeFolder(tmp_path, "host", "ray-0")
    folder.write_config(spec({}), [], ModelStore(tmp_path / "models"))
    assert not load_config(folder.config, {}).streams["_idle"].enabled


def test_models_are_found_by_their_hash(tmp_path):
    folder, models = NodeFolder(tmp_path, "host", "ray-0"), ModelStore(tmp_path / "models")
    written = folder.write_config(spec({}, models={"hands": "sha256:" + "ab" * 32}), [], models)
    assert written["models"] == {"hands": str(models.path_of("ab" * 32))}
    assert written["model"] == "camera-events"


def test_keys_may_be_added_and_removed_while_the_node_runs(tmp_path):
    make_keys(tmp_path / "own", "fleet")
    allow = tmp_path / "allowed"
    make_keys(tmp_path / "clients", "reader")
    allow.mkdir(mode=0o700)
    (allow / "reader.key").write_bytes((tmp_path / "clients" / "reader.key").read_bytes())
    folder = NodeFolder(tmp_path, "host", "ray-0")
    publish = {"keys": str(tmp_path / "own" / "fleet.key_secret"), "allow": str(allow)}
    written = folder.write_config(spec({}, publish=publish), [], ModelStore(tmp_path / "models"))
    copied = folder.path / "allow"
    assert written["publish"]["allow"] == str(copied)
    assert sorted(path.name for path in copied.iterdir()) == ["agent.key", "reader.key"]
    (allow / "reader.key").unlink()
    folder.refresh_allowed(allow)
    assert [path.name for path in copied.iterdir()] == ["agent.key"]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        ({"url": "/nowhere/film.mp4"}, "url=/nowhere/film.mp4: no such file on this node"),
        ({"images": "/nowhere"}, "images=/nowhere: not on this node"),
        ({"url": "rtsp://10.0.0.5/a", "tls_ca": "/nowhere.pem"}, "tls_ca=/nowhere.pem: not on this node"),
        ({"url": "rtsp://10.0.0.5/a"}, None),
        ({"camera": 0}, None),
    ],
)
def test_a_file_that_this_machine_lacks_concerns_one_stream(stream, reason):
    assert missing_file(stream) == reason


@pytest.mark.parametrize(
    ("bound", "reached"),
    [
        ("tcp://0.0.0.0:5555", "tcp://10.0.0.7:5555"),
        ("tcp://*:5555", "tcp://10.0.0.7:5555"),
        ("tcp://127.0.0.1:5555", "tcp://127.0.0.1:5555"),
        ("tcp://10.0.0.9:5555", "tcp://10.0.0.9:5555"),
        (None, None),
    ],
)
def test_the_directory_has_endpoints_that_others_reach(bound, reached):
    assert advertised(bound, "10.0.0.7") == reached


def test_a_folder_that_other_users_may_change_is_refused(tmp_path):
    (tmp_path / "host").mkdir()
    (tmp_path / "host").chmod(0o777)
    with pytest.raises(UsageError, match=r"host: mode 0777 lets other users change it; chmod go-w"):
        NodeFolder(tmp_path, "host", "ray-0")
