"""Several models on one service: each is added, changed and removed while the others lose no prediction."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.bundles import make_brightness_bundle, make_other_head
from support.clips import write_clip
from support.hub_process import wait_until
from support.live import CHUNK_S, Setup
from support.service import DEADLINE_S, Service
from support.watcher import Seen, Watcher

from engines.bundle import SPEC_FILE, load_bundle

APPLIED = "new configuration applied: "
SLOW_CHUNK_S = 0.4
"""One chunk of the model `slow`, which has an encoder and a rate of its own."""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    """`brightness`; `levels`, another head on the same encoder; and `slow`, another encoder, rate and size."""
    setup = Setup(tmp_path)
    make_other_head(tmp_path / "levels", load_bundle(tmp_path / "brightness"))
    make_brightness_bundle(tmp_path / "slow", size=24, fps=5.0, name="slow")
    del setup.config["model"]
    return setup


def of_model(model: str | None, region: str | None = None) -> Any:
    """Return a condition: an event of this model, and of this region."""

    def matches(seen: Seen) -> bool:
        return (seen.event.get("model_name"), seen.event.get("region")) == (model, region)

    return matches


def wait_model(
    watcher: Watcher, stream: str, model: str | None, *, since: float | None = None, region: str | None = None
) -> float:
    """Wait for a prediction of a model, after `since` or from now on; return its arrival time."""
    since = time.monotonic() if since is None else since
    return watcher.wait("prediction", stream, since=since, within=DEADLINE_S, where=of_model(model, region)).at_s


def assert_contiguous(
    watcher: Watcher, stream: str, model: str | None, *, since: float, at_least: int, chunk_s: float = CHUNK_S
) -> None:
    """Check that each window of a model follows the one before, without a gap or a new segment."""
    matches = of_model(model)
    windows = [seen.window for seen in watcher.events("prediction", stream, since=since) if matches(seen)]
    assert len(windows) >= at_least, windows
    for (segment, start_s, _), (next_segment, next_start_s, _) in pairwise(windows):
        assert next_segment == segment, windows
        assert abs(next_start_s - start_s - chunk_s) < 1e-3, windows


def wait_configuration(watcher: Watcher, *, since: float, applied: bool) -> dict[str, Any]:
    """Wait for a heartbeat that says whether the configuration is applied; return its part about that."""
    seen = watcher.wait(
        "heartbeat",
        None,
        since=since,
        within=DEADLINE_S,
        where=lambda seen: seen.event.get("configuration", {}).get("applied") is applied,
    )
    configuration: dict[str, Any] = seen.event["configuration"]
    return configuration


def children(service: Service, *modules: str) -> dict[str, set[int]]:
    return {module: set(service.children(f"streamclf.{module}")) for module in modules}


def reload(service: Service, setup: Setup, **changes: Any) -> float:
    """Change the configuration and wait until it is applied; return when it was written."""
    before, edited = _count_applied(service), time.monotonic()
    setup.write(**changes)
    service.process.send_signal(signal.SIGHUP)
    wait_until(lambda: _count_applied(service) > before, "the new configuration")
    return edited


def test_models_and_regions_come_and_go_and_the_first_model_loses_no_window(setup: Setup) -> None:
    path = setup.write(models={"first": "brightness"}, streams={"door": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_model(watcher, "door", "first")
        before = children(service, "hub", "capture", "classifier")

        # A model with an encoder that is served already becomes a further head: no new process.
        edited = reload(service, setup, models={"first": "brightness", "levels": "levels"})
        joined = watcher.wait("prediction", "door", since=edited, within=DEADLINE_S, where=of_model("levels"))
        assert {label for label, _ in joined.event["top"]} <= {"low", "middle", "high"}
        assert children(service, "hub", "capture", "classifier") == before

        # Another encoder gets a classifier of its own, and a view of its own in the same capture process.
        models = {"first": "brightness", "levels": "levels", "slow": "slow"}
        edited = reload(service, setup, models=models)
        slow = wait_model(watcher, "door", "slow", since=edited)
        assert children(service, "hub", "capture") == {key: before[key] for key in ("hub", "capture")}
        assert before["classifier"] < children(service, "classifier")["classifier"]

        # The stream's list changes, and its only other model ends with its process.
        listed = {**setup.film, "models": ["levels", "first"]}
        edited = reload(service, setup, streams={"door": listed})
        wait_model(watcher, "door", "first", since=edited + 1.0)
        assert not [s for s in watcher.events("prediction", "door", since=edited + 1.0) if of_model("slow")(s)]
        reload(service, setup, models={"first": "brightness", "levels": "levels"})
        reload(service, setup, models={"first": "brightness"}, streams={"door": setup.film})
        ended = time.monotonic()
        wait_model(watcher, "door", "first", since=ended + 1.0)
        assert not [s for s in watcher.events("prediction", "door", since=ended + 1.0) if of_model("levels")(s)]
        assert children(service, "hub", "capture", "classifier") == before
        assert_contiguous(watcher, "door", "first", since=began, at_least=15)
        assert_contiguous(watcher, "door", "levels", since=joined.at_s, at_least=5)
        assert_contiguous(watcher, "door", "slow", since=slow, at_least=1, chunk_s=SLOW_CHUNK_S)


def test_a_region_comes_changes_and_goes_without_another_stream_or_region_losing_a_window(setup: Setup) -> None:
    regions = {"left": [0, 0, 0.5, 1]}
    path = setup.write(model="brightness", streams={"door": {**setup.film, "regions": regions}})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_model(watcher, "door", None, region="left")
        before = children(service, "hub", "capture", "classifier")

        def change(**changed: list[float]) -> float:
            return reload(service, setup, streams={"door": {**setup.film, "regions": {**regions, **changed}}})

        wait_model(watcher, "door", None, since=change(right=[0.5, 0, 1, 1]), region="right")
        edited = change(right=[0.5, 0.5, 1, 1])
        moved = watcher.wait(
            "prediction",
            "door",
            since=edited,
            within=DEADLINE_S,
            where=lambda seen: of_model(None, "right")(seen) and seen.window[0] > 1,
        )
        edited = change()
        assert moved.event["window"]["segment"] == 2  # no window shows two areas
        wait_model(watcher, "door", None, since=edited + 1.0, region="left")
        assert not [s for s in watcher.events("prediction", "door", since=edited + 1.0) if s.event["region"] == "right"]
        assert children(service, "hub", "capture", "classifier") == before
        left = [s.window for s in watcher.events("prediction", "door", since=began) if s.event["region"] == "left"]
        assert len(left) >= 10
        for (segment, start_s, _), (next_segment, next_start_s, _) in pairwise(left):
            assert (next_segment, round(next_start_s - start_s, 3)) == (segment, CHUNK_S)


@pytest.mark.parametrize("encoder", ["same", "other"])
def test_a_new_model_that_cannot_be_opened_is_refused_and_the_others_lose_no_window(setup: Setup, encoder: str) -> None:
    broken = setup.folder / ("levels" if encoder == "same" else "slow")
    spec = json.loads((broken / SPEC_FILE).read_text())
    labels = ["a", "b"] if encoder == "same" else ["a", "b", "c"]  # the head has another number of outputs
    (broken / SPEC_FILE).write_text(json.dumps({**spec, "labels": labels}))
    path = setup.write(models={"first": "brightness"}, streams={"door": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_model(watcher, "door", "first")
        before = children(service, "hub", "capture", "classifier")
        edited = reload(service, setup, models={"first": "brightness", "second": broken.name})
        service.wait_for_line(r"new configuration is refused: .* cannot start with it; back to the one before")
        assert "second" in wait_configuration(watcher, since=edited, applied=False)["reason"]
        wait_model(watcher, "door", "first", since=time.monotonic() + 0.5)
        assert_contiguous(watcher, "door", "first", since=began, at_least=4)
        assert children(service, "hub", "capture", "classifier") == before
        reload(service, setup, models={"first": "brightness", "good": "brightness"})
        wait_model(watcher, "door", "good")
        assert_contiguous(watcher, "door", "first", since=began, at_least=4)


def test_a_model_that_could_not_be_opened_before_does_not_refuse_other_changes(setup: Setup) -> None:
    spec = json.loads((setup.folder / "levels" / SPEC_FILE).read_text())
    (setup.folder / "levels" / SPEC_FILE).write_text(json.dumps({**spec, "labels": ["a", "b"]}))
    models = {"first": "brightness", "second": "levels"}
    path = setup.write(models=models, streams={"door": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        began = wait_model(watcher, "door", "first")
        edited = reload(service, setup, models={**models, "good": "brightness"})
        wait_model(watcher, "door", "good", since=edited)
        service.wait_for_line(r"the other models go on; a change of the configuration opens it again")
        wait_model(watcher, "door", "good")
        assert not any("back to the one before" in line for line in service.lines)
        assert_contiguous(watcher, "door", "first", since=began, at_least=4)


def test_a_model_that_cannot_be_opened_or_whose_process_dies_takes_no_other_model_with_it(setup: Setup) -> None:
    spec = json.loads((setup.folder / "slow" / SPEC_FILE).read_text())
    make_brightness_bundle(setup.folder / "good", size=32, name="good")
    (setup.folder / "slow" / SPEC_FILE).write_text(json.dumps({**spec, "labels": ["a", "b", "c"]}))
    models = {"slow": "slow", "first": "brightness", "good": "good"}
    path = setup.write(models=models, streams={"door": setup.film})
    with Service("run", str(path), cwd=setup.folder) as service, Watcher(service.endpoint) as watcher:
        service.wait_for_line(r"classifier\[slow\]: cannot open its models; parked for 60 s; the other models go on")
        began = wait_model(watcher, "door", "first")
        wait_model(watcher, "door", "good")
        reason = wait_configuration(watcher, since=began - 5, applied=False)["reason"]
        assert reason == "not served, because they cannot be opened: slow; the log has the reasons"
        (good,) = [pid for pid in service.children("streamclf.classifier") if _arguments(pid)[-1] == "good"]
        os.kill(good, signal.SIGKILL)
        service.wait_for_line(r"classifier\[good\]: ended \(signal 9\); starting it again in 0.2 s")
        again = wait_model(watcher, "door", "good", since=time.monotonic() + 0.2)
        wait_model(watcher, "door", "first", since=again + 0.5)
        assert_contiguous(watcher, "door", "first", since=began, at_least=5)
        (setup.folder / "slow" / SPEC_FILE).write_text(json.dumps(spec))
        edited = reload(service, setup)
        slow = wait_model(watcher, "door", "slow", since=edited)
        wait_configuration(watcher, since=slow, applied=True)
        assert_contiguous(watcher, "door", "first", since=began, at_least=5)


def test_a_file_that_is_read_as_fast_as_possible_waits_for_all_models(setup: Setup) -> None:
    write_clip(setup.folder / "short.mp4", frames=600, fps=10)
    path = setup.write(
        models={"first": "brightness", "levels": "levels", "slow": "slow"},
        streams={"door": {"url": "short.mp4", "pace": "fast"}},
    )
    with Service("run", str(path), cwd=setup.folder) as service:
        assert service.wait() == 0
    with sqlite3.connect(setup.folder / "streamclf.db") as journal:
        bodies = [json.loads(body) for (body,) in journal.execute("SELECT body FROM events WHERE type = 'prediction'")]
    counts = Counter(body["model_name"] for body in bodies)
    assert counts == {"first": 297, "levels": 297, "slow": 147}  # of 300 and 150 chunks: a window has 4
    assert not any(body.get("dropped") for body in bodies)


def _count_applied(service: Service) -> int:
    return sum(APPLIED in line for line in [*service.lines])


def _arguments(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")
