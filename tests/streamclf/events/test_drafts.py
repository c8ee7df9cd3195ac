"""Test drafts: a producer cannot set the keys that belong to the hub."""

from __future__ import annotations

import pytest

from streamclf.errors import EventError
from streamclf.events.drafts import Draft


@pytest.mark.parametrize(
    ("kind", "stream", "body", "named"),
    [
        ("rumour", "door", {}, "rumour"),
        ("status", "../door", {}, "letters, digits"),
        ("status", "", {}, "letters, digits"),
        ("status", "door", {"offset": 3}, "offset"),
        ("status", "door", {"epoch": "x", "v": 2}, "epoch, v"),
    ],
)
def test_draft_with_wrong_type_stream_or_reserved_keys_is_refused(
    kind: str, stream: str, body: dict[str, int], named: str
) -> None:
    with pytest.raises(EventError, match=named):
        Draft(kind, stream, body)  # type: ignore[arg-type]
