"""An action that sets no thresholds takes those of the model."""

from __future__ import annotations

import pytest

from streamclf.config.actions import ActionConfig, ActionOverride, StreamActions


@pytest.mark.parametrize(
    ("given", "on", "off"),
    [
        ({}, 0.4, 0.25),
        ({"min_s": 2}, 0.4, 0.25),
        ({"off": 0.1}, 0.4, 0.1),
        ({"on": 0.9}, 0.9, 0.5),
        ({"on": 0.9, "off": 0.8}, 0.9, 0.8),
        ({"on": 0.3}, 0.3, 0.1875),
        ({"on": 0.8}, 0.8, 0.5),
    ],
)
def test_a_key_that_is_not_set_follows_the_threshold(given: dict[str, float], on: float, off: float) -> None:
    action = ActionConfig(**given).with_threshold(0.4)
    assert (action.on, action.off) == (pytest.approx(on), pytest.approx(off))
    assert action.min_s == given.get("min_s", 0.6)


@pytest.mark.parametrize("threshold", [1e-6, 0.01, 0.5, 0.8, 1.0])
def test_off_is_always_below_on(threshold: float) -> None:
    action = ActionConfig().with_threshold(threshold)
    assert 0 <= action.off < action.on == threshold
    actions = StreamActions(labels={"a": action})
    assert StreamActions.model_validate_json(actions.model_dump_json()) == actions
    low = ActionConfig(on=threshold)
    assert 0 <= low.off < low.on == threshold


def test_scene_lost_has_defaults_of_its_own() -> None:
    found = StreamActions(
        labels={"scene_lost": ActionConfig(), "cam/scene_lost": ActionConfig(min_s=5)}
    ).with_thresholds({})
    scene, named = found.labels["scene_lost"], found.labels["cam/scene_lost"]
    assert (scene.on, scene.off, scene.min_s, scene.hold_s) == (0.5, 0.3125, 3, 600)
    assert (named.on, named.min_s) == (0.5, 5)
    assert found.with_thresholds({}) == found
    for keys, fault in (
        ({"off": 0.6}, "off=0.6: must be below on=0.5"),
        ({"hold_s": 0}, "hold_s=0: the action would end"),
    ):
        with pytest.raises(ValueError, match=rf"^scene_lost: {fault}"):
            StreamActions(labels={"scene_lost": ActionConfig(**keys)}).with_thresholds({})


def test_an_off_above_the_threshold_is_refused_with_the_label() -> None:
    actions = StreamActions(labels={"café": ActionConfig(off=0.45), "other": ActionConfig()})
    message = r"café: off=0\.45: must be below on=0\.4, the model's threshold of this label; set `on`, too, or a lower"
    with pytest.raises(ValueError, match=message):
        actions.with_thresholds({"cafe\u0301": 0.4})
    assert actions.with_thresholds({"cafe\u0301": 0.46}).labels == {
        "café": ActionConfig(on=0.46, off=0.45), "other": ActionConfig(),
    }  # fmt: skip


def test_an_override_of_one_stream_keeps_the_others_on_the_threshold() -> None:
    """`on` of one stream replaces the threshold, and `off` that is not set follows it only where it must."""
    base = ActionConfig(min_s=1)
    assert ActionOverride(on=0.3).applied_to(base, "x").with_threshold(0.4) == ActionConfig(on=0.3, off=0.1875, min_s=1)
    assert ActionOverride(min_s=2).applied_to(base, "x").with_threshold(0.4) == ActionConfig(on=0.4, off=0.25, min_s=2)
