"""Versions belong to one name, and only models that the page has taught are removed from the configuration."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.bundles import make_brightness_bundle
from support.clips import write_clip

from streamclf.config.service import load_config
from streamclf.errors import ConfigError, UsageError
from streamclf.events.example_request import ExampleRequest
from streamclf.subscribers.web.settings.config_editor import ConfigEditor
from streamclf.subscribers.web.teach import service as module
from streamclf.subscribers.web.teach.service import TeachService
from streamclf.subscribers.web.teach.training import Training


@pytest.fixture
def teach(tmp_path: Path) -> TeachService:
    make_brightness_bundle(tmp_path / "brightness")
    write_clip(tmp_path / "a.mp4", frames=5)
    (tmp_path / "models").mkdir()
    (tmp_path / "service.yaml").write_text(
        "model: brightness\nmodels: {hands: brightness}\nstreams: {door: {url: a.mp4, models: [model]}}\nexamples:\n"
    )
    return TeachService(ConfigEditor(tmp_path / "service.yaml"), cast(Any, None))


def make(tmp_path: Path, project: str, version: str) -> None:
    """Make the bundle of a training that has ended."""
    make_brightness_bundle(tmp_path / "models" / version, thresholds={"bright": 0.6})
    result = {"none_label": "dark"}
    training = Training(project, version, time.time(), outcome="done", result=result)
    module._keep_result(tmp_path / "models" / version, training)


def names(teach: TeachService, project: str) -> list[str]:
    return [each.name for each in teach.versions(project)]


def test_versions_are_listed_though_one_was_deleted_and_names_are_not_mixed(
    teach: TeachService, tmp_path: Path
) -> None:
    for project, version in (("yard", "yard"), ("yard-2", "yard-2"), ("yard", "yard-3"), ("yard", "yard-10")):
        make(tmp_path, project, version)
    for other in ("yard-01", "yard-x", "yardage", "yard-1"):
        make_brightness_bundle(tmp_path / "models" / other)
    assert names(teach, "yard") == ["yard-10", "yard-3", "yard"]
    assert names(teach, "yard-2") == ["yard-2"]
    with pytest.raises(UsageError, match="no version of yard"):
        teach.go_live("yard", "yard-2", "door", None)


def test_labels_become_actions_but_for_none_of_them(teach: TeachService, tmp_path: Path) -> None:
    make(tmp_path, "yard", "yard")
    (tmp_path / "models/yard" / module.RESULT_FILE).unlink()  # the page may be faster than the end of the training
    teach.go_live("yard", "yard", "door", None)
    config = load_config(tmp_path / "service.yaml")
    assert config.views_of("door")[0].models == ("", "yard")
    assert [*config.actions_of("door").labels] == ["yard/bright"]
    assert [each.views for each in teach.versions("yard")] == [(("door", None),)]


def test_a_model_of_the_user_is_never_removed(teach: TeachService, tmp_path: Path) -> None:
    """A folder of taught models may hold a bundle with the name of a model that comes from elsewhere."""
    make(tmp_path, "hands", "hands")
    assert not teach.versions("hands")[0].is_live
    for change in (teach.back, teach.keep):
        with pytest.raises(UsageError, match="is not live"):
            change("hands", "hands")
    assert "hands" in load_config(tmp_path / "service.yaml").models


def test_a_stream_that_the_page_does_not_show_is_not_saved(teach: TeachService, tmp_path: Path) -> None:
    service = SimpleNamespace(heartbeat=object(), away_since=None, shows=lambda stream: stream != "door")
    page = TeachService(ConfigEditor(tmp_path / "service.yaml"), cast(Any, service))
    with pytest.raises(ConfigError, match="this page does not show it"):
        page.save(ExampleRequest(stream="door", begin=1000.0, end=1002.0, project="yard", label="open"))
