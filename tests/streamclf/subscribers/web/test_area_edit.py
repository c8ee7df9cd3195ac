"""The page writes regions and masks into the file: only what changes, in the file's own layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from streamclf.config.service import ServiceConfig, parse_config_text
from streamclf.config.yaml_edit import YamlEditError
from streamclf.errors import ConfigError
from streamclf.subscribers.web.settings.area_edit import SetArea

FILE = """\
# Cameras
defaults: {flip: vertical}
streams:
  door: {url: door.mp4, region: [0.2, 0.1, 0.8, 0.9]}  # front
  yard:
    url: yard.mp4  # the gate
    rotate: 90
    mask:
      - [0, 0, 0.2, 0.1]
      - [[0.5, 0], [1, 0], [1, 0.4]]
    regions:
      gate: [0.1, 0.2, 0.4, 0.9]  # left
      street: {region: [0.5, 0, 1, 0.5], hop: 2}
    hop: 3
  hall: {url: hall.mp4}
"""
YARD: dict[str, Any] = {
    "rotate": 90, "flip": "vertical", "mask": [[0, 0, 0.2, 0.1], [[0.5, 0], [1, 0], [1, 0.4]]],
    "regions": {"gate": [0.1, 0.2, 0.4, 0.9], "street": [0.5, 0, 1, 0.5]},
}  # fmt: skip


def parsed(text: str) -> ServiceConfig:
    return parse_config_text(text, Path("/tmp/service.yaml"), {})


def edited(stream: str, text: str = FILE, **keys: Any) -> str:
    return SetArea.model_validate({"stream": stream, **keys}).apply(text, parsed(text))


def changes(after: str, before: str = FILE) -> list[str]:
    now, then = after.splitlines(), before.splitlines()
    return [f"-{line}" for line in then if line not in now] + [f"+{line}" for line in now if line not in then]


def test_a_moved_region_changes_its_own_line_and_keeps_comments_and_other_keys() -> None:
    regions = {"gate": [0.12345678, 0.2, 0.4, 0.9], "street": [0.5, 0, 1, 0.6]}
    after = edited("yard", **{**YARD, "regions": regions})
    assert changes(after) == [
        "-      gate: [0.1, 0.2, 0.4, 0.9]  # left",
        "-      street: {region: [0.5, 0, 1, 0.5], hop: 2}",
        "+      gate: [0.1235, 0.2, 0.4, 0.9]  # left",
        "+      street: {region: [0.5, 0, 1, 0.6], hop: 2}",
    ]
    assert parsed(after).streams["yard"].regions["street"].hop == 2


def test_regions_and_masks_are_added_to_a_stream_without_them() -> None:
    mask = [[[0, 0], [0.2, 0], [0.2, 0.1], [0, 0.1]]]
    after = edited("hall", flip="vertical", rotate=270, mask=mask, regions={"a": [0, 0, 0.5, 1], "b": [0.5, 0, 1, 1]})
    assert changes(after) == [
        "-  hall: {url: hall.mp4}",
        "+  hall: {url: hall.mp4, rotate: 270, mask: [[0, 0, 0.2, 0.1]], "
        "regions: {a: [0, 0, 0.5, 1], b: [0.5, 0, 1, 1]}}",
    ]


def test_a_region_without_a_name_is_the_key_region_and_may_get_a_name() -> None:
    after = edited("door", flip="vertical", regions={"": [0.2, 0.1, 0.8, 1]})
    assert changes(after)[-1] == "+  door: {url: door.mp4, region: [0.2, 0.1, 0.8, 1]}  # front"
    after = edited("door", flip="vertical", regions={"step": [0.2, 0.1, 0.8, 0.9]})
    assert changes(after)[-1] == "+  door: {url: door.mp4, regions: {step: [0.2, 0.1, 0.8, 0.9]}}  # front"
    after = edited("door", flip="vertical")
    assert changes(after)[-1] == "+  door: {url: door.mp4}  # front"


def test_removed_regions_masks_and_rotation_leave_the_file() -> None:
    after = edited("yard", **{**YARD, "rotate": 0, "mask": [], "regions": {"street": [0.5, 0, 1, 0.5]}})
    assert [line for line in changes(after) if line.startswith("+")] == []
    assert "gate:" not in after
    assert "mask" not in after
    after = edited("yard", **{**YARD, "regions": {}})
    assert "regions" not in after
    assert parsed(after).streams["yard"].hop == 3
    after = edited("yard", **{**YARD, "regions": {"other": [0, 0, 1, 1]}})
    assert list(parsed(after).streams["yard"].regions) == ["other"]


def test_a_list_of_masks_is_replaced_by_one_on_one_line() -> None:
    after = edited("yard", **{**YARD, "mask": YARD["mask"][1:]})
    assert parsed(after).streams["yard"].mask == (((0.5, 0), (1, 0), (1, 0.4)),)
    assert "  # the gate" in after
    commented = FILE.replace("      - [0, 0, 0.2, 0.1]\n", "      - [0, 0, 0.2, 0.1]  # the clock\n")
    with pytest.raises(YamlEditError, match=r"streams.yard.mask: the list has comments, which would be lost"):
        edited("yard", commented, **{**YARD, "mask": YARD["mask"][1:]})


def test_defaults_are_overridden_where_they_differ() -> None:
    text = FILE.replace("flip: vertical", "flip: vertical, rotate: 180, mask: [[0, 0, 0.1, 0.1]]")
    after = edited("hall", text, flip="horizontal")
    assert changes(after, text)[-1] == '+  hall: {url: hall.mp4, rotate: 0, flip: "horizontal", mask: []}'
    with pytest.raises(ConfigError, match=r"streams.hall.flip: comes from defaults; edit the file by hand"):
        edited("hall", text)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({**YARD}, "streams.yard: these are the present values"),
        ({**YARD, "regions": {"": [0, 0, 1, 1], "b": [0, 0, 1, 1]}}, "a region without a name must be the only one"),
    ],
)
def test_an_edit_that_cannot_be_made_is_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        edited("yard", **keys)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "keys", [{"regions": {"a": [0, 0, 2, 1]}}, {"mask": [[0, 0, 1]]}, {"rotate": 45}, {"flip": "x"}]
)
def test_an_invalid_edit_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SetArea.model_validate({"stream": "yard", **keys})


def test_a_stream_that_is_gone_and_a_file_with_an_error_are_refused() -> None:
    with pytest.raises(ConfigError, match="no such stream"):
        edited("cellar")
    with pytest.raises(ConfigError, match="the file has an error"):
        SetArea(stream="yard").apply(FILE, None)
