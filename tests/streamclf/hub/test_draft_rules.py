"""Test the rules that amend drafts: starts and ends of actions in pairs, and the hop of an adaptive stream."""

from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from support.hub_process import action

from streamclf.events.drafts import Draft
from streamclf.events.types import MAX_HOP, Prediction, Status, check_event, parse_event, to_json
from streamclf.events.views import ViewDescription
from streamclf.hub.draft_rules import MAX_SILENT_HEARTBEATS, MAX_STREAMS, CompleteStatus, OpenActions
from streamclf.runtime.jobs import StreamDescription

A, B = b"a" * 16, b"b" * 16
LIVE = {"state": "live", "reason": None, "codec": "h264", "counters": {"frames": 5}}


def phases(drafts: list[Draft]) -> list[str]:
    return [draft.body["phase"] for draft in drafts]


def in_view(region: str | None, model_name: str | None) -> dict[str, str]:
    names = {"region": region, "model_name": model_name}
    return {key: name for key, name in names.items() if name is not None}


def prediction(hop: Any = None, stream: str = "door") -> Draft:
    return Draft("prediction", stream, {"top": [["a", 1.0]]} | ({} if hop is None else {"hop": hop}))


def status(stream: str = "door", **body: Any) -> Draft:
    return Draft("status", stream, LIVE | body)


def types_and_hops(drafts: list[Draft]) -> list[tuple[str, Any]]:
    return [(draft.type, draft.body.get("hop")) for draft in drafts]


def test_action_of_a_dead_producer_ends_at_its_last_update() -> None:
    actions = OpenActions()
    actions.apply(action("start"), A)
    actions.apply(action("update", at_s=7.0), A)
    for _ in range(MAX_SILENT_HEARTBEATS - 1):
        assert actions.end_abandoned({B}) == []
    (end,) = actions.end_abandoned(set())
    assert (end.stream, end.body["phase"], end.body["at_s"], end.body["reason"]) == ("door", "end", 7.0, "lost")
    assert actions.end_abandoned(set()) == []
    assert actions.apply(action("end"), A) == []  # the producer was only slow


def test_action_of_an_active_producer_goes_on() -> None:
    actions = OpenActions()
    actions.apply(action("start"), A)
    for _ in range(20):
        assert actions.end_abandoned({A}) == []


def test_start_from_a_new_producer_first_ends_the_old_action() -> None:
    actions = OpenActions()
    actions.apply(action("start"), A)
    assert phases(actions.apply(action("start"), B)) == ["end", "start"]
    assert actions.apply(action("end"), A) == []
    assert phases(actions.apply(action("end"), B)) == ["end"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["start", "update", "end", "heartbeat", "restart"]),
        st.sampled_from([A, B]),
        st.sampled_from(
            [("wave", None, None), ("walk", None, None), ("wave", "gate", None), ("wave", "gate", "hands")]
        ),
    ),
    max_size=60,
)


@given(steps)
def test_starts_and_ends_alternate_in_any_order_of_drafts(steps: list[tuple[str, bytes, tuple[Any, ...]]]) -> None:
    actions = OpenActions()
    journal: list[Draft] = []
    for kind, owner, (label, region, model_name) in steps:
        if kind == "heartbeat":
            journal += actions.end_abandoned({owner})
        elif kind == "restart":
            actions = OpenActions(actions.stored)
        else:
            journal += actions.apply(action(kind, label=label, **in_view(region, model_name)), owner)
    for _ in range(MAX_SILENT_HEARTBEATS):
        journal += actions.end_abandoned(set())
    for key in {(each.body["label"], each.body.get("region"), each.body.get("model_name")) for each in journal}:
        running = False
        for draft in journal:
            if (draft.body["label"], draft.body.get("region"), draft.body.get("model_name")) == key:
                assert running == (draft.body["phase"] != "start")
                running = draft.body["phase"] != "end"
        assert not running


def test_drafts_of_a_stream_with_a_fixed_hop_stay_as_they_are() -> None:
    hops = CompleteStatus({})
    for draft in (prediction(), status(), prediction(), Draft("action", "door", {"phase": "start"})):
        assert hops.apply(draft) == [draft]


def test_new_hop_repeats_the_status_and_stays_in_later_ones() -> None:
    hops = CompleteStatus({})
    assert types_and_hops(hops.apply(status())) == [("status", None)]
    assert types_and_hops(hops.apply(prediction(1))) == [("prediction", 1), ("status", 1)]
    assert types_and_hops(hops.apply(prediction(1))) == [("prediction", 1)]
    assert types_and_hops(hops.apply(prediction(4))) == [("prediction", 4), ("status", 4)]
    (later,) = hops.apply(status(state="stalled"))
    assert later.body == LIVE | {"state": "stalled", "hop": 4}
    assert types_and_hops(hops.apply(prediction(2))) == [("prediction", 2), ("status", 2)]


def test_repeated_status_is_the_last_one() -> None:
    hops = CompleteStatus({})
    hops.apply(status(counters={"frames": 9}))
    _, repeated = hops.apply(prediction(2))
    assert repeated == Draft("status", "door", LIVE | {"counters": {"frames": 9}, "hop": 2})


def test_stream_that_no_longer_adapts_has_no_hop_in_its_status() -> None:
    hops = CompleteStatus({})
    for draft in (status(), prediction(8)):
        hops.apply(draft)
    assert types_and_hops(hops.apply(prediction())) == [("prediction", None), ("status", None)]
    assert types_and_hops(hops.apply(status())) == [("status", None)]


def test_restarted_hub_learns_the_hop_from_the_next_prediction() -> None:
    hops = CompleteStatus({})
    assert types_and_hops(hops.apply(prediction(4))) == [("prediction", 4)]  # there is no status yet to repeat
    assert types_and_hops(hops.apply(status())) == [("status", None)]
    assert types_and_hops(hops.apply(prediction(4))) == [("prediction", 4), ("status", 4)]


def test_hop_of_one_stream_does_not_reach_another() -> None:
    hops = CompleteStatus({})
    for draft in (status("a"), status("b"), prediction(4, "a")):
        hops.apply(draft)
    assert types_and_hops(hops.apply(status("b"))) == [("status", None)]


def test_invalid_hop_leaves_the_status_unchanged() -> None:
    hops = CompleteStatus({})
    hops.apply(status())
    for hop in ("4", 0, -1, MAX_HOP + 1, 2.0, True, [4]):
        assert types_and_hops(hops.apply(prediction(hop)))[1:] == []
    assert types_and_hops(hops.apply(status())) == [("status", None)]


def test_number_of_remembered_streams_is_bounded() -> None:
    hops = CompleteStatus({})
    for i in range(2 * MAX_STREAMS):
        hops.apply(status(f"s{i}"))
        hops.apply(prediction(2, f"s{i}"))
    assert len(hops) == MAX_STREAMS
    assert types_and_hops(hops.apply(prediction(3, "s0"))) == [("prediction", 3)]
    assert types_and_hops(hops.apply(status("s0"))) == [("status", None)]


def test_status_holds_the_description_of_its_stream_and_is_repeated_when_that_changes() -> None:
    door = StreamDescription(name="Front door", actions=("wave", "fight"))
    statuses = CompleteStatus({"door": door, "yard": StreamDescription()})
    (first,) = statuses.apply(status())
    assert first.body == LIVE | {"name": "Front door", "actions": ("wave", "fight")}
    (other,) = statuses.apply(status("yard"))
    assert other.body == LIVE | {"actions": ()}
    (unknown,) = statuses.apply(status("attic"))
    assert unknown.body == LIVE  # it is not configured
    changed = {"door": StreamDescription(actions=("wave",)), "yard": StreamDescription(), "new": StreamDescription()}
    assert statuses.change_descriptions(changed) == [Draft("status", "door", LIVE | {"actions": ("wave",)})]
    assert statuses.change_descriptions({}) == []
    assert statuses.apply(status())[0].body == LIVE


def test_events_hold_name_actions_and_streams_only_where_set() -> None:
    status_body = {
        "v": 1, "type": "status", "stream": "door", "epoch": "0" * 32, "offset": 2, "previous": 1,
        "time": "2026-01-02T03:04:05.678901Z", **LIVE,
    }  # fmt: skip
    for extra in ({}, {"actions": []}, {"name": "Tür", "actions": ["a\0b"]}):
        check_event(status_body | extra)
        body = orjson.loads(to_json(parse_event(orjson.dumps(status_body | extra))))
        assert {key: body[key] for key in ("name", "actions") if key in body} == extra
    beat = {
        "v": 1, "type": "heartbeat", "epoch": "0" * 32, "time": "2026-01-02T03:04:05.678901Z", "head": 1, "oldest": 1,
        "last": {}, "replay": "tcp://127.0.0.1:1", "not_durable": 0, "dropped": {},
    }  # fmt: skip
    for streams in ({}, {"streams": []}, {"streams": ["door"]}):
        assert orjson.loads(to_json(parse_event(orjson.dumps(beat | streams)))) == beat | streams


def test_events_hold_hop_and_gated_only_where_set() -> None:
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


def test_equal_labels_in_two_views_are_two_actions() -> None:
    actions = OpenActions()
    views = [{}, {"region": "gate"}, {"model_name": "hands"}, {"region": "gate", "model_name": "hands"}]
    for view in views:
        assert phases(actions.apply(action("start", **view), A)) == ["start"]
    actions = OpenActions(actions.stored)  # the hub was started again
    assert phases(actions.apply(action("end", region="gate"), A)) == ["end"]
    ends = [end for _ in range(MAX_SILENT_HEARTBEATS) for end in actions.end_abandoned(set())]
    assert [in_view(each.body.get("region"), each.body.get("model_name")) for each in ends] == [
        {}, {"model_name": "hands"}, {"region": "gate", "model_name": "hands"},
    ]  # fmt: skip


def test_open_actions_of_an_older_journal_are_ended() -> None:
    stored = orjson.dumps([["door", A.hex(), dict(action("start").body)]])
    assert b"region" not in stored
    assert phases(OpenActions(stored).apply(action("end"), A)) == ["end"]


def test_views_with_different_hops_repeat_the_status_once() -> None:
    hops = CompleteStatus({})
    hops.apply(status())

    def predict(hop: int, region: str) -> list[tuple[str, Any]]:
        draft = prediction(hop)
        return types_and_hops(hops.apply(Draft("prediction", "door", {**draft.body, "region": region})))

    assert predict(2, "gate") == [("prediction", 2), ("status", 2)]
    assert predict(4, "yard") == [("prediction", 4), ("status", 4)]
    for _ in range(3):
        assert predict(2, "gate") == [("prediction", 2)]
        assert predict(4, "yard") == [("prediction", 4)]
    gate = StreamDescription(views=(ViewDescription(region="gate"),))
    assert types_and_hops(hops.change_descriptions({"door": gate})) == [("status", 2)]


def test_drafts_with_impossible_views_change_nothing() -> None:
    hops = CompleteStatus({})
    hops.apply(status())
    for name in ([], {}, 5, "a/b", "", "x" * 65):
        draft = Draft("prediction", "door", {"hop": 4, "region": name})
        assert hops.apply(draft) == [draft]
    assert types_and_hops(hops.apply(status())) == [("status", None)]


def test_status_lists_the_views_of_its_stream() -> None:
    view = ViewDescription(region="gate", model_name="hands", area=(0.0, 0.25, 0.5, 1.0), actions=("wave",))
    statuses = CompleteStatus({"door": StreamDescription(actions=("wave",), views=(view, ViewDescription()))})
    (first,) = statuses.apply(status())
    assert first.body["views"] == [
        {"region": "gate", "model_name": "hands", "area": (0.0, 0.25, 0.5, 1.0), "actions": ("wave",)},
        {"actions": ()},
    ]
    changed = {"door": StreamDescription(actions=("wave",))}
    assert [draft.body.get("views") for draft in statuses.change_descriptions(changed)] == [None]
