"""The configuration file: defaults, paths, environment variables, errors, and what one stream inherits."""

from pathlib import Path

import pytest
from pydantic import BaseModel

from streamclf.config.actions import ActionConfig, ActionOverride, StreamActions
from streamclf.config.engine import EngineConfig
from streamclf.config.publish import PublishConfig
from streamclf.config.service import ServiceConfig, load_config
from streamclf.config.source import SourceConfig
from streamclf.config.stream import StreamConfig
from streamclf.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "service.yaml"
    path.write_text(text)
    return path


def test_the_smallest_configuration_gets_the_documented_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "streams: {desk: {camera: 0}}"))
    assert config.model == "camera-events"
    assert config.streams["desk"].camera == 0
    assert config.publish.events == "tcp://127.0.0.1:5555"
    assert config.publish.keep == 7 * 86400
    assert config.publish.journal == tmp_path / "streamclf.db"


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "streams: {film: {url: clips/a.mp4}}\npublish: {journal: /var/log/x.db}"))
    assert config.streams["film"].url == str(tmp_path / "clips/a.mp4")
    assert config.publish.journal == Path("/var/log/x.db")


def test_a_password_with_special_characters_is_quoted_in_a_url(tmp_path: Path) -> None:
    environ = {"USER_NAME": "ann", "PASSWORD": "p@:/%?#w"}
    path = write(tmp_path, 'streams: {door: {url: "rtsp://${USER_NAME}:${PASSWORD}@10.0.0.5/stream1"}}')
    url = load_config(path, environ).streams["door"].url
    assert url == "rtsp://ann:p%40%3A%2F%25%3F%23w@10.0.0.5/stream1"


def test_a_whole_url_from_the_environment_is_not_quoted(tmp_path: Path) -> None:
    path = write(tmp_path, 'streams: {door: {url: "${DOOR}"}}')
    assert load_config(path, {"DOOR": "rtsp://a:b@c/d"}).streams["door"].url == "rtsp://a:b@c/d"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("streams: {door: {camera: 0, fbs: 3}}", r"streams\.door\.fbs: unknown key; known here: camera, url"),
        ("streams: {door: {camera: 0, fbs: 3}}", r"; did you mean fps\?"),
        ("streems: {}", r"streems: unknown key; known here: model, models, engine, defaults, streams"),
        ("model: x", r"streams: missing; add this key"),
        ("streams: {door: {}}", r"streams\.door: give one of camera, url, images, push"),
        ("streams: {door: {camera: 0, url: a.mp4}}", r"streams\.door: give one of camera, url, images, push"),
        ("streams: {door: {camera: 1000}}", r"camera=1000: 0 to 99"),
        ("streams: {'a b': {camera: 0}}", r"streams\.a b"),
        ("streams: {door: {camera: 0, hop: 0}}", r"streams\.door\.hop=0: .*greater than or equal to 1"),
        ("streams: {door: {camera: 0, hop: true}}", r"streams\.door: hop: a number, not true"),
        ("streams: {door: {camera: 0, motion_gate: .nan}}", r"streams\.door\.motion_gate=nan: .*finite"),
        ("streams: {door: {camera: false}}", r"streams\.door: camera: a number, not false"),
        ("streams: {door: {camera: 0}}\nengine: {max_wait_ms: .inf}", r"engine\.max_wait_ms=inf: .*finite"),
        ("streams: {door: {camera: 0}}\nunknown_below: 1e400", r"unknown_below=1e400: .*finite"),
        ("streams: {door: {camera: 0}}\npublish: {keep: 1000000d}", r"publish\.keep=1000000d: .*at most 36600d"),
        (
            "streams: {door: {camera: 0}}\npublish: {keep_size: 99999TB}",
            r"publish\.keep_size=99999TB: .*at most 1000TB",
        ),
        ("streams: {door: {camera: 0, hop: many}}", r"streams\.door\.hop=many: .*integer"),
        ("streams: {door: {url: 'gopher://x/y'}}", r"streams\.door\.url: scheme 'gopher': one of rtsp"),
        ("streams: {door: {url: 'rtsp://x/y', loop: true}}", r"are for files"),
        ("streams: {door: {camera: 0}}\nengine: {max_batch: 0}", r"engine\.max_batch=0"),
        ("streams: {door: {camera: 0}}\nengine: {devices: [0, 1, 1]}", r"engine\.devices.*GPU 1 is listed twice"),
        ("streams: {door: {camera: 0}}\nengine: {devices: []}", r"engine\.devices.*0 GPUs: give 1 to 16, or leave"),
        ("streams: {door: {camera: 0}}\nengine: {devices: 0}", r"engine\.devices=0"),
        (
            "streams: {door: {camera: 0}}\nengine: {devices: [-1]}",
            r"engine\.devices.*: GPU -1: 0 to 63; give the numbers",
        ),
        ("streams: {door: {camera: 0}}\nengine: {devices: [cuda:0]}", r"engine\.devices\.0.*integer"),
        ("streams: {door: {camera: 0}}\nengine: {devices: [true]}", r"engine\.devices\.0.*integer"),
        (
            "streams: {door: {camera: 0}}\nengine: {backend: openvino, devices: [0]}",
            r"only tensorrt has numbered GPUs, not openvino; leave devices out, or set backend: tensorrt",
        ),
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
            r"actions\.wave: off=0\.5: must be below on=0\.5",
        ),
        (
            "streams: {door: {camera: 0, actions: {wave: {off: 0.9}}}}\nactions: {wave: {on: 0.85}}",
            r"streams\.door\.actions\.wave: off=0\.9: must be below on=0\.85",
        ),
        (
            "streams: {door: {camera: 0, actions: {wave: {onn: 1}}}}",
            r"streams\.door\.actions\.wave\.onn: unknown key; known here: on, off, min_s, smooth_s",
        ),
        (
            "streams: {door: {camera: 0}}\nactions: {wave: {active: [mon-fry 08:00-18:00]}}",
            r"actions\.wave\.active.*: 'mon-fry 08:00-18:00': day 'mon-fry': must be one of mon, tue, wed",
        ),
        ("streams: {door: {camera: 0}}\nunknown_below: 40", r"unknown_below=40: .*less than or equal to 1"),
        ("streams: {door: {camera: 0}}\ntimezone: Mars/Olympus", r"timezone=Mars/Olympus: .*like Europe/Berlin"),
        ("streams: {a: {camera: 0}, a: {camera: 1}}", r"key 'a' appears twice, again in line 1; line 1 has it already"),
        ("- a\n- b", r"holds a list, not keys and values"),
        ("# nothing yet\n", r"service\.yaml: is empty; it needs at least streams:"),
        ("streams: {}", r"streams: no stream; give at least one"),
        (
            "streams: {a: {url: a.mp4, models: []}}",
            r"streams\.a\.models: must not be empty; give at least one, or leave",
        ),
        (
            "streams: {a: {url: a.mp4, regions: [yard]}}",
            r"streams\.a\.regions: must be a section of keys, like NAME: VALUE",
        ),
        ("streams: {'front door': {camera: 0}}", r"streams\.front door: must be 1 to 64 letters, digits, _ and -"),
        (
            "streams: {door: {camera: 0}}\npublish: {events: 'tcp://127.0.0.1:7', replay: 'tcp://127.0.0.1:7'}",
            r"publish: events and replay are both tcp://127\.0\.0\.1:7; give each its own",
        ),
        ("streams: [", r"service\.yaml: line 1, column 11: a value is missing here"),
        ("streams: {door: {url: '${NOT_SET_ANYWHERE}'}}", r"streams\.door\.url: environment variable NOT_SET_ANYWHERE"),
        ("!!python/object/apply:os.system ['true']", r"could not determine a constructor"),
    ],
)
def test_a_mistake_is_reported_in_one_line_with_key_and_remedy(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(write(tmp_path, text), {})
    assert "\n" not in str(caught.value)


def test_an_error_contains_no_password(tmp_path: Path) -> None:
    path = write(tmp_path, 'streams: {door: {url: "ftp://ann:${P}@host/x", camera: 0}}')
    with pytest.raises(ConfigError) as caught:
        load_config(path, {"P": "s3cret"})
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        load_config(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="Is a directory"):
        load_config(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        ConfigError, match=r"not a text file in UTF-8 \(byte 0\); save it in UTF-8, or give the path of a YAML file"
    ):
        load_config(tmp_path / "bytes.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigError, match="at most 1048576"):
        load_config(tmp_path / "large.yaml")


def test_a_stream_has_the_common_actions_with_its_overrides(tmp_path: Path) -> None:
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


def test_a_stream_has_a_name_for_people_on_one_line(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "streams: {door: {camera: 0, name: ' Haustür 🚪 '}, yard: {camera: 1}}"))
    assert config.streams["door"].name == "Haustür 🚪"
    assert config.streams["yard"].name is None
    path = write(tmp_path, f"streams: {{door: {{camera: 0, name: {'ü' * 64}}}}}")
    assert load_config(path).streams["door"].name == "ü" * 64
    for text, fault in {
        '"a\\nb"': "one line", '"${NAME}"': "control", '"a\\u202Eb"': "control", '"  "': "blank", '""': "at least 1",
        "ü" * 65: "at most 64", "3": "quotes", "[a]": "",
    }.items():  # fmt: skip
        path = write(tmp_path, f"streams: {{door: {{camera: 0, name: {text}}}}}")
        with pytest.raises(ConfigError, match=rf"streams\.door\.name.*{fault}") as raised:
            load_config(path, {"NAME": "\x1b[31m"})
        assert "\n" not in str(raised.value)
        assert "\x1b" not in str(raised.value)


def test_a_stream_inherits_the_keys_of_engine_that_it_does_not_set(tmp_path: Path) -> None:
    def settings(engine: str, stream: str = "") -> tuple[bool | None, float | None]:
        text = f"engine: {{{engine}}}\nstreams: {{a: {{camera: 0, {stream}}}}}"
        resolved = load_config(write(tmp_path, text)).settings_of("a")
        return resolved.adaptive, resolved.max_staleness_ms

    common = "adaptive: true, max_staleness_ms: 300"
    assert settings("") == (False, None)
    assert settings(common) == (True, 300)
    assert settings(common, "adaptive: false, max_staleness_ms: 90") == (False, 90)
    assert settings("", "adaptive: true, max_staleness_ms: 90") == (True, 90)


def test_the_source_of_a_stream_has_no_keys_of_the_classifier(tmp_path: Path) -> None:
    stream = load_config(write(tmp_path, "streams: {a: {url: a.mp4, pace: fast, hop: 3}}")).streams["a"]
    assert stream.source.pace == "fast"
    assert "hop" not in SourceConfig.model_fields
    assert SourceConfig.model_validate_json(stream.source.model_dump_json()) == stream.source


@pytest.mark.parametrize(
    "section", [ActionConfig, ActionOverride, EngineConfig, PublishConfig, ServiceConfig, StreamConfig]
)
def test_every_key_has_a_description(section: type[BaseModel]) -> None:
    for key, field in section.model_fields.items():
        assert field.description, key
        assert field.description.endswith("."), key


def test_model_and_models_are_served_beside_each_other(tmp_path: Path) -> None:
    def models(text: str) -> tuple[dict[str, str], tuple[str, ...]]:
        config = load_config(write(tmp_path, f"streams: {{a: {{camera: 0}}}}\n{text}"))
        return config.all_models, config.views_of("a")[0].models

    assert models("") == ({"": "camera-events"}, ("",))
    assert models("models: {}") == ({"": "camera-events"}, ("",))
    assert models("models: {hands: gestures}") == ({"hands": "gestures"}, ("hands",))
    assert models("model: camera-events\nmodels: {hands: gestures}") == (
        {"": "camera-events", "hands": "gestures"},
        ("", "hands"),
    )
    (tmp_path / "yard").mkdir()
    assert models("models: {yard: yard}")[0] == {"yard": str(tmp_path / "yard")}
