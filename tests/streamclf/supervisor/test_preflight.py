"""Checks of a configuration before anything starts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.repository import ROOT

from streamclf.config.actions import ActionConfig
from streamclf.config.service import load_config, parse_config
from streamclf.config.views import UNNAMED
from streamclf.errors import ConfigError, UsageError
from streamclf.events.journal_format import DATABASE_HEAD
from streamclf.net.curve_keys import make_keys
from streamclf.supervisor.engine_groups import CLASSIFIER
from streamclf.supervisor.preflight import preflight
from streamclf.supervisor.stream_plan import plan_streams


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("file://{}/my%20film.mp4", b"my film.mp4"),
        ("FILE://{}/my film.mp4", b"my film.mp4"),
        ("file://LocalHost{}/my%20film.mp4", b"my film.mp4"),
        ("file:{}/100%25.mp4", b"100%.mp4"),
        ("file://{}/caf%E9.mp4", b"caf\xe9.mp4"),
        ("file://{}/caf%C3%A9%3F%23.mp4", "café?#.mp4".encode()),
        ("100%25.mp4", b"100%25.mp4"),
    ],
)
def test_a_file_url_is_decoded_and_a_path_is_not(tmp_path: Path, url: str, name: bytes) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(b"x")
    text = f"streams: {{a: {{url: '{url.format(tmp_path)}'}}}}\nmodel: brightness"
    config = load_config(write(tmp_path, text))
    preflight(config)
    stream = config.streams["a"]
    assert stream.ends
    assert type(stream).model_validate_json(stream.model_dump_json()).file_path == path, "as in a capture's job"


@pytest.mark.parametrize("value", ["url: caf\u00e9.mp4", "images: caf\u00e9, fps: 4"])
def test_a_path_that_the_encoding_of_file_names_lacks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    config = load_config(write(tmp_path, f"streams: {{a: {{{value}}}}}"))
    monkeypatch.setattr(os, "fsencode", lambda text: text.encode("ascii", "surrogateescape"))  # as with LC_ALL=POSIX
    with pytest.raises(
        ConfigError, match=r"streams\.a\.(url|images)=.*file names have the encoding .*; set PYTHONUTF8"
    ):
        preflight(config)


@pytest.mark.parametrize("url", ["file://server/a.mp4", "file://a.mp4", "file://user:Hidden9@host/a.mp4", "FILE://"])
def test_a_file_url_with_a_host_is_refused(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"streams\.a\.url: a file URL is file:///ABSOLUTE/PATH") as error:
        load_config(write(tmp_path, f"streams: {{a: {{url: '{url}'}}}}"))
    assert "Hidden9" not in str(error.value)


def test_an_action_follows_the_threshold_of_the_model(tmp_path: Path) -> None:
    """The bundle of a service says from which probability a label counts, with softmax as with sigmoid."""
    make_brightness_bundle(tmp_path / "brightness", thresholds={"dark": 0.4})
    text = "model: brightness\nactions: {dark: {min_s: 2}, bright: {}}\nstreams: {a: {camera: 0}, b: {camera: 1, "
    config = load_config(write(tmp_path, text + "actions: {dark: {on: 0.7}}}}"))
    checked = preflight(config)
    plans = plan_streams(checked, {group.key: CLASSIFIER for group in checked.groups})
    heads = {name: plan.views[CLASSIFIER].heads[UNNAMED] for name, plan in plans.items()}
    assert heads["a"].actions.labels == {"dark": ActionConfig(on=0.4, off=0.25, min_s=2), "bright": ActionConfig()}
    assert heads["b"].actions.labels["dark"] == ActionConfig(on=0.7, off=0.5, min_s=2)
    config = load_config(write(tmp_path, text + "actions: {dark: {off: 0.45}}}}"))
    with pytest.raises(ConfigError, match=r"^streams\.b\.actions\.dark: off=0\.45: must be below on=0\.4, the model's"):
        preflight(config)
    config = load_config(write(tmp_path, text.replace("dark: {min_s: 2}", "dark: {off: 0.45}") + "}}"))
    with pytest.raises(ConfigError, match=r"^actions\.dark: off=0\.45: must be below on=0\.4"):
        preflight(config)


def test_a_label_of_the_configuration_may_have_its_accents_in_another_form(tmp_path: Path) -> None:
    path = make_brightness_bundle(tmp_path / "brightness").path
    spec = json.loads((path / "spec.json").read_text())
    (path / "spec.json").write_text(json.dumps({**spec, "labels": ["cafe\u0301", "[bright]"]}))
    for label in ("café", "cafe\u0301"):
        text = (
            "streams: {a: {camera: 0, actions: {'caf\u00e9': {on: 0.9}}}}\n" + f"actions: {{'{label}': {{off: 0.1}}}}"
        )
        config = load_config(write(tmp_path, f"{text}\nmodel: brightness"))
        preflight(config)
        assert config.actions_of("a").labels == {"café": ActionConfig(on=0.9, off=0.1)}
    text = "streams: {a: {camera: 0}}\nactions: {'caf\u00e9': {}, 'cafe\u0301': {}}\nmodel: brightness"
    with pytest.raises(ConfigError, match=r"actions: two labels differ only in the form of an accent"):
        load_config(write(tmp_path, text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams: {film: {url: absent.mp4}}", r"streams\.film\.url=.*absent\.mp4: no such file"),
        ("streams: {film: {url: .}}", r"streams\.film\.url=.*: not a file"),
        ("streams: {a: {camera: 0, hop: 40}}", r"streams\.a\.hop=40: at most 4 \(chunks in a window of brightness@1"),
        (
            "streams: {a: {camera: 0}}\nactions: {wave: {}}",
            r"actions\.wave: no label wave; brightness@1 has dark, bright",
        ),
        (
            "streams: {a: {camera: 0, actions: {wave: {}}}}",
            r"streams\.a\.actions\.wave: no label wave; brightness@1 has dark, bright",
        ),
        ("streams: {a: {camera: 0}}\nactions: {unknown: {}}", r"actions\.unknown: give unknown_below, too, like 0\.4"),
        ("streams: {a: {camera: 0}}\npublish: {journal: absent/x.db}", r"publish\.journal=.*create it first"),
        ("streams: {a: {camera: 0}}\npublish: {journal: .}", r"publish\.journal=.*is a directory"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_before_anything_starts(
    tmp_path: Path, text: str, message: str
) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    with pytest.raises(ConfigError, match=message):
        preflight(load_config(write(tmp_path, f"{text}\nmodel: brightness")))


def test_a_file_that_was_never_a_journal_is_not_taken_for_a_damaged_one(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    path = write(tmp_path, "streams: {a: {camera: 0}}\nmodel: brightness\npublish: {journal: film.mp4}")
    journal = tmp_path / "film.mp4"
    journal.write_bytes(b"a film of the user")
    with pytest.raises(ConfigError, match=r"publish\.journal=.*film\.mp4: exists and is not a journal; give another"):
        preflight(load_config(path))
    (tmp_path / "film.mp4.lock").touch()  # a service has written it: it is a damaged journal, which the hub replaces
    preflight(load_config(path))
    (tmp_path / "film.mp4.lock").unlink()
    for content in (b"", DATABASE_HEAD + bytes(84)):
        journal.write_bytes(content)
        preflight(load_config(path))


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("service.yaml", r"clips\.folder=.*service\.yaml: a file, not a folder; give another path"),
        ("absent/clips", r"clips\.folder=.*/absent does not exist; create it first, or mount its disk"),
        ("locked", r"clips\.folder=.*/locked: cannot be written; choose another place"),
        ("locked/clips", r"clips\.folder=.*/locked/clips: cannot be written; choose another place"),
        ("x" * 256, r"clips\.folder: a file name of more than 255 bytes; shorten it"),
    ],
)
def test_a_folder_of_clips_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, message: str
) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked" and access(path, mode))
    text = f"streams: {{a: {{camera: 0}}}}\nmodel: brightness\nclips: {{folder: {folder}}}"
    with pytest.raises(ConfigError, match=message):
        preflight(load_config(write(tmp_path, text)))
    for good in ("clips", "brightness"):
        preflight(load_config(write(tmp_path, text.replace(folder, good))))
    assert not (tmp_path / "clips").exists()


def test_an_error_about_an_absent_model_names_the_built_in_models(tmp_path: Path) -> None:
    path = write(tmp_path, "streams: {a: {camera: 0}}\nmodel: absent")
    with pytest.raises(UsageError, match=r"model=absent: no such directory; .* camera-events"):
        preflight(load_config(path))


def test_a_bundle_is_found_relative_to_the_configuration(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "models" / "brightness")
    config = load_config(write(tmp_path, "model: models/brightness\nstreams: {a: {camera: 0}}"))
    assert preflight(config).bundles[UNNAMED].spec.id == "brightness@1"


def test_the_example_in_the_documentation_of_actions_is_valid(tmp_path: Path) -> None:
    docs = ROOT / "docs" / "actions.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", docs.read_text(), re.S)
    config = load_config(write(tmp_path, example))
    preflight(config)
    assert config.actions_of("desk").labels.keys() == {"covered", "moved", "scene_lost", "unknown"}
    assert config.actions_of("door").labels["covered"] == ActionConfig(on=0.9, off=0.5, min_s=0.6, cooldown_s=3)


def test_the_example_in_configs_is_valid() -> None:
    config = load_config(ROOT / "configs" / "cameras.yaml")
    assert preflight(config).bundles[UNNAMED].spec.name == "camera-events"
    assert config.actions.keys() == {"scene_lost", "covered", "moved"}


@pytest.mark.parametrize(
    ("publish", "message"),
    [
        ({"events": "tcp://0.0.0.0:5555"}, r"publish\.events=tcp://0\.0\.0\.0:5555: anybody in the network"),
        ({"replay": "tcp://*:5556"}, r"publish\.replay=.*publish\.allow"),
        ({"keys": "server.key_secret"}, "keys and allow go together"),
        ({"keys": "server.key", "allow": "allowed"}, r"publish\.keys=.*public key only"),
        ({"keys": "server.key_secret", "allow": "nowhere"}, r"publish\.allow=.*create it"),
        ({"keep_size": "10"}, r"keep_size=10: .*10GB"),
        ({"keep_size": "5B"}, "10GB"),
    ],
)
def test_configuration_that_is_open_to_the_network_or_has_wrong_keys_is_refused(
    tmp_path: Path, publish: dict[str, str], message: str
) -> None:
    make_keys(tmp_path, "server")
    (tmp_path / "allowed").mkdir()
    (tmp_path / "a.mp4").touch()
    raw = {"streams": {"a": {"url": "a.mp4"}}, "publish": publish}
    with pytest.raises(ConfigError, match=message):
        preflight(parse_config(raw, base=tmp_path, origin="service.yaml"))
