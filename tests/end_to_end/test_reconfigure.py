"""A configuration edited while its service runs: what changes changes, and nothing else so much as blinks."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.live import Setup, assert_unbroken
from support.service import DEADLINE_S, Service, wait_gone
from support.watcher import Watcher

from engines.bundle import SPEC_FILE

TAKEN = r"new configuration taken: "


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def see(watcher: Watcher, stream: str, *, since: float | None = None, **fields: Any) -> float:
    """Wait for a prediction of `stream` with these values, after `since` or from now on; when it came."""
    seen = watcher.wait(
        "prediction",
        stream,
        since=time.monotonic() if since is None else since,
        within=DEADLINE_S,
        where=lambda seen: all(seen.event[key] == value for key, value in fields.items()),
    )
    return seen.at_s


def hang_up(service: Service) -> None:
    service.process.send_signal(signal.SIGHUP)


def test_streams_come_change_and_go_and_the_others_lose_no_window(setup: Setup) -> None:
    path = setup.write(streams={"stays": setup.film, "goes": setup.film, "changes": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = see(watcher, "stays")
        see(watcher, "changes")
        captures, core = set(service.children("streamclf.capture")), service.children("streamclf.classifier")
        (setup.folder / "other.mp4").write_bytes((setup.folder / "film.mp4").read_bytes())
        edited = time.monotonic()
        changed = {"url": "other.mp4", "loop": True}
        setup.write(streams={"stays": setup.film, "changes": changed, "comes": setup.film})
        service.wait_for_line(TAKEN + "added comes; removed goes; changed changes")
        gone = watcher.state("goes", "offline", since=edited, within=DEADLINE_S, reason="removed")
        see(watcher, "comes", since=edited)
        restarted = watcher.wait(
            "prediction", "changes", since=gone.at_s, within=DEADLINE_S, where=lambda seen: seen.window[0] > 1
        )
        see(watcher, "stays", since=restarted.at_s + 1)
        assert_unbroken(watcher, "stays", since=began, at_least=10)
        assert watcher.events("prediction", "goes", since=gone.at_s + 0.5) == []
        assert service.children("streamclf.classifier") == core
        assert len(captures & set(service.children("streamclf.capture"))) == 1  # that of `stays`
        assert len(service.children("streamclf.capture")) == 3
        service.interrupt()
        assert service.wait() == 0


def test_hop_thresholds_and_retention_change_without_any_process_noticing(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = see(watcher, "one")
        see(watcher, "two")
        processes = sorted(service.descendants())
        always = {"on": 0.01, "off": 0.0, "min_s": 0.0}
        setup.config["publish"]["keep"] = "1h"
        setup.write(
            streams={"one": setup.film, "two": {**setup.film, "hop": 2}}, actions={"bright": always, "dark": always}
        )
        hang_up(service)
        service.wait_for_line(TAKEN + "changed two; actions; publish")
        taken = time.monotonic()
        starts = {
            label: watcher.wait(
                "action",
                "one",
                since=began,
                within=DEADLINE_S,
                where=lambda seen, label=label: seen.event["label"] == label and seen.event["phase"] == "start",
            )
            for label in ("bright", "dark")
        }
        hopped = watcher.wait("prediction", "two", since=taken, within=DEADLINE_S)
        watcher.wait("prediction", "two", since=hopped.at_s + 1.5, within=DEADLINE_S)
        assert_unbroken(watcher, "one", since=began, at_least=8)
        assert_unbroken(watcher, "two", since=hopped.at_s, at_least=4, hop=2)
        del setup.config["actions"]
        again = time.monotonic()
        setup.write()
        hang_up(service)
        for label, start in starts.items():
            end = watcher.wait(
                "action",
                "one",
                since=again,
                within=DEADLINE_S,
                where=lambda seen, label=label: seen.event["label"] == label and seen.event["phase"] == "end",
            )
            assert end.event["reason"] == "stopped"
            assert end.event["started_s"] == start.event["started_s"]
        assert sorted(service.descendants()) == processes


def test_what_cannot_be_is_refused_with_its_reason_and_the_old_configuration_stays(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film})
    good = dict(setup.config)
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = see(watcher, "one")
        processes = sorted(service.descendants())
        refused = "the new configuration is refused, the old one stays: .*"
        for edit, message in (
            ("streams: {one: {url: film.mp4, loop: true}, two: {url: absent.mp4}}\nmodel: brightness", "no such file"),
            ("streams: [", "while parsing"),
            (json.dumps({**good, "actions": {"wave": {}}}), "actions.wave: brightness@1 has no such label"),
            (
                json.dumps({**good, "publish": {**good["publish"], "events": "tcp://127.0.0.1:5999"}}),
                "publish.events=tcp://127.0.0.1:5999: cannot change while the service runs .*; restart the service",
            ),
            (
                json.dumps({**good, "publish": {**good["publish"], "journal": "other.db"}}),
                "publish.journal=.*other.db: cannot change",
            ),
        ):
            path.write_text(edit)
            hang_up(service)
            service.wait_for_line(refused + message)
        setup.write(streams={"one": setup.film, "two": setup.film})
        edited = time.monotonic()
        see(watcher, "two", since=edited)
        assert_unbroken(watcher, "one", since=began, at_least=5)
        assert set(processes) < set(service.descendants())


def test_half_a_file_is_not_taken(setup: Setup) -> None:
    """A list of streams cut off by an editor that is still writing is a valid, shorter list of streams."""
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    whole = (
        "model: brightness\nengine: {threads: 1}\npublish: {events: 'tcp://127.0.0.1:*', replay: 'tcp://127.0.0.1:*'}\n"
    )
    streams = ["streams:\n", *(f"  {name}: {{url: film.mp4, loop: true}}\n" for name in ("one", "two", "three"))]
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        see(watcher, "two")
        edited = time.monotonic()
        with path.open("w") as file:
            file.write(whole)
            for line in streams:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
                time.sleep(0.6)
        see(watcher, "three", since=edited)
        service.wait_for_line(TAKEN + "added three$")
        assert not any("removed" in line for line in service.lines), service.lines


def other_version(folder: Path, name: str, version: str) -> Path:
    """A copy of the brightness bundle that calls itself otherwise."""
    bundle = folder / name
    shutil.copytree(folder / "brightness", bundle)
    spec = json.loads((bundle / SPEC_FILE).read_text())
    (bundle / SPEC_FILE).write_text(json.dumps({**spec, "version": version}))
    return bundle


def test_another_model_is_another_classifier_and_nothing_else(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    other_version(setup.folder, "second", "2")
    broken = other_version(setup.folder, "broken", "3")
    spec = json.loads((broken / SPEC_FILE).read_text())
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        see(watcher, "one", model="brightness@1")
        captures, hub = set(service.children("streamclf.capture")), service.children("streamclf.hub")
        classifier = service.children("streamclf.classifier")
        edited = time.monotonic()
        setup.write(model="second")
        hang_up(service)
        for stream in ("one", "two"):
            see(watcher, stream, since=edited, model="brightness@2")
        assert service.children("streamclf.classifier") != classifier

        # One that loads and computes something else than it promises: found only by running it.
        spec["labels"] = ["a", "b"]
        (broken / SPEC_FILE).write_text(json.dumps({**spec, "frames_per_chunk": 2, "feature_shape": [4]}))
        setup.write(model="broken")
        hang_up(service)
        service.wait_for_line("refused: the classifier cannot start with it; back to the one before")
        again = time.monotonic()
        see(watcher, "one", since=again, model="brightness@2")
        assert set(service.children("streamclf.capture")) == captures
        assert service.children("streamclf.hub") == hub
        segments = {seen.window[0] for seen in watcher.events("prediction", "one")}
        assert len(segments) == 1


def test_more_streams_than_the_bank_was_made_for_cost_a_new_classifier_and_no_capture(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film}, engine={"threads": 1, "spare_streams": 0})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        see(watcher, "one")
        captures = set(service.children("streamclf.capture"))
        edited = time.monotonic()
        setup.write(streams={"one": setup.film, "two": setup.film})
        hang_up(service)
        service.wait_for_line("2 streams, and the classifier has room for 1: it is started anew")
        see(watcher, "two", since=edited)
        see(watcher, "one", since=edited)
        assert captures < set(service.children("streamclf.capture"))


def test_it_ends_in_the_middle_of_a_change(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        see(watcher, "one")
        other_version(setup.folder, "second", "2")
        setup.write(streams={"two": {**setup.film, "pace": "fast"}, "three": setup.film}, model="second")
        hang_up(service)
        service.wait_for_line(TAKEN)
        children = service.descendants()
        began = time.monotonic()
        service.process.terminate()
        assert service.wait() == 0
        assert time.monotonic() - began < 2.5
        wait_gone(children)
