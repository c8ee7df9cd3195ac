"""FLEET.yaml: the keys of a service and those of a fleet, with errors that name key and remedy."""

from __future__ import annotations

import pytest

from streamclf.errors import ConfigError, UsageError
from streamclf.fleet.config import CostConfig, FleetConfig, RolloutConfig, load_fleet
from streamclf.fleet.setup import Setup


def write(tmp_path, text):
    path = tmp_path / "FLEET.yaml"
    path.write_text(text)
    return path


STREAMS = "streams:\n  door: {url: 'rtsp://10.0.0.5/a', near: hall}\n  yard: {url: film.mp4, loop: true, cpus: 0.5}\n"


def test_a_file_is_split_into_fleet_common_part_and_streams(tmp_path):
    file = load_fleet(write(tmp_path, "fleet: {placement: pack}\nmodel: camera-events\n" + STREAMS), {})
    assert file.fleet.placement == "pack"
    assert file.common["model"] == "camera-events"
    assert file.streams["door"] == {"url": "rtsp://10.0.0.5/a"}
    assert file.streams["yard"]["url"] == str(tmp_path / "film.mp4")
    assert file.demands["door"].near == "hall"
    assert file.demands["yard"].cpus == 0.5


def test_cpus_come_from_the_cost_model(tmp_path):
    """The figures of docs/sizing.md: eight cameras of 720p took 0.52 processors."""
    file = load_fleet(write(tmp_path, "model: camera-events\n" + STREAMS), {})
    assert 8 * file.demands["door"].cpus == pytest.approx(0.52, rel=0.1)


def test_a_paused_stream_takes_nothing(tmp_path):
    file = load_fleet(write(tmp_path, "streams:\n  door: {url: 'rtsp://10.0.0.5/a', enabled: false}\n"), {})
    assert file.demands["door"].cpus == 0


def test_a_service_limits_400_streams_and_a_fleet_does_not(tmp_path):
    rows = "".join(f"  cam{n}: {{url: 'rtsp://10.0.0.5/{n}'}}\n" for n in range(900))
    assert len(load_fleet(write(tmp_path, "streams:\n" + rows), {}).streams) == 900


def test_variables_are_replaced_where_the_command_runs(tmp_path):
    text = "streams:\n  door: {url: 'rtsp://u:${DOOR_PASSWORD}@10.0.0.5/a'}\n"
    file = load_fleet(write(tmp_path, text), {"DOOR_PASSWORD": "se:cret"})
    assert file.streams["door"]["url"] == "rtsp://u:se%3Acret@10.0.0.5/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams:\n  a: {camera: 0}\n  a: {camera: 1}\n", "key 'a' appears twice, again in line 3"),
        ("streams: {}\n", "needs streams:"),
        ("fleet: {placment: pack}\n" + STREAMS, "fleet.placment: unknown key"),
        ("fleet: {placment: pack}\n" + STREAMS, "did you mean placement?"),
        ("fleet: {lease_s: 1}\n" + STREAMS, "fleet.lease_s=1: must be greater than or equal to 3"),
        ("fleet: {directory: here}\n" + STREAMS, "'here': like tcp://127.0.0.1:5550"),
        ("fleet: {directory: 'tcp://127.0.0.1:99999'}\n" + STREAMS, "'tcp://127.0.0.1:99999': like"),
        ("fleet: {drain: n1}\n" + STREAMS, "fleet.drain=n1: must be a list, like [a, b]"),
        ("fleet: [1, 2]\n" + STREAMS, "fleet: must be a section of keys"),
        ("streams:\n  a: {camera: 0, near: 'a b'}\n", "streams.a.near"),
        ("streams:\n  a: {camera: 0, cpu: 1}\n", "streams.a"),
        ("outlets: {web: {port: 8080}}\n" + STREAMS, "`streamclf log fleet://HOST:PORT`"),
        ("publish: {events: 'tcp://0.0.0.0:5555'}\n" + STREAMS, "set publish.keys and publish.allow"),
        ("actions: {nothing: {on: 0.5}}\n" + STREAMS, "no label nothing"),
        ("model: no-such-model\n" + STREAMS, "no such directory"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    with pytest.raises(UsageError) as caught:
        load_fleet(write(tmp_path, text), {})
    assert message in str(caught.value)


def test_a_mistake_shows_no_password(tmp_path):
    text = "streams:\n  door: {url: 'rtsp://user:hunter22@10.0.0.5/a', hop: 0}\n"
    with pytest.raises(ConfigError) as caught:
        load_fleet(write(tmp_path, text), {})
    assert "hunter22" not in str(caught.value)


def test_a_setup_survives_storing_and_names_models_by_hash(tmp_path):
    file = load_fleet(write(tmp_path, "model: camera-events\nmodels: {hands: gestures}\n" + STREAMS), {})
    setup = Setup.of(file, {"hands": "ab" * 32})
    assert setup.commons[setup.target]["models"] == {"hands": "sha256:" + "ab" * 32}
    restored = Setup.restored(setup.as_dict())
    assert restored == setup
    assert restored.differences(setup).startswith("nothing has changed")


def test_the_page_about_fleets_lists_every_key():
    from support.repository import ROOT

    page = (ROOT / "docs/scale.md").read_text()
    for section in (FleetConfig, CostConfig, RolloutConfig):
        for key in section.model_fields:
            assert f"`{key}`" in page, f"docs/scale.md lacks {key}"
