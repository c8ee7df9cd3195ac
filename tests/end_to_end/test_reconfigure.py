"""If a configuration is edited while its service runs, only the changed parts change; the others are undisturbed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.hub_process import wait_until
from support.live import Setup, assert_unbroken
from support.service import DEADLINE_S, Service, wait_gone
from support.watcher import Watcher

from engines.bundle import SPEC_FILE
from streamclf.client.subscription import subscribe
from streamclf.events.types import Status

APPLIED = r"new configuration applied: "


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def wait_prediction(watcher: Watcher, stream: str, *, since: float | None = None, **fields: Any) -> float:
    """Wait for a prediction of `stream` with these values, after `since` or from now on; return its arrival time."""
    seen = watcher.wait(
        "prediction",
        stream,
        since=time.monotonic() if since is None else since,
        within=DEADLINE_S,
        where=lambda seen: all(seen.event[key] == value for key, value in fields.items()),
    )
    return seen.at_s


def reload(service: Service) -> None:
    service.process.send_signal(signal.SIGHUP)


def test_streams_are_added_changed_and_removed_and_others_lose_no_window(setup: Setup) -> None:
    path = setup.write(streams={"stays": setup.film, "goes": setup.film, "changes": setup.film})

    def wait_configured(streams: set[str]) -> None:
        watcher.wait(
            "heartbeat",
            None,
            since=time.monotonic(),
            within=DEADLINE_S,
            where=lambda seen: set(seen.event.get("streams", ())) == streams,
        )

    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_prediction(watcher, "stays")
        wait_prediction(watcher, "changes")
        captures, classifier = set(service.children("streamclf.capture")), service.children("streamclf.classifier")
        (setup.folder / "other.mp4").write_bytes((setup.folder / "film.mp4").read_bytes())
        wait_configured({"stays", "goes", "changes"})
        edited = time.monotonic()
        changed = {"url": "other.mp4", "loop": True}
        setup.write(streams={"stays": setup.film | {"name": "Hall"}, "changes": changed, "comes": setup.film})
        service.wait_for_line(APPLIED + "added comes; removed goes; changed changes, stays")
        gone = watcher.state("goes", "offline", since=edited, within=DEADLINE_S, reason="removed")
        wait_configured({"stays", "comes", "changes"})
        watcher.wait(
            "status", "stays", since=edited, within=DEADLINE_S, where=lambda seen: seen.event.get("name") == "Hall"
        )
        assert "actions" not in gone.event
        wait_prediction(watcher, "comes", since=edited)
        restarted = watcher.wait(
            "prediction", "changes", since=gone.at_s, within=DEADLINE_S, where=lambda seen: seen.window[0] > 1
        )
        wait_prediction(watcher, "stays", since=restarted.at_s + 1)
        assert_unbroken(watcher, "stays", since=began, at_least=10)
        assert watcher.events("prediction", "goes", since=gone.at_s + 0.5) == []
        assert service.children("streamclf.classifier") == classifier
        assert len(captures & set(service.children("streamclf.capture"))) == 1  # the capture process of `stays`
        assert len(service.children("streamclf.capture")) == 3
        service.interrupt()
        assert service.wait() == 0


def test_hop_thresholds_and_retention_change_without_a_restart(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_prediction(watcher, "one")
        wait_prediction(watcher, "two")
        processes = sorted(service.descendants())
        always = {"on": 0.01, "off": 0.0, "min_s": 0.0}
        setup.config["publish"]["keep"] = "1h"
        setup.write(
            streams={"one": setup.film, "two": {**setup.film, "hop": 2}}, actions={"bright": always, "dark": always}
        )
        reload(service)
        service.wait_for_line(APPLIED + "changed two; actions; publish")
        applied = time.monotonic()
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
        hopped = watcher.wait("prediction", "two", since=applied, within=DEADLINE_S)
        watcher.wait("prediction", "two", since=hopped.at_s + 1.5, within=DEADLINE_S)
        assert_unbroken(watcher, "one", since=began, at_least=8)
        assert_unbroken(watcher, "two", since=hopped.at_s, at_least=4, hop=2)
        del setup.config["actions"]
        again = time.monotonic()
        setup.write()
        reload(service)
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


def test_an_impossible_configuration_is_refused_and_the_old_one_stays(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film})
    good = dict(setup.config)
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_prediction(watcher, "one")
        processes = sorted(service.descendants())
        refused = "the new configuration is refused, the old one stays: .*"
        for edit, message in (
            ("streams: {one: {url: film.mp4, loop: true}, two: {url: absent.mp4}}\nmodel: brightness", "no such file"),
            ("streams: [", "line 1, column 11: a value is missing"),
            (json.dumps({**good, "actions": {"wave": {}}}), "actions.wave: no label wave; brightness@1 has"),
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
            reload(service)
            service.wait_for_line(refused + message)
        setup.write(streams={"one": setup.film, "two": setup.film})
        edited = time.monotonic()
        wait_prediction(watcher, "two", since=edited)
        assert_unbroken(watcher, "one", since=began, at_least=5)
        assert set(processes) < set(service.descendants())


def test_a_half_written_file_is_not_applied(setup: Setup) -> None:
    """A list of streams that an editor has not finished is a valid, shorter list of streams."""
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    whole = (
        "model: brightness\nengine: {threads: 1}\npublish: {events: 'tcp://127.0.0.1:*', replay: 'tcp://127.0.0.1:*'}\n"
    )
    streams = ["streams:\n", *(f"  {name}: {{url: film.mp4, loop: true}}\n" for name in ("one", "two", "three"))]
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        wait_prediction(watcher, "two")
        edited = time.monotonic()
        with path.open("w") as file:
            file.write(whole)
            for line in streams:
                # The service takes a file as finished that has not changed for a second.
                for part in (line, *["# more\n"] * 6):
                    file.write(part)
                    file.flush()
                    os.fsync(file.fileno())
                    time.sleep(0.1)
        wait_prediction(watcher, "three", since=edited)
        service.wait_for_line(APPLIED + "added three$")
        assert not any("removed" in line for line in service.lines), service.lines


def other_version(folder: Path, name: str, version: str) -> Path:
    """Copy the brightness bundle under another name and version."""
    bundle = folder / name
    shutil.copytree(folder / "brightness", bundle)
    spec = json.loads((bundle / SPEC_FILE).read_text())
    (bundle / SPEC_FILE).write_text(json.dumps({**spec, "version": version}))
    return bundle


def test_another_head_restarts_nothing_and_another_encoder_only_the_classifier(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    other_version(setup.folder, "second", "2")
    broken = other_version(setup.folder, "broken", "3")
    spec = json.loads((broken / SPEC_FILE).read_text())
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_prediction(watcher, "one", model="brightness@1")
        captures, hub = set(service.children("streamclf.capture")), service.children("streamclf.hub")
        classifier = service.children("streamclf.classifier")
        edited = time.monotonic()
        setup.write(model="second")
        reload(service)
        for stream in ("one", "two"):
            at_s = wait_prediction(watcher, stream, since=edited, model="brightness@2")
        wait_prediction(watcher, "one", since=at_s + 0.5)
        assert service.children("streamclf.classifier") == classifier
        assert_unbroken(watcher, "one", since=began, at_least=4)

        # This bundle loads, but computes other features than its spec says: only running it shows that.
        spec["labels"] = ["a", "b"]
        (broken / SPEC_FILE).write_text(json.dumps({**spec, "frames_per_chunk": 2, "feature_shape": [4]}))
        setup.write(model="broken")
        reload(service)
        service.wait_for_line("refused: the classifier cannot start with it; back to the one before")
        again = time.monotonic()
        wait_prediction(watcher, "one", since=again, model="brightness@2")
        assert service.children("streamclf.classifier") != classifier
        assert set(service.children("streamclf.capture")) == captures
        assert service.children("streamclf.hub") == hub
        segments = {seen.window[0] for seen in watcher.events("prediction", "one")}
        assert len(segments) == 1


def test_more_streams_than_the_bank_holds_restart_only_the_classifier(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film}, engine={"threads": 1, "spare_streams": 0})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        wait_prediction(watcher, "one")
        captures = set(service.children("streamclf.capture"))
        edited = time.monotonic()
        setup.write(streams={"one": setup.film, "two": setup.film})
        reload(service)
        service.wait_for_line("classifier: 2 streams or regions, but it serves at most 1: it restarts")
        wait_prediction(watcher, "two", since=edited)
        wait_prediction(watcher, "one", since=edited)
        assert captures < set(service.children("streamclf.capture"))


def test_the_service_ends_in_the_middle_of_a_change(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film, "two": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        wait_prediction(watcher, "one")
        other_version(setup.folder, "second", "2")
        setup.write(streams={"two": {**setup.film, "pace": "fast"}, "three": setup.film}, model="second")
        reload(service)
        service.wait_for_line(APPLIED)
        children = service.descendants()
        service.process.terminate()
        assert service.wait() == 0
        wait_gone(children)


def test_a_refused_edit_shows_no_password_and_the_service_goes_on(setup: Setup) -> None:
    path = setup.write(streams={"stays": setup.film})
    kept = json.dumps({**setup.config, "publish": {**setup.config["publish"], "keep": "1000000d"}})
    edits = [
        "streams: {door: {url: 'rtsp://admin:a[Hidden9]c@10.0.0.5/s1'}}\n",
        "streams:\n  door: {url: 'rtsp://admin:Hidden9Password@10.0.0.5/s1' transport: tcp}\n",
        "streams: {door: {push: x, push_secret: [Hidden9Hidden9]}}\n",
        "streams: {door: {url: 'rtsp://admin:12#Hidden9@10.0.0.5/s1'}}\n",
        "timezone: &Hidden9 [*Hidden9]\n",
        kept,
    ]
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        wait_prediction(watcher, "stays")
        for number, text in enumerate(edits, start=1):
            path.write_text(text)
            reload(service)
            wait_until(partial(has_refused, service, number), "the edit to be refused")
        wait_prediction(watcher, "stays")
        service.interrupt()
        service.wait()
    output = "\n".join(service.lines)
    assert "Hidden9" not in output
    assert "Traceback" not in output


def has_refused(service: Service, edits: int) -> bool:
    return sum("the new configuration is refused" in line for line in service.lines) >= edits


def wait_configuration(watcher: Watcher, since: float, **fields: Any) -> dict[str, Any]:
    """Wait for a heartbeat after `since` whose `configuration` has these values; return that."""
    seen = watcher.wait(
        "heartbeat",
        None,
        since=since,
        within=DEADLINE_S,
        where=lambda seen: all(seen.event.get("configuration", {}).get(key) == value for key, value in fields.items()),
    )
    configuration: dict[str, Any] = seen.event["configuration"]
    return configuration


def last_status(service: Service, stream: str) -> Status:
    """Return the stream's last status from the journal, once it has one; a watcher misses those of the first moments.

    A hub may publish its first heartbeat before the supervisor's first statuses reach it.
    """
    found: list[Status] = []

    def has_status() -> bool:
        with subscribe(service.endpoint) as events:
            statuses = [each for each in events.snapshot(DEADLINE_S).events if isinstance(each, Status)]
        found[:] = [each for each in statuses if each.stream == stream]
        return bool(found)

    wait_until(has_status, f"the status of {stream}", DEADLINE_S)
    return found[-1]


def test_a_stream_is_paused_and_continues_later(setup: Setup) -> None:
    paused = {**setup.film, "enabled": False}
    path = setup.write(streams={"stays": setup.film, "door": setup.film, "yard": {"url": "absent.mp4", **paused}})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_prediction(watcher, "stays")
        wait_prediction(watcher, "door")
        first = wait_configuration(watcher, began, applied=True)
        assert last_status(service, "yard").paused
        edited = time.monotonic()
        setup.write(streams={**setup.config["streams"], "door": paused})
        gone = watcher.state("door", "offline", since=edited, within=DEADLINE_S, reason="paused in the configuration")
        assert gone.event["paused"] is True
        assert "actions" in gone.event  # it is still configured
        heartbeat = watcher.wait("heartbeat", None, since=gone.at_s, within=DEADLINE_S)
        assert set(heartbeat.event["streams"]) == {"stays", "door", "yard"}
        second = wait_configuration(watcher, gone.at_s, applied=True)
        assert second["version"] != first["version"]
        assert len(service.children("streamclf.capture")) == 1
        again = time.monotonic()
        setup.write(streams={**setup.config["streams"], "door": setup.film})
        watcher.state("door", "live", since=again, within=DEADLINE_S)
        resumed = wait_prediction(watcher, "door", since=again)
        wait_prediction(watcher, "stays", since=resumed + 1)
        assert_unbroken(watcher, "stays", since=began, at_least=5)


def test_a_service_whose_streams_are_all_paused_waits_for_one_to_continue(setup: Setup) -> None:
    path = setup.write(streams={"door": {**setup.film, "enabled": False}})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        watcher.wait("heartbeat", None, since=time.monotonic(), within=DEADLINE_S)
        assert last_status(service, "door").paused
        assert service.children("streamclf.capture") == []
        edited = time.monotonic()
        setup.write(streams={"door": setup.film})
        wait_prediction(watcher, "door", since=edited)
        assert service.process.poll() is None


def test_heartbeats_report_a_refused_configuration_also_after_a_restart_of_the_hub(setup: Setup) -> None:
    path = setup.write(streams={"one": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        good = wait_configuration(watcher, wait_prediction(watcher, "one"), applied=True)
        assert "reason" not in good or good["reason"] is None
        edited = time.monotonic()
        setup.write(actions={"wave": {}})
        refused = wait_configuration(watcher, edited, applied=False)
        assert "actions.wave: no label wave; brightness@1 has" in refused["reason"]
        (hub,) = service.children("streamclf.hub")
        killed = time.monotonic()
        os.kill(hub, signal.SIGKILL)
        wait_gone([hub])
        assert wait_configuration(watcher, killed, applied=False)["version"] == refused["version"]
