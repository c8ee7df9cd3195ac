"""Find actions and state changes in the history, newest first, a page at a time."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Mapping
from typing import Any, Final

from streamclf.errors import UsageError
from streamclf.subscribers.web.history.recording import NO_END, fold
from streamclf.subscribers.web.history.records import (
    MAX_CURSOR_CHARS,
    ActionFilter,
    ActionPage,
    ActionRecord,
    ActionState,
    ClipRecord,
    StateChange,
    from_us,
    to_us,
)

MAX_LIMIT: Final = 200
_COLUMNS: Final = (
    "id, epoch, offset, end_offset, stream, label, started_s, at_s, began_us, ended_us, peak, reason, region, "
    "model_name"
)  # fmt: skip
_CLIP_COLUMNS: Final = (
    "c.offset, c.stream, c.label, c.part, c.last, c.began_us, c.start_s, c.end_s, c.file, c.still, c.drawn, c.bytes, "
    "c.probability, c.starred, c.region, c.model_name"
)
_CURSOR: Final = re.compile(r"(-?[0-9]{1,20})\.([0-9]{1,18})")


def find(
    db: sqlite3.Connection,
    chosen: ActionFilter,
    limit: int,
    cursor: str | None,
    names: Mapping[str, str],
    present: Collection[str],
    version: int,
) -> ActionPage:
    """Return up to `limit` actions after `cursor`, newest first. Raises `UsageError` for a cursor of no page."""
    if not 1 <= limit <= MAX_LIMIT:
        raise UsageError(f"limit={limit}: 1 to {MAX_LIMIT}")
    terms, values = _conditions(chosen, names)
    if cursor is not None:
        match = _CURSOR.fullmatch(cursor) if len(cursor) <= MAX_CURSOR_CHARS else None
        if match is None or abs(int(match[1])) >= 2**63:
            raise UsageError("cursor: give the `next_cursor` of the page before, unchanged")
        terms.append("(began_us, id) < (?, ?)")
        values += [int(match[1]), int(match[2])]
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM actions WHERE {' AND '.join(terms)} ORDER BY began_us DESC, id DESC LIMIT ?",  # noqa: S608
        (*values, limit + 1),
    ).fetchall()
    has_more = len(rows) > limit
    rows = rows[:limit]
    return ActionPage(
        actions=tuple(_action(db, row, present) for row in rows),
        next_cursor=f"{rows[-1][8]}.{rows[-1][0]}" if has_more else None,
        version=version,
    )


def get(db: sqlite3.Connection, offset: int, epoch: str | None, present: Collection[str]) -> ActionRecord | None:
    """Return the action with this offset: of journal `epoch`, else of the present one, else the newest."""
    condition, values = ("", ()) if epoch is None else (" AND epoch=?", (epoch,))
    rows = db.execute(
        f"SELECT {_COLUMNS} FROM actions WHERE offset=? AND deleted=0{condition} ORDER BY began_us DESC LIMIT 100",  # noqa: S608
        (offset, *values),
    ).fetchall()
    row = next((each for each in rows if each[1] in present), rows[0] if rows else None)
    return None if row is None else _action(db, row, present)


def state_changes(db: sqlite3.Connection, limit: int, stream: str | None) -> list[StateChange]:
    """Return the newest changes of state, newest first."""
    condition, values = ("", ()) if stream is None else ("WHERE stream=? ", (stream,))
    rows = db.execute(
        f"SELECT stream, time_us, state, reason FROM states {condition}ORDER BY time_us DESC LIMIT ?",  # noqa: S608
        (*values, limit),
    )
    return [
        StateChange(stream=stream, time=from_us(time_us), state=state, reason=reason)
        for stream, time_us, state, reason in rows
    ]


def _conditions(chosen: ActionFilter, names: Mapping[str, str]) -> tuple[list[str], list[object]]:
    """Return the SQL terms of a filter and their values. No value becomes part of the SQL."""
    terms, values = ["deleted=0"], list[object]()
    for column, wanted in (
        ("stream", chosen.streams), ("label", chosen.labels), ("region", chosen.regions), ("model_name", chosen.models),
    ):  # fmt: skip
        if wanted:
            terms.append(f"{column} IN ({','.join('?' * len(wanted))})")
            values += wanted
    if chosen.since is not None:
        terms.append("coalesce(ended_us, began_us)>=?")
        values.append(to_us(chosen.since))
    if chosen.until is not None:
        terms.append("began_us<=?")
        values.append(to_us(chosen.until))
    for word in dict.fromkeys(fold(chosen.text).split()):
        named = [stream for stream, name in names.items() if word in fold(name)]
        marks = ",".join("?" * len(named))
        terms.append(f"(contains(search, ?) OR stream IN ({marks}))")
        values += [word, *named]
    if chosen.starred:
        terms.append(
            "EXISTS (SELECT 1 FROM clip_actions u JOIN clips c ON c.id=u.clip WHERE u.epoch=actions.epoch "
            "AND u.action=actions.offset AND c.starred=1)"
        )
    return terms, values


def _action(db: sqlite3.Connection, row: tuple[Any, ...], present: Collection[str]) -> ActionRecord:
    _, epoch, offset, end_offset, stream, label, started_s, at_s, began_us, ended_us, peak, reason, *view = row
    state: ActionState = "ended"
    if end_offset is None or end_offset == NO_END:
        state = "running" if end_offset is None and epoch in present else "unknown"
    clips = db.execute(
        f"SELECT {_CLIP_COLUMNS} FROM clip_actions u JOIN clips c ON c.id=u.clip "  # noqa: S608
        "WHERE u.epoch=? AND u.action=? ORDER BY c.began_us, c.part LIMIT 100",
        (epoch, offset),
    )
    return ActionRecord(
        epoch=epoch,
        offset=offset,
        stream=stream,
        label=label,
        state=state,
        began=from_us(began_us),
        ended=None if ended_us is None else from_us(ended_us),
        duration_s=max(0.0, at_s - started_s),
        probability=peak,
        reason=reason,
        clips=tuple(_clip(clip) for clip in clips),
        region=view[0] or None,
        model_name=view[1] or None,
    )


def _clip(row: tuple[Any, ...]) -> ClipRecord:
    offset, stream, label, part, last, began_us, start_s, end_s, file, still, drawn, size, probability, *more = row
    starred, region, model_name = more
    return ClipRecord(
        offset=offset,
        stream=stream,
        label=label,
        part=part,
        last=bool(last),
        began=from_us(began_us),
        start_s=start_s,
        end_s=end_s,
        file=file,
        still=still,
        drawn=drawn,
        bytes=size,
        probability=probability,
        starred=bool(starred),
        region=region or None,
        model_name=model_name or None,
    )
