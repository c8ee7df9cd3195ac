"""A taught model goes live for one view, beside the models that are there, and goes again without a trace."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamclf.config.service import ServiceConfig, parse_config_text
from streamclf.errors import ConfigError
from streamclf.subscribers.web.teach.live_edits import GoLive, RemoveModel, bundle_text

ONE = "streams:\n  door: {url: a.mp4}  # the door\n"
TWO = "# cameras\nmodel: gestures\nstreams:\n  door:\n    url: a.mp4\n  yard: {url: b.mp4}\nactions: {covered: {}}\n"
REGIONS = """\
models: {hands: gestures}
streams:
  door:
    url: a.mp4
    regions:
      gate: [0.1, 0.2, 0.4, 0.9]  # the gate
      path: {region: [0.5, 0, 1, 1], hop: 2}
"""
LISTED = "models: {a: gestures, b: gestures}\nstreams:\n  door: {url: a.mp4, models: [a]}\n  yard: {url: b.mp4}\n"


def parse(text: str) -> ServiceConfig:
    return parse_config_text(text, Path("/nowhere/service.yaml"), {})


def served(text: str) -> dict[tuple[str, str | None], tuple[str, ...]]:
    config = parse(text)
    return {(name, view.region): view.models for name in config.streams for view in config.views_of(name)}


def go_live(text: str, **choice: object) -> str:
    edit = GoLive.model_validate({"model": "open-1", "bundle": "models/open-1", "labels": ("open", "a/b"), **choice})
    return edit.apply(text, parse(text))


@pytest.mark.parametrize(
    ("text", "stream", "region"),
    [
        (ONE, "door", None),
        (TWO, "yard", None),
        (REGIONS, "door", "gate"),
        (REGIONS, "door", "path"),
        (LISTED, "door", None),
        (LISTED, "yard", None),
    ],
)
def test_only_one_view_gets_the_model_and_back_restores_the_others(text: str, stream: str, region: str | None) -> None:
    before = served(text)
    live = go_live(text, stream=stream, region=region)
    expected = {**before, (stream, region): (*before[stream, region], "open-1")}
    assert served(live) == expected
    config = parse(live)
    assert config.models["open-1"].endswith("models/open-1")
    labels = config.actions_of(stream, region).labels
    assert "open-1/open" in labels
    assert "open-1/a/b" in labels
    assert not labels["open-1/open"].model_fields_set, "the thresholds are those of the bundle"
    for comment in ("# cameras", "# the door"):
        assert (comment in live) == (comment in text)
    gone = RemoveModel(model="open-1").apply(live, config)
    assert served(gone) == before
    assert "open-1" not in gone


def test_the_default_model_stays_though_the_file_does_not_name_it() -> None:
    assert parse(go_live(ONE, stream="door")).model == "camera-events"


def test_a_second_version_is_served_beside_the_first_until_that_one_is_removed() -> None:
    first = go_live(TWO, stream="yard")
    both = GoLive(model="open-2", bundle="models/open-2", stream="yard", labels=("open",)).apply(first, parse(first))
    assert served(both)["yard", None] == ("", "open-1", "open-2")
    kept = RemoveModel(model="open-1").apply(both, parse(both))
    assert served(kept)["yard", None] == ("", "open-2")
    assert "open-2/open" in parse(kept).actions_of("yard").labels
    assert served(kept)["door", None] == ("",)


def test_what_cannot_go_live_is_refused_with_the_place() -> None:
    with pytest.raises(ConfigError, match=r"streams\.gone"):
        go_live(ONE, stream="gone")
    with pytest.raises(ConfigError, match=r"regions\.gone"):
        go_live(REGIONS, stream="door", region="gone")
    with pytest.raises(ConfigError, match=r"models\.hands: exists"):
        go_live(REGIONS, stream="door", region="gate", model="hands")
    with pytest.raises(ConfigError, match="not in the file"):
        RemoveModel(model="absent").apply(TWO, parse(TWO))
    alone = "models: {a: gestures, b: gestures}\nstreams: {door: {url: a.mp4, models: [a]}}\n"
    with pytest.raises(ConfigError, match="its only model"):
        RemoveModel(model="a").apply(alone, parse(alone))


def test_paths_of_bundles_are_relative_to_the_file() -> None:
    assert bundle_text(Path("/srv/models/yard"), Path("/srv/service.yaml")) == "models/yard"
    assert bundle_text(Path("/data/yard"), Path("/srv/service.yaml")) == "/data/yard"
