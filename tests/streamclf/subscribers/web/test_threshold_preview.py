"""The preview of thresholds gives the actions that the service gives, from the predictions in the journal alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.bundles import make_change_bundle
from support.classifier_rig import Camera, Posted, drain
from support.serving import serve_engines

from engines.opening import open_engine
from engines.protocol import SharingEngine
from streamclf.classifier.classifier import Classifier
from streamclf.classifier.feed import MAX_BURST, bank_slots
from streamclf.classifier.scene_check import scene_slots
from streamclf.config.actions import ActionConfig, StreamActions
from streamclf.config.classify import HeadSettings
from streamclf.subscribers.web.settings.recent_predictions import Sample
from streamclf.subscribers.web.settings.threshold_preview import Firing, recount

SCENE, CLOTH, DUSK = 60, 180, 120
HOLDING = ActionConfig(min_s=0.2, smooth_s=0, cooldown_s=0, hold_s=600)
plans = st.lists(
    st.tuples(st.sampled_from([SCENE, CLOTH, DUSK]), st.integers(1, 25), st.sampled_from([1, 2, MAX_BURST])),
    min_size=1,
    max_size=7,
)
"""Light, number of chunks, and number of chunks that wait before the classifier reads them."""
configs = st.builds(
    ActionConfig,
    min_s=st.sampled_from([0.2, 0.4]),
    smooth_s=st.sampled_from([0.0, 0.3]),
    cooldown_s=st.sampled_from([0.0, 1.0]),
    hold_s=st.sampled_from([0.0, 2.0, 600.0]),
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharingEngine]:
    """An engine whose label `covered` is probable only while the light changes."""
    bundle = make_change_bundle(tmp_path_factory.mktemp("bundles") / "change", hides_scene=("covered",))
    slots = bank_slots(bundle.spec) + scene_slots(bundle.spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMCLF_CACHE", str(tmp_path_factory.mktemp("cache")))
        engine = open_engine(
            bundle, backend="onnxruntime", precision="fp32", max_batch=MAX_BURST, bank_slots=slots, threads=1
        )
    yield engine
    engine.close()


def serve(engine: SharingEngine, actions: StreamActions, plan: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Play chunks through the service's classifier, and return the bodies of its events."""
    camera, posted = Camera("cam", engine, 0, heads={"": HeadSettings(actions=actions)}), Posted()
    scene_slot = bank_slots(engine.spec)
    classifier = Classifier(serve_engines({"": engine}), [camera.feed], posted, scene_slot=scene_slot)  # type: ignore[arg-type]
    for level, chunks, burst in plan:
        for number in range(1, chunks + 1):
            camera.chunk(level=level)
            if number % burst == 0:
                drain(classifier)
    drain(classifier)
    classifier.publish_submitted()
    return posted.of("cam")


def preview(bodies: list[dict[str, Any]], actions: StreamActions) -> list[Firing]:
    """Compute the actions from the predictions; the wall clock is the media time."""
    windows = [(body, body["window"]) for body in bodies if "window" in body]
    return recount(
        (
            Sample(
                window["end_s"],
                window["start_s"],
                window["end_s"],
                window["segment"],
                dict(body["top"]),
                body.get("scene_lost"),
            )
            for body, window in windows
        ),
        actions,
        -1.0,
    )


@settings(max_examples=10, deadline=None)
@given(plans, configs)
@example([(CLOTH, 40, 1), (SCENE, 20, 1)], HOLDING)
@example([(CLOTH, 3 * MAX_BURST, MAX_BURST), (SCENE, 20, 1)], HOLDING)  # the classifier is late
def test_a_preview_of_the_present_thresholds_equals_the_actions_of_the_service(
    engine: SharingEngine, plan: list[tuple[int, int, int]], config: ActionConfig
) -> None:
    actions = StreamActions(labels={"covered": config})
    bodies = serve(engine, actions, [(SCENE, 12, 1), *plan])
    starts = [body for body in bodies if body.get("phase") == "start"]
    ends = [body["at_s"] for body in bodies if body.get("phase") == "end"]
    found = preview(bodies, actions)
    assert [(each.began_s, each.fired_s) for each in found] == [
        (pytest.approx(body["started_s"]), body["at_s"]) for body in starts
    ]
    assert [each.ended_s for each in found if each.ended_s is not None] == ends
    assert not any(each.may_be_held for each in found)


def test_a_preview_shows_which_ends_it_does_not_know(engine: SharingEngine) -> None:
    """The service compared nothing, because its own thresholds started no action."""
    never = StreamActions(labels={"covered": HOLDING.model_copy(update={"min_s": 30.0})})
    bodies = serve(engine, never, [(SCENE, 20, 1), (CLOTH, 40, 1)])
    assert not any("phase" in body for body in bodies)
    (found,) = preview(bodies, StreamActions(labels={"covered": HOLDING}))
    assert found.may_be_held
    assert found.ended_s is not None
    (plain,) = preview(bodies, StreamActions(labels={"covered": HOLDING.model_copy(update={"hold_s": 0.0})}))
    assert not plain.may_be_held


@pytest.mark.parametrize(("lost", "may_be_held"), [(0.1, False), (0.9, True)])
def test_an_end_is_known_if_the_service_found_the_scene_before_it(lost: float, may_be_held: bool) -> None:
    """With a lower `off`, the action ends later than that of the service, which compared the picture until its end."""
    values = [(0.9, None)] * 3 + [(0.9, 0.9)] * 3 + [(0.4, lost)] * 2 + [(0.4, None)] * 2 + [(0.1, None)]
    samples = [Sample(i / 5, i / 5 - 1, i / 5, 1, {"covered": value}, known) for i, (value, known) in enumerate(values)]
    (found,) = recount(samples, StreamActions(labels={"covered": HOLDING.model_copy(update={"off": 0.2})}), -1.0)
    assert (found.ended_s, found.may_be_held) == (2.0, may_be_held)
