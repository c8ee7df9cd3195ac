"""Films of a list are played as the service plays them, and faults of the list or of a film give one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from support.bundles import make_brightness_bundle, make_change_bundle
from support.labelled import write_film
from typer.testing import CliRunner

from streamclf.classifier.window_classifier import WindowResult
from streamclf.config.actions import ActionConfig, StreamActions
from training.__main__ import app
from training.errors import TrainingError
from training.evaluation.live import default_actions, play_windows
from training.evaluation.live_list import measure_list

HEADER = "path,label,start_s,end_s\n"
CONFIG = """
model: bundle
streams:
  slow: {url: a.mp4, hop: 4}
  fast: {url: b.mp4, actions: {bright: {min_s: 0}}}
actions:
  bright: {min_s: 0.4, cooldown_s: 0, active: "mon 08:00-09:00"}
  dark: {active: []}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a bundle, a configuration and a film of 12 s that is bright from 4 s to 7 s."""
    folder = tmp_path_factory.mktemp("live")
    make_brightness_bundle(folder / "bundle", whole_clips="windows", thresholds={"bright": 0.9})
    (folder / "service.yaml").write_text(CONFIG)
    grey = np.repeat([30, 230, 30], [40, 30, 50]).astype(np.uint8)
    write_film(folder / "film.mp4", np.broadcast_to(grey[:, None, None, None], (120, 32, 32, 3)).copy())
    write_film(folder / "short.mp4", np.full((5, 32, 32, 3), 30, np.uint8))
    (folder / "torn.mp4").write_bytes((folder / "film.mp4").read_bytes()[:300])
    return folder


def films_of(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "films.csv"
    path.write_text(header + rows)
    return path


def test_command_prints_the_events_of_a_film_with_the_actions_of_a_stream(folder: Path) -> None:
    films = films_of(folder, "film.mp4,bright,4,7\nshort.mp4,,,\n")
    command = ["live", "--bundle", str(folder / "bundle"), "--films", str(films)]
    command += ["--actions", str(folder / "service.yaml"), "--json", "--stream"]
    result = CliRunner().invoke(app, [*command, "slow"])
    assert result.exit_code == 0, result.stderr
    figures = json.loads(result.stdout)
    assert [*figures["labels"]] == ["bright"]  # `dark` is never active; hours do not apply to films
    assert (figures["events"], figures["right"], figures["false_starts"]["count"]) == (1, 1, 0)
    # Windows of 0.8 s every 0.8 s: the first that is wholly bright ends at 4.8 s. The action waits for the next one.
    assert figures["seconds"]["p50"] == pytest.approx(1.6, abs=0.01)
    assert figures["share_of_time"] == pytest.approx(1.4 / 3, abs=0.01)
    assert figures["false_starts"]["hours"] == pytest.approx(12 / 3600, abs=1e-4)
    assert "shorter than a window" in figures["warnings"][0]
    assert "shorter than a window" in result.stderr
    fast = json.loads(CliRunner().invoke(app, [*command, "fast"]).stdout)
    assert fast["seconds"]["p50"] < 0.7
    text = CliRunner().invoke(app, [*command[:-2], "--stream", "fast"])
    assert "right event and no wrong one         1  100.0%" in text.stdout


def test_without_a_configuration_all_labels_have_actions_with_the_bundles_thresholds(folder: Path) -> None:
    films = films_of(folder, "film.mp4,bright,4,7\n")
    figures = measure_list(str(folder / "bundle"), films)
    assert [*figures["labels"]] == ["bright", "dark"]
    assert figures["right"] == 1
    assert figures["labels"]["dark"]["false_starts"] == 2  # before the event, and again after it
    assert figures["false_starts_outside_events"]["count"] == 2


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("film.mp4,bright,4,7\ntorn.mp4,,,\n", r"torn\.mp4"),
        ("film.mp4,bright,4,7\ngone.mp4,,,\n", r"1 of 2 films cannot be read: .*gone\.mp4: no such file"),
        ("film.mp4,bright,11,14\n", r"film\.mp4: bright from 11 to 14 s: the film ends at 12\.0 s"),
        ("short.mp4,bright,0.1,0.4\n", "shorter than a window of brightness@1"),
        ("film.mp4,brihgt,4,7\n", r"line 2: no action brihgt; the service has dark, bright; did you mean bright\?"),
        ("film.mp4,,4,7\n", r"line 2: no label; give the event's, or leave"),
        ("film.mp4,bright,4,\n", r"line 2: end_s='': give seconds"),
        ("film.mp4,bright,-1,4\n", r"line 2: start_s='-1': give seconds"),
        ("film.mp4,bright,inf,inf\n", r"line 2: start_s='inf': give seconds"),
        ("film.mp4,bright,7,4\n", r"line 2: start_s=7, end_s=4: the event has to end after"),
        (",bright,4,7\n", "line 2: no path"),
        ("", "no row below its first line"),
    ],
)
def test_a_fault_of_the_list_or_of_a_film_is_one_line_and_gives_no_figures(folder: Path, rows: str, error: str) -> None:
    with pytest.raises(TrainingError, match=error) as raised:
        measure_list(str(folder / "bundle"), films_of(folder, rows))
    assert "\n" not in str(raised.value)


def test_a_missing_column_is_named(folder: Path) -> None:
    with pytest.raises(TrainingError, match="no column 'end_s'; the first line has to be path,label,start_s,end_s"):
        measure_list(str(folder / "bundle"), films_of(folder, "film.mp4,,\n", header="path,label,start_s\n"))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"config": "service.yaml"}, "streams differ in their actions or in hop; give --stream"),
        ({"config": "service.yaml", "stream": "slwo"}, "no stream slwo; .* did you mean slow"),
        ({"config": "none.yaml"}, "none.yaml"),
        ({"stream": "slow"}, "--stream slow: give its configuration, too, as --actions"),
        ({"tolerance_s": -1.0}, "--tolerance -1: from 0"),
        ({"tolerance_s": float("nan")}, "--tolerance nan: from 0"),
    ],
)
def test_options_that_cannot_be_used_are_named(folder: Path, options: dict[str, object], error: str) -> None:
    if "config" in options:
        options = {**options, "config": folder / str(options["config"])}
    with pytest.raises(TrainingError, match=error):
        measure_list(str(folder / "bundle"), films_of(folder, "film.mp4,,,\n"), **options)  # type: ignore[arg-type]


def test_a_gap_ends_an_action_and_time_with_predictions_excludes_it(folder: Path) -> None:
    spec = make_brightness_bundle(folder / "gap").spec
    row = np.array([0.01, 0.99], np.float32)
    times = [(1, 1 + number / 5) for number in range(10)] + [(2, 30 + number / 5) for number in range(10)]
    windows = [WindowResult(start_s=t - 0.8, end_s=t, probabilities=row, segment=segment) for segment, t in times]
    actions = StreamActions(labels={"bright": ActionConfig(cooldown_s=0)})
    played = play_windows(windows, spec, actions)
    assert [(round(run.start_s, 3), round(run.end_s, 3)) for run in played.runs] == [(1.6, 2.8), (30.6, 31.8)]
    assert (played.first_s, played.last_s, played.watched_s) == (1.0, 31.8, pytest.approx(4.0))


def test_an_action_that_hides_the_scene_is_held_as_in_the_service(tmp_path: Path) -> None:
    make_change_bundle(tmp_path / "bundle", hides_scene=("covered",))  # recognises only that a cover comes or goes
    grey = np.repeat([60, 180, 60], [60, 60, 40]).astype(np.uint8)
    write_film(tmp_path / "film.mp4", np.broadcast_to(grey[:, None, None, None], (160, 32, 32, 3)).copy())
    config = tmp_path / "service.yaml"
    config.write_text("model: bundle\nstreams: {a: {url: a.mp4}}\nactions: {covered: {min_s: 0.2, smooth_s: 0}}\n")
    figures = measure_list(str(tmp_path / "bundle"), films_of(tmp_path, "film.mp4,covered,6,12\n"), config=config)
    assert (figures["right"], figures["seconds_over"]["events"]) == (1, 1)
    assert figures["share_of_time"] > 0.8


def test_labels_that_mean_nothing_have_no_action_by_default(folder: Path) -> None:
    spec = make_brightness_bundle(folder / "quiet", labels=("normal", "bright")).spec
    assert [*default_actions(spec).labels] == ["bright"]
