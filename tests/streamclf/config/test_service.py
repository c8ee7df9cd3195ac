import re
from pathlib import Path

import pytest
from support.bundles import make_brightness_bundle
from support.repository import ROOT

from streamclf.config.actions import ActionConfig, StreamActions
from streamclf.config.service import load_config
from streamclf.errors import ConfigError, UsageError
from streamclf.supervisor.preflight import preflight


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    return path


def test_the_smallest_configuration(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "streams: {desk: {camera: 0}}"))
    assert config.model == "camera-events"
    assert config.streams["desk"].camera == 0
    assert config.publish.events == "tcp://127.0.0.1:5555"
    assert config.publish.keep_s == 7 * 86400
    assert config.publish.journal == tmp_path / "streamclf.db"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "streams: {film: {url: clips/a.mp4}}\npublish: {journal: /var/log/x.db}"))
    assert config.streams["film"].url == str(tmp_path / "clips/a.mp4")
    assert config.publish.journal == Path("/var/log/x.db")


def test_a_password_with_every_awkward_character_stays_one_password(tmp_path: Path) -> None:
    environ = {"USER_NAME": "ann", "PASSWORD": "p@:/%?#w"}
    path = write(tmp_path, 'streams: {door: {url: "rtsp://${USER_NAME}:${PASSWORD}@10.0.0.5/stream1"}}')
    url = load_config(path, environ).streams["door"].url
    assert url == "rtsp://ann:p%40%3A%2F%25%3F%23w@10.0.0.5/stream1"


def test_a_whole_url_from_the_environment_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, 'streams: {door: {url: "${DOOR}"}}')
    assert load_config(path, {"DOOR": "rtsp://a:b@c/d"}).streams["door"].url == "rtsp://a:b@c/d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams: {door: {camera: 0, fbs: 3}}", r"streams\.door\.fbs: unknown key; known here: camera, url"),
        ("streems: {}", r"streems: unknown key; known here: model, engine, streams"),
        ("streams: {}", r"streams: .*at least 1"),
        ("model: x", r"streams: Field required"),
        ("streams: {door: {}}", r"streams\.door: give one of camera, url, images, push"),
        ("streams: {door: {camera: 0, url: a.mp4}}", r"streams\.door: give one of camera, url, images, push"),
        ("streams: {door: {camera: 1000}}", r"camera=1000: 0 to 99"),
        ("streams: {'a b': {camera: 0}}", r"streams\.a b"),
        ("streams: {door: {camera: 0, hop: 0}}", r"streams\.door\.hop=0: .*greater than or equal to 1"),
        ("streams: {door: {camera: 0, hop: many}}", r"streams\.door\.hop=many: .*integer"),
        ("streams: {door: {url: 'gopher://x/y'}}", r"streams\.door\.url: scheme 'gopher': one of rtsp"),
        ("streams: {door: {url: 'rtsp://x/y', loop: true}}", r"are for files"),
        ("streams: {door: {camera: 0}}\nengine: {max_batch: 0}", r"engine\.max_batch=0"),
        ("streams: {door: {camera: 0}}\nengine: {max_staleness_ms: 0}", r"engine\.max_staleness_ms=0.*equal to 1"),
        ("streams: {door: {camera: 0, max_staleness_ms: 0}}", r"streams\.door\.max_staleness_ms=0.*equal to 1"),
        ("streams: {door: {camera: 0, adaptive: often}}", r"streams\.door\.adaptive=often: .*boolean"),
        ("streams: {door: {camera: 0, motion_gate: -1}}", r"streams\.door\.motion_gate=-1.*equal to 0"),
        ("streams: {door: {camera: 0, motion_gate: 256}}", r"streams\.door\.motion_gate=256.*equal to 255"),
        ("streams: {door: {camera: 0}}\npublish: {events: 'tcp://host'}", r"publish\.events=tcp://host: .*like tcp://"),
        ("streams: {door: {camera: 0}}\npublish: {events: 'tcp://h:99999'}", r"port 99999: 1 to 65535"),
        ("streams: {door: {camera: 0}}\npublish: {keep: forever}", r"publish\.keep=forever"),
        (
            "streams: {door: {camera: 0}}\nactions: {wave: {on: 0.5, off: 0.5}}",
            r"actions\.wave: off=0\.5: below on=0\.5",
        ),
        (
            "streams: {door: {camera: 0, actions: {wave: {off: 0.9}}}}\nactions: {wave: {on: 0.85}}",
            r"streams\.door\.actions\.wave: off=0\.9: below on=0\.85",
        ),
        (
            "streams: {door: {camera: 0, actions: {wave: {onn: 1}}}}",
            r"streams\.door\.actions\.wave\.onn: unknown key; known here: on, off, min_s, smooth_s",
        ),
        (
            "streams: {door: {camera: 0}}\nactions: {wave: {active: [mon-fry 08:00-18:00]}}",
            r"actions\.wave\.active.*: 'mon-fry 08:00-18:00': day 'mon-fry'; mon, tue, wed",
        ),
        ("streams: {door: {camera: 0}}\nunknown_below: 40", r"unknown_below=40: .*less than or equal to 1"),
        ("streams: {door: {camera: 0}}\ntimezone: Mars/Olympus", r"timezone=Mars/Olympus: .*like Europe/Berlin"),
        ("streams: {a: {camera: 0}, a: {camera: 1}}", r"key 'a' stands twice, again in line 1"),
        ("- a\n- b", r"holds list, not keys and values"),
        ("streams: [", r"service\.yaml: while parsing"),
        ("streams: {door: {url: '${NOT_SET_ANYWHERE}'}}", r"streams\.door\.url: environment variable NOT_SET_ANYWHERE"),
        ("!!python/object/apply:os.system ['true']", r"could not determine a constructor"),
    ],
)
def test_a_mistake_is_one_line_with_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text), {})
    assert "\n" not in str(caught.value)


def test_a_password_never_stands_in_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, 'streams: {door: {url: "ftp://ann:${P}@host/x", camera: 0}}')
    with pytest.raises(ConfigError) as caught:
        load_config(path, {"P": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_files_that_are_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file"):
        load_config(tmp_path / "bytes.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="at most 1048576"):
        load_config(tmp_path / "large.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams: {film: {url: absent.mp4}}", r"streams\.film\.url=.*absent\.mp4: no such file"),
        ("streams: {film: {url: .}}", r"streams\.film\.url=.*: not a file"),
        ("streams: {a: {camera: 0, hop: 40}}", r"streams\.a\.hop=40: at most 4 \(chunks in a window of brightness@1"),
        (
            "streams: {a: {camera: 0}}\nactions: {wave: {}}",
            r"actions\.wave: brightness@1 has no such label; it has dark, bright",
        ),
        (
            "streams: {a: {camera: 0, actions: {wave: {}}}}",
            r"streams\.a\.actions\.wave: brightness@1 has no such label; it has dark, bright",
        ),
        ("streams: {a: {camera: 0}}\nactions: {unknown: {}}", r"actions\.unknown: give unknown_below, too, like 0\.4"),
        ("streams: {a: {camera: 0}}\npublish: {journal: absent/x.db}", r"publish\.journal=.*create it first"),
        ("streams: {a: {camera: 0}}\npublish: {journal: .}", r"publish\.journal=.*is a directory"),
    ],
)
def test_what_cannot_work_here_is_known_before_anything_starts(tmp_path: Path, text: str, message: str) -> None:
    make_brightness_bundle(tmp_path / "brightness")
    with pytest.raises(ConfigError, match=message):
        preflight(load_config(write(tmp_path, f"{text}\nmodel: brightness")))


def test_an_absent_model_names_the_built_in_ones(tmp_path: Path) -> None:
    path = write(tmp_path, "streams: {a: {camera: 0}}\nmodel: absent")
    with pytest.raises(UsageError, match=r"model=absent: no such directory; .* camera-events"):
        preflight(load_config(path))


def test_a_bundle_beside_the_file_is_found(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "models" / "brightness")
    config = load_config(write(tmp_path, "model: models/brightness\nstreams: {a: {camera: 0}}"))
    assert preflight(config).spec.id == "brightness@1"


def test_a_stream_takes_the_common_actions_and_says_what_differs(tmp_path: Path) -> None:
    text = """
        actions: {wave: {on: 0.9, min_s: 2, active: "mon-fri 08:00-18:00"}, walk: {}}
        unknown_below: 0.4
        timezone: Europe/Berlin
        streams:
          plain: {camera: 0}
          door:
            camera: 1
            unknown_below: 0
            actions: {wave: {on: 0.7, active: null}, walk: {active: []}, run: {off: 0.1}}
        """
    config = load_config(write(tmp_path, text))
    common = {"wave": ActionConfig(on=0.9, min_s=2, active=("mon-fri 08:00-18:00",)), "walk": ActionConfig()}
    assert config.actions_of("plain") == StreamActions(
        labels={**common, "unknown": ActionConfig()}, unknown_below=0.4, timezone="Europe/Berlin"
    )
    assert config.actions_of("door") == StreamActions(
        labels={
            "wave": ActionConfig(on=0.7, min_s=2, active=None),
            "walk": ActionConfig(active=()),
            "run": ActionConfig(off=0.1),
        },
        timezone="Europe/Berlin",
    )
    job = config.actions_of("door").model_dump_json()
    assert StreamActions.model_validate_json(job) == config.actions_of("door")


def test_the_documented_actions_can_be_run(tmp_path: Path) -> None:
    docs = ROOT / "docs" / "actions.md"
    (example,) = re.findall(r"```yaml\n(.*?)```", docs.read_text(), re.S)
    config = load_config(write(tmp_path, example))
    preflight(config)
    assert config.actions_of("desk").labels.keys() == {"covered", "moved", "unknown"}
    assert config.actions_of("door").labels["covered"] == ActionConfig(on=0.9, off=0.5, min_s=0.6, cooldown_s=3)


def test_the_example_in_configs_works() -> None:
    config = load_config(ROOT / "configs" / "cameras.yaml")
    assert preflight(config).spec.name == "camera-events"
    assert config.actions.keys() == {"covered", "moved"}
