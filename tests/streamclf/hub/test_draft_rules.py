"""An adaptive stream's hop in its statuses, which another process sends than its predictions."""

from __future__ import annotations

from typing import Any

import orjson

from streamclf.events.drafts import Draft
from streamclf.events.types import MAX_HOP, Prediction, Status, check_event, parse_event, to_json
from streamclf.hub.draft_rules import MAX_STREAMS, AdaptiveHopStatus

LIVE = {"state": "live", "reason": None, "codec": "h264", "counters": {"frames": 5}}


def prediction(hop: Any = None, stream: str = "door") -> Draft:
    return Draft("prediction", stream, {"top": [["a", 1.0]]} | ({} if hop is None else {"hop": hop}))


def status(stream: str = "door", **body: Any) -> Draft:
    return Draft("status", stream, LIVE | body)


def told(drafts: list[Draft]) -> list[tuple[str, Any]]:
    return [(draft.type, draft.body.get("hop")) for draft in drafts]


def test_streams_that_do_not_adapt_pass_as_they_are() -> None:
    hops = AdaptiveHopStatus()
    for draft in (prediction(), status(), prediction(), Draft("action", "door", {"phase": "start"})):
        assert hops.admit(draft) == [draft]


def test_a_new_hop_is_told_at_once_and_in_every_status_after_it() -> None:
    hops = AdaptiveHopStatus()
    assert told(hops.admit(status())) == [("status", None)]
    assert told(hops.admit(prediction(1))) == [("prediction", 1), ("status", 1)]
    assert told(hops.admit(prediction(1))) == [("prediction", 1)]
    assert told(hops.admit(prediction(4))) == [("prediction", 4), ("status", 4)]
    (later,) = hops.admit(status(state="stalled"))
    assert later.body == LIVE | {"state": "stalled", "hop": 4}
    assert told(hops.admit(prediction(2))) == [("prediction", 2), ("status", 2)]


def test_the_repeated_status_is_the_streams_last_one() -> None:
    hops = AdaptiveHopStatus()
    hops.admit(status(counters={"frames": 9}))
    _, repeated = hops.admit(prediction(2))
    assert repeated == Draft("status", "door", LIVE | {"counters": {"frames": 9}, "hop": 2})


def test_a_stream_that_adapts_no_longer_says_so() -> None:
    hops = AdaptiveHopStatus()
    for draft in (status(), prediction(8)):
        hops.admit(draft)
    assert told(hops.admit(prediction())) == [("prediction", None), ("status", None)]
    assert told(hops.admit(status())) == [("status", None)]


def test_a_hub_that_began_anew_learns_it_from_the_next_prediction() -> None:
    hops = AdaptiveHopStatus()
    assert told(hops.admit(prediction(4))) == [("prediction", 4)]  # no status is known that could be repeated
    assert told(hops.admit(status())) == [("status", None)]
    assert told(hops.admit(prediction(4))) == [("prediction", 4), ("status", 4)]


def test_streams_have_nothing_to_do_with_each_other() -> None:
    hops = AdaptiveHopStatus()
    for draft in (status("a"), status("b"), prediction(4, "a")):
        hops.admit(draft)
    assert told(hops.admit(status("b"))) == [("status", None)]


def test_nonsense_from_a_producer_spoils_no_status() -> None:
    hops = AdaptiveHopStatus()
    hops.admit(status())
    for hop in ("4", 0, -1, MAX_HOP + 1, 2.0, True, [4]):
        assert told(hops.admit(prediction(hop)))[1:] == []
    assert told(hops.admit(status())) == [("status", None)]


def test_it_remembers_a_bounded_number_of_streams() -> None:
    hops = AdaptiveHopStatus()
    for i in range(2 * MAX_STREAMS):
        hops.admit(status(f"s{i}"))
        hops.admit(prediction(2, f"s{i}"))
    assert len(hops._statuses) == len(hops._hops) == MAX_STREAMS


def test_events_carry_the_hop_and_what_was_gated_only_where_there_is_any() -> None:
    envelope = {
        "v": 1, "stream": "door", "epoch": "0" * 32, "offset": 2, "previous": 1, "time": "2026-01-02T03:04:05.678901Z"
    }  # fmt: skip
    window = {"start_s": 0.0, "end_s": 1.0, "frames": 8}
    plain = {**envelope, "type": "prediction", "window": window, "top": [["a", 1.0]], "model": "m@1"}
    for extra in ({}, {"hop": 4}, {"gated": 7}, {"hop": 1, "gated": 1}):
        for body in (plain, {**envelope, "type": "status", **LIVE}):
            if body is not plain and "gated" in extra:
                continue
            check_event(body | extra)
            event = parse_event(to_json(parse_event(orjson.dumps(body | extra))))
            assert isinstance(event, Prediction | Status)
            assert event.hop == extra.get("hop")
            assert (b'"hop"' in to_json(event)) == ("hop" in extra)
            assert (b'"gated"' in to_json(event)) == ("gated" in extra)
