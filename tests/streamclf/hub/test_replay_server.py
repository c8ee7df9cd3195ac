"""Test the replay server: it refuses malformed requests, and the answers that wait for slow clients are bounded."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from streamclf.hub.replay_server import Request


@pytest.mark.parametrize("value", ["true", "false", '"5"', "5.5", "null", "[5]", "-1"])
@pytest.mark.parametrize("key", ["after", "limit", "v"])
def test_value_that_is_no_number_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValidationError):
        Request.model_validate_json(f'{{"request":"replay","{key}":{value}}}')


def test_request_with_every_key_is_accepted() -> None:
    request = Request.model_validate_json(
        b'{"v":1,"request":"replay","id":"a","epoch":null,"after":5,"limit":7,"streams":["door"],"types":["action"]}'
    )
    assert (request.after, request.limit, request.streams, request.types) == (5, 7, ("door",), ("action",))


def test_a_type_of_a_later_version_is_accepted() -> None:
    assert Request.model_validate_json('{"request": "snapshot", "types": ["status", "weather"]}').types[1] == "weather"
    with pytest.raises(ValidationError):
        Request.model_validate_json('{"request": "snapshot", "types": ["\'; DROP TABLE events"]}')
