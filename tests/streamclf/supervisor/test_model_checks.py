"""Checks of several models: names, hops, labels of actions, and numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.bundles import make_brightness_bundle, make_other_head

from engines.bundle import load_bundle
from streamclf.config.service import MAX_MODELS, parse_config
from streamclf.errors import ConfigError, UsageError
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.preflight import preflight

CAMERA = {"camera": 0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """`low`, `other` and `short` with the labels dark and bright; `levels` with low, middle, high and dark/bright."""
    base = make_brightness_bundle(tmp_path / "low")
    make_brightness_bundle(tmp_path / "short", chunks=2)
    make_other_head(tmp_path / "levels", base, labels=("low", "middle", "dark/bright"))
    return tmp_path


def check(folder: Path, **config: Any) -> CheckedConfig:
    raw = {
        "models": {"a": "low", "b": "short", "c": "levels"},
        "streams": {"door": {**CAMERA, "models": ["a", "c"]}, "yard": {"camera": 1, "models": ["b"]}},
        "publish": {"journal": "j.db"},
        **config,
    }
    return preflight(parse_config(raw, base=folder, origin="service.yaml"))


def refused(folder: Path, **config: Any) -> str:
    with pytest.raises((ConfigError, UsageError)) as caught:
        check(folder, **config)
    return str(caught.value).removeprefix("service.yaml: ")


def test_models_with_the_same_encoder_form_a_group(folder: Path) -> None:
    checked = check(folder)
    assert [[*group.bundles] for group in checked.groups] == [["a", "c"], ["b"]]


def test_a_model_that_is_not_there_is_named_with_the_nearest_one(folder: Path) -> None:
    text = refused(folder, models={"a": "low", "b": "short", "c": "gestrues"})
    assert text.startswith("models.c=gestrues: no such directory; did you mean gestures? ")
    text = refused(folder, streams={"door": {**CAMERA, "models": ["a", "bb"]}})
    assert "streams.door.models: no model bb; the configuration has a, b, c; did you mean b?" in text
    (folder / "damaged").mkdir()
    text = refused(folder, models={"a": "damaged"}, streams={"door": CAMERA})
    assert text.startswith(f"models.a: {folder}/damaged/spec.json: cannot be read")
    unnamed = {"door": {**CAMERA, "models": "model"}}
    assert "no model model; the configuration has a" in refused(folder, streams=unnamed)
    (view,) = check(folder, model="low", streams=unnamed).config.views_of("door")
    assert view.models == ("",)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"streams": {"door": {**CAMERA, "models": []}}}, "streams.door.models: "),
        ({"streams": {"door": {**CAMERA, "models": ["a", "a"]}}}, "streams.door.models: a occurs twice"),
        ({"models": {"model": "low"}, "streams": {"door": CAMERA}}, "models: model: lists of models call"),
        ({"models": {"a/b": "low"}, "streams": {"door": CAMERA}}, "models.(line"),
        ({"models": {f"m{i}": "low" for i in range(MAX_MODELS + 1)}, "streams": {"door": CAMERA}}, "models: "),
        ({"models": ["low"], "streams": {"door": CAMERA}}, "models: give each model a name, like {hands: gestures}"),
        ({"models": {"a": 7}, "streams": {"door": CAMERA}}, "models.a: "),
        ({"defaults": {"models": ["x"]}, "streams": {"door": CAMERA}}, "no model x; the configuration has a, b, c"),
    ],
)
def test_lists_and_names_of_models_are_checked(folder: Path, config: dict[str, Any], message: str) -> None:
    text = refused(folder, **config)
    assert message in text
    assert "\n" not in text


def test_a_hop_must_fit_each_model_of_the_stream(folder: Path) -> None:
    check(folder, streams={"door": {**CAMERA, "models": ["a"], "hop": 4}})
    text = refused(folder, streams={"door": {**CAMERA, "hop": 4}})
    assert text == "streams.door.hop=4: at most 2 (chunks in a window of brightness@1)"


def test_a_hold_needs_windows_of_several_chunks(tmp_path: Path) -> None:
    make_brightness_bundle(tmp_path / "low", chunks=1)
    actions = {"dark": {"hold_s": 60}}
    text = refused(tmp_path, models={"a": "low"}, streams={"door": CAMERA}, actions=actions)
    assert text.startswith("actions.dark.hold_s=60: brightness@1 has windows of one chunk, a hold needs at least two")
    text = refused(tmp_path, models={"a": "low"}, streams={"door": {**CAMERA, "actions": actions}})
    assert text.startswith("streams.door.actions.dark.hold_s=60: ")


def test_a_label_of_two_models_needs_the_name_of_its_model(folder: Path) -> None:
    streams = {"door": {**CAMERA, "models": ["a", "b"]}}
    text = refused(folder, streams=streams, actions={"dark": {}})
    assert text == "actions.dark: 2 models of streams.door have this label; write a/dark or b/dark"
    own = {"door": {**CAMERA, "models": ["a", "b"], "actions": {"dark": {"on": 0.9}}}}
    assert refused(folder, streams=own).startswith("streams.door.actions.dark: 2 models of streams.door")
    for actions in ({"a/dark": {}}, {"a/dark": {}, "b/dark": {}}, {"dark": {}, "a/dark": {}, "b/dark": {}}):
        check(folder, streams=streams, actions=actions)
    check(folder, actions={"dark": {}})  # each stream has one model with this label


def test_a_label_with_a_slash_is_first_a_whole_label(folder: Path) -> None:
    check(folder, actions={"dark/bright": {}, "c/dark/bright": {}, "c/low": {}})


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"drak": {}}, "actions.drak: no label drak; the set of models a, b, c has dark, bright, "),
        ({"a/drak": {}}, "actions.a/drak: no label drak; a (brightness@1) has dark, bright; did you mean dark?"),
        ({"x/dark": {}}, "actions.x/dark: no label x/dark; "),
        ({"a/unknown": {}}, "actions.a/unknown: give unknown_below, too"),
    ],
)
def test_an_unknown_label_is_reported_with_its_model(folder: Path, actions: dict[str, Any], message: str) -> None:
    assert refused(folder, actions=actions).startswith(message)


def test_scene_lost_needs_a_model_that_compares_and_has_no_such_label(folder: Path) -> None:
    actions = {"scene_lost": {}}
    make_brightness_bundle(folder / "one", chunks=1)
    make_other_head(folder / "own", load_bundle(folder / "low"), labels=("scene_lost", "bright", "high"))
    for name, fault in (
        ("one", "brightness@1 has windows of one chunk, and two are needed"),
        ("own", "own@1 has a label of this name"),
    ):
        text = refused(folder, model=name, models={}, streams={"door": CAMERA}, actions=actions)
        assert text == f"actions.scene_lost: {fault}; leave it out"
    check(folder, model="low", models={}, streams={"door": CAMERA}, actions=actions)
    check(folder, actions={"a/scene_lost": {}})


def test_an_action_of_a_stream_needs_a_model_of_the_stream(folder: Path) -> None:
    streams = {"door": {**CAMERA, "models": ["a"], "actions": {"b/dark": {}}}}
    text = refused(folder, streams=streams)
    assert text == "streams.door.actions.b/dark: the stream has no model b; its models are a"


def test_a_stream_has_at_most_64_pairs_of_a_region_and_a_model(folder: Path) -> None:
    models = {f"m{number}": "low" for number in range(16)}
    regions = {f"r{number}": [0, 0, 0.5, 0.5] for number in range(5)}
    text = refused(folder, models=models, streams={"door": {**CAMERA, "regions": regions}})
    assert text == "streams.door: 80 pairs of a region and a model: at most 64; leave some out"
