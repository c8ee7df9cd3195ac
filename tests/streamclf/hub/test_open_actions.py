"""Starts and ends stay paired, whoever dies in between."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from support.hub_process import HubProcess, action, wait_until

from streamclf.events.drafts import Draft
from streamclf.hub.draft_rules import SILENT_BEATS, OpenActions
from streamclf.producer.link import EventProducer

A, B = b"a" * 16, b"b" * 16


def phases(drafts: list[Draft]) -> list[str]:
    return [draft.body["phase"] for draft in drafts]


def test_a_producer_that_dies_has_its_action_ended_where_it_was_last_seen() -> None:
    actions = OpenActions()
    actions.admit(action("start"), A)
    actions.admit(action("update", at_s=7.0), A)
    for _ in range(SILENT_BEATS - 1):
        assert actions.beat({B}) == []
    (end,) = actions.beat(set())
    assert (end.stream, end.body["phase"], end.body["at_s"], end.body["reason"]) == ("door", "end", 7.0, "lost")
    assert actions.beat(set()) == []
    assert actions.admit(action("end"), A) == []  # it was only slow


def test_a_hub_that_was_stopped_for_long_ends_nothing_of_those_who_are_there() -> None:
    actions = OpenActions()
    actions.admit(action("start"), A)
    for _ in range(20):
        assert actions.beat({A}) == []


def test_a_new_producers_start_ends_the_old_ones_action_first() -> None:
    actions = OpenActions()
    actions.admit(action("start"), A)
    assert phases(actions.admit(action("start"), B)) == ["end", "start"]
    assert actions.admit(action("end"), A) == []
    assert phases(actions.admit(action("end"), B)) == ["end"]


steps = st.lists(
    st.tuples(
        st.sampled_from(["start", "update", "end", "beat", "restart"]),
        st.sampled_from([A, B]),
        st.sampled_from(["wave", "walk"]),
    ),
    max_size=60,
)


@given(steps)
def test_whatever_comes_starts_and_ends_alternate(steps: list[tuple[str, bytes, str]]) -> None:
    actions = OpenActions()
    journal: list[Draft] = []
    for kind, owner, label in steps:
        if kind == "beat":
            journal += actions.beat({owner})
        elif kind == "restart":
            actions = OpenActions(actions.stored)
        else:
            journal += actions.admit(action(kind, label=label), owner)
    for _ in range(SILENT_BEATS):
        journal += actions.beat(set())
    for label in ("wave", "walk"):
        running = False
        for draft in journal:
            if draft.body["label"] == label:
                assert running == (draft.body["phase"] != "start")
                running = draft.body["phase"] != "end"
        assert not running


def test_the_journal_pairs_them_over_crashes_of_hub_and_classifier() -> None:
    with HubProcess() as hub:
        old = EventProducer(hub.link, "classifier")
        old.post(action("start"))
        wait_until(lambda: old.unacknowledged == 0, "confirmation")
        old.close(0.0)
        hub.kill()
        hub.start()
        with EventProducer(hub.link, "classifier") as new:
            new.post(action("start", label="walk"))
            new.post(action("end", label="walk"))

            def paired() -> bool:
                with sqlite3.connect(hub.journal) as db:
                    bodies = [json.loads(body) for (body,) in db.execute("SELECT body FROM events ORDER BY offset")]
                db.close()
                return Counter(body["phase"] for body in bodies) == {"start": 2, "end": 2}

            wait_until(paired, "the end of an action whose producer is gone", deadline_s=20)
