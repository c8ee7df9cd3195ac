"""The keys rotate, flip, mask, region and regions of a stream."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.service import ServiceConfig, parse_config
from streamclf.errors import ConfigError


def service(**stream: Any) -> ServiceConfig:
    raw = {"streams": {"door": {"url": "door.mp4", **stream}}, "actions": {"open": {"on": 0.9}}}
    return parse_config(raw, base=Path("/tmp"), origin="service.yaml")


def test_a_stream_without_these_keys_shows_the_whole_picture() -> None:
    (view,) = service().views_of("door")
    assert (view.region, view.area) == (None, WHOLE)
    assert view.area.without_region is view.area


def test_rotate_flip_mask_and_one_region_are_one_view_without_a_name() -> None:
    polygon = [[0.5, 0], [1, 0], [1, 0.4], [0.5, 0]]  # with its first corner again at the end
    config = service(rotate=90, flip="vertical", mask=[[0, 0, 0.2, 0.1], polygon], region=[0.2, 0.1, 0.8, 0.9])
    (view,) = config.views_of("door")
    assert view.region is None
    assert (view.area.rotate, view.area.flip, view.area.region) == (90, "vertical", (0.2, 0.1, 0.8, 0.9))
    assert view.area.mask == (((0, 0), (0.2, 0), (0.2, 0.1), (0, 0.1)), ((0.5, 0), (1, 0), (1, 0.4)))
    assert view.area.without_region == replace(config.streams["door"].area, region=None)
    assert PictureArea(**json.loads(json.dumps(asdict(view.area)))) == view.area, "it travels in a job"


def test_each_named_region_is_a_view_and_takes_the_stream_s_keys_where_it_has_none() -> None:
    config = service(
        hop=3,
        motion_gate=2.0,
        flip="horizontal",
        mask=[[0, 0, 0.2, 0.1]],
        actions={"open": {"off": 0.4}},
        regions={
            "gate": [0, 0, 0.5, 1],
            "yard": {"region": [0.5, 0, 1, 1], "hop": 1, "unknown_below": 0.3,
                     "actions": {"open": {"on": 0.7}, "dog": {}}},
        },
    )  # fmt: skip
    gate, yard = config.views_of("door")
    assert (gate.region, yard.region) == ("gate", "yard")
    assert (gate.area.region, yard.area.region) == ((0, 0, 0.5, 1), (0.5, 0, 1, 1))
    assert {(view.area.flip, len(view.area.mask)) for view in (gate, yard)} == {("horizontal", 1)}
    assert (gate.settings.hop, gate.settings.motion_gate) == (3, 2.0)
    assert (yard.settings.hop, yard.settings.motion_gate) == (1, 2.0)
    assert gate.actions.labels.keys() == {"open"}
    assert (gate.actions.labels["open"].on, gate.actions.labels["open"].off) == (0.9, 0.4)
    assert yard.actions.labels.keys() == {"open", "dog", "unknown"}
    assert (yard.actions.labels["open"].on, yard.actions.labels["open"].off) == (0.7, 0.4)
    assert config.streams["door"].area.region is None, "people see the whole picture"


def test_a_region_may_have_its_own_models() -> None:
    raw = {
        "models": {"hands": "gestures", "camera": "camera-events"},
        "streams": {"door": {
            "url": "door.mp4", "models": "camera",
            "regions": {"gate": [0, 0, 0.5, 1], "yard": {"region": [0.5, 0, 1, 1], "models": ["hands", "camera"]}},
        }},
    }  # fmt: skip
    gate, yard = parse_config(raw, base=Path("/tmp"), origin="service.yaml").views_of("door")
    assert (gate.models, yard.models) == (("camera",), ("hands", "camera"))


def test_defaults_may_rotate_and_mask_but_have_no_region() -> None:
    raw: dict[str, Any] = {
        "defaults": {"rotate": 180, "mask": [[0, 0, 1, 0.1]]},
        "streams": {"a": {"url": "a.mp4"}, "b": {"url": "b.mp4", "mask": [], "rotate": 0}},
    }
    config = parse_config(raw, base=Path("/tmp"), origin="service.yaml")
    assert config.streams["a"].area.rotate == 180
    assert len(config.streams["a"].area.mask) == 1
    assert config.streams["b"].area == WHOLE
    raw["defaults"]["region"] = [0, 0, 1, 1]
    with pytest.raises(ConfigError, match=r"defaults: unknown key; .* rotate, flip, mask, hop"):
        parse_config(raw, base=Path("/tmp"), origin="service.yaml")


RECTANGLE = "a rectangle is four numbers, [left, top, right, bottom]"
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"region": [0.2, 0.1, 0.2, 0.9]}, "streams.door.region: left=0.2 must be less than right=0.2; the order is"),
    ({"region": [0, 0.9, 1, 0.1]}, "streams.door.region: top=0.9 must be less than bottom=0.1"),
    ({"region": [0, 0, 1.1, 1]}, "streams.door.region: 1.1: a share of the picture is 0 to 1"),
    ({"region": [-0.1, 0, 1, 1]}, "streams.door.region: -0.1: a share of the picture is 0 to 1"),
    ({"region": [0, 0, math.nan, 1]}, "streams.door.region: nan: a share of the picture is 0 to 1"),
    ({"region": [0, 0, 10**400, 1]}, "streams.door.region: inf: a share of the picture is 0 to 1"),
    ({"region": [0, 0, 1]}, RECTANGLE),
    ({"region": [0, 0, 1, True]}, RECTANGLE),
    ({"region": "left"}, RECTANGLE),
    ({"rotate": 45}, "streams.door.rotate=45: must be 0, 90, 180 or 270"),
    ({"flip": "both"}, "streams.door.flip=both: must be 'horizontal' or 'vertical'"),
    ({"mask": [0, 0, 0.2, 0.1]}, "put this one into brackets, like [[0, 0, 0.2, 0.1]]"),
    ({"mask": {"left": 0}}, "streams.door.mask: a list of rectangles and polygons"),
    ({"mask": [[0, 0, 0.1, 0.1], [0.5, 0, 0.4, 1]]}, "door.mask: number 2: left=0.5 must be less than right=0.4"),
    ({"mask": [[[0, 0], [1, 1]]]}, "number 1: a polygon of 2 corners: 3 to 32"),
    ({"mask": [[[i / 40, i % 2] for i in range(40)]]}, "number 1: a polygon of 40 corners: 3 to 32"),
    ({"mask": [[[0, 0], [1, 1], [1, 0], [0, 1]]]}, "the polygon's edges 1 and 3 cross; give the corners in order"),
    ({"mask": [[[0, 0], [0.5, 0.5], [1, 1]]]}, "the polygon has no area; give corners that are not on one line"),
    ({"mask": [[[0, 0], [0, 0], [1, 1], [1, 0]]]}, "corner 1 and the next one are the same point"),
    ({"mask": [[[0, 0], [1], [1, 1]]]}, "each corner of a polygon is two numbers, [x, y]"),
    ({"mask": [[0, 0, 0.1, 0.1]] * 21}, "21 rectangles and polygons: at most 20"),
    ({"mask": [[0, 0, 0.5, 1], [0.5, 0, 1, 1]]}, "streams.door: mask covers the whole picture; leave a part uncovered"),
    (
        {"mask": [[0, 0, 0.5, 1]], "regions": {"gate": [0.1, 0.1, 0.4, 0.4]}},
        "streams.door: regions.gate: mask covers the whole region; leave a part uncovered",
    ),
    ({"region": [0, 0, 1, 1], "regions": {"gate": [0, 0, 1, 1]}}, "region and regions exclude each other"),
    ({"regions": {"the gate": [0, 0, 1, 1]}}, "streams.door.regions.the gate: must be 1 to 64 letters, digits"),
    ({"regions": {"gate": [0, 0, 1, 2]}}, "streams.door.regions.gate.region: 2: a share of the picture is 0 to 1"),
    ({"regions": {"gate": {"hop": 2}}}, "streams.door.regions.gate.region: missing; add this key"),
    ({"regions": {"gate": {"region": [0, 0, 1, 1], "url": "a.mp4"}}}, "streams.door.regions.gate: unknown key"),
    ({"regions": {str(i): [0, 0, 1, 1] for i in range(17)}}, "streams.door.regions: 17 entries; at most 16"),
    (
        {"regions": {"gate": {"region": [0, 0, 1, 1], "actions": {"open": {"off": 0.95}}}}},
        "streams.door.regions.gate.actions.open: off=0.95: must be below on=0.9",
    ),
    (
        {"regions": {"gate": {"region": [0, 0, 1, 1], "models": ["hands"]}}},
        "streams.door.regions.gate.models: no model hands",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "expected"), FAULTS)
def test_a_fault_is_named_with_its_place_and_the_remedy(keys: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        service(**keys)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
