"""Turn events into rows of the history, in whatever order they arrive.

The history reads the newest events first, so the end of an action often arrives before its start, and a clip before its
action.
"""

from __future__ import annotations

import sqlite3
import unicodedata
import zlib
from typing import Final, NamedTuple

from streamclf.events.types import Action, Clip, Status, StreamEvent
from streamclf.events.views import InView
from streamclf.subscribers.web.history.records import ClipRecord, to_us

_SAME_KIND: Final = "epoch=? AND stream=? AND label=? AND region=? AND model_name=?"
"""The SQL condition for actions of the same kind: of one view and label."""
NO_END: Final = -1
"""In place of the offset of an end that is missing."""
_US_PER_S: Final = 1_000_000
_CLIP_MARGIN_US: Final = 120 * _US_PER_S


class _Row(NamedTuple):
    """An action that is stored."""

    id: int
    offset: int
    end_offset: int | None
    has_start: int


class Recorder:
    """Write events into the tables. The caller holds the lock and begins and ends the transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._undurable = 0

    def add(self, event: StreamEvent) -> bool:
        """Store an event; return whether that changed anything."""
        match event:
            case Action():
                return self._add_action(event)
            case Clip():
                return self._add_clip(event)
            case Status():
                return self._add_status(event)
            case _:
                return False

    def adopt(self, clip: ClipRecord) -> bool:
        """Add a clip of the folder without its events, with an action of its own; return whether it is new."""
        if self._db.execute("SELECT 1 FROM clips WHERE file=?", (clip.file,)).fetchone():
            self._db.execute("UPDATE clips SET starred=? WHERE file=?", (clip.starred, clip.file))
            return False
        offset = own_offset(clip.file)
        key = self._insert_clip("", None, clip)
        self._link("", offset, key)
        self._insert_action_of_clip(offset, clip)
        return True

    # Actions

    def _add_action(self, event: Action) -> bool:
        """Store an event of an action. A film that is played again repeats its media times: the offsets decide then."""
        if event.offset is None:
            return self._add_undurable(event)
        match event.phase:
            case "start":
                return self._add_start(event, event.offset)
            case "end":
                return self._add_end(event, event.offset)
            case "update":  # an action whose start is unknown comes with an older page of the journal
                row = self._nearest(event, "offset<=? AND ended_us IS NULL ORDER BY offset DESC", event.offset)
                return row is not None and self._update(row.id, event)

    def _add_start(self, event: Action, offset: int) -> bool:
        if self._nearest(event, "offset=?", offset):
            return False
        at_us = to_us(event.time)
        over = self._nearest(event, "offset<? AND end_offset>? ORDER BY offset DESC", offset, offset)
        later = self._nearest(event, "offset>? ORDER BY offset", offset)
        if over is not None:  # the end that an older start was given is that of this one
            self._insert_action(event, offset, began_us=at_us, ended_us=None)
            self._move_end(over.id, self._nearest(event, "offset=?", offset))
        elif later is not None and not later.has_start:
            self._db.execute(
                "UPDATE actions SET offset=?, has_start=1, began_us=? WHERE id=?", (offset, at_us, later.id)
            )
        else:
            self._insert_action(event, offset, began_us=at_us, ended_us=None)
        # A label has one action of a view at a time. If a later one has begun, the end of this one is missing. Offsets
        # decide which one is later, because the clock may be set back; an action without one has its time only.
        same = _kind(event)
        self._db.execute(
            f"UPDATE actions SET end_offset=? WHERE {_SAME_KIND} AND end_offset IS NULL "  # noqa: S608 - constants
            f"AND EXISTS (SELECT 1 FROM actions later WHERE {_SAME_KIND} AND CASE "
            "WHEN min(later.offset, actions.offset)>0 THEN later.offset>actions.offset "
            "ELSE later.began_us>actions.began_us END)",
            (NO_END, *same, *same),
        )
        return True

    def _add_end(self, event: Action, offset: int) -> bool:
        if self._nearest(event, "end_offset=?", offset):
            return False
        row = self._nearest(event, "offset>=0 AND offset<=? ORDER BY offset DESC", offset)
        if row is None or (row.end_offset is not None and NO_END < row.end_offset < offset):
            row = self._nearest(event, "offset<0 AND ended_us IS NULL")  # its start could not be journalled
        if row is None:
            return self._insert_action(event, offset, began_us=_began_us(event), ended_us=to_us(event.time))
        if row.end_offset is not None and row.end_offset > offset:  # that is the end of a start still to be read
            detached = self._db.execute(
                "INSERT INTO actions(epoch, offset, has_start, end_offset, stream, label, started_s, at_s, began_us, "
                "ended_us, peak, reason, search, region, model_name) SELECT epoch, end_offset, 0, end_offset, stream, "
                "label, started_s, at_s, ended_us, ended_us, peak, reason, search, region, model_name FROM actions "
                "WHERE id=?",
                (row.id,),
            )
            assert detached.rowcount == 1
        self._end(row.id, event, offset)
        return True

    def _add_undurable(self, event: Action) -> bool:
        """Store an event that has no offset, because the service could not journal it."""
        row = self._nearest(event, "ended_us IS NULL ORDER BY began_us DESC")
        if row is None or event.phase == "start":
            if event.phase == "update":
                return False
            self._undurable += 1
            offset = -(to_us(event.time) + self._undurable % 1000)
            ended_us = to_us(event.time) if event.phase == "end" else None
            return self._insert_action(event, offset, began_us=_began_us(event), ended_us=ended_us)
        if event.phase == "update":
            return self._update(row.id, event)
        self._end(row.id, event, row.offset)
        return True

    def _nearest(self, event: Action, condition: str, *values: int) -> _Row | None:
        """Return the first action of the same view, label and media time that fulfils the SQL condition."""
        row = self._db.execute(
            "SELECT id, offset, end_offset, has_start FROM actions "  # noqa: S608 - constants of this module
            f"WHERE {_SAME_KIND} AND started_s=? AND {condition} LIMIT 1",
            (*_kind(event), event.started_s, *values),
        ).fetchone()
        return None if row is None else _Row(*row)

    def _end(self, row: int, event: Action, end_offset: int) -> None:
        self._db.execute(
            "UPDATE actions SET end_offset=?, ended_us=?, at_s=?, peak=max(peak, ?), reason=? WHERE id=?",
            (end_offset, to_us(event.time), event.at_s, event.peak, event.reason, row),
        )

    def _move_end(self, source: int, target: _Row | None) -> None:
        assert target is not None
        self._db.execute(
            "UPDATE actions SET (end_offset, ended_us, at_s, peak, reason) = "
            "(SELECT end_offset, ended_us, at_s, peak, reason FROM actions WHERE id=?) WHERE id=?",
            (source, target.id),
        )
        self._db.execute("UPDATE actions SET end_offset=?, ended_us=NULL, reason=NULL WHERE id=?", (NO_END, source))

    def _update(self, row: int, event: Action) -> bool:
        """Store how far the action has come. Only a higher peak is a change: time goes on in the browser by itself."""
        known = self._db.execute("SELECT peak FROM actions WHERE id=?", (row,)).fetchone()
        self._db.execute(
            "UPDATE actions SET at_s=max(at_s, ?), peak=max(peak, ?) WHERE id=?", (event.at_s, event.peak, row)
        )
        return event.peak > float(known[0])

    def _insert_action(self, event: Action, offset: int, *, began_us: int, ended_us: int | None) -> bool:
        added = self._db.execute(
            "INSERT OR IGNORE INTO actions(epoch, offset, has_start, end_offset, stream, label, started_s, at_s, "
            "began_us, ended_us, peak, reason, search, region, model_name) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                event.epoch,
                offset,
                event.phase == "start",
                None if ended_us is None else offset,
                event.stream,
                event.label,
                event.started_s,
                event.at_s,
                began_us,
                ended_us,
                event.peak,
                event.reason,
                _search_text(event),
                *_view(event),
            ),
        )
        return added.rowcount > 0

    # Clips

    def _add_clip(self, event: Clip) -> bool:
        clip = ClipRecord(
            offset=event.offset,
            stream=event.stream,
            label=event.label,
            part=event.part,
            last=event.last,
            began=event.began,
            start_s=event.start_s,
            end_s=event.end_s,
            file=event.file,
            still=event.still,
            drawn=event.drawn,
            bytes=event.bytes,
            probability=event.probability,
            starred=False,
            region=event.region,
            model_name=event.model_name,
        )
        known = self._db.execute("SELECT id, epoch FROM clips WHERE file=?", (event.file,)).fetchone()
        if known and known[1]:
            return False
        if known:  # adopted from the folder before its event was read
            clip_id = int(known[0])
            self._db.execute("UPDATE clips SET epoch=?, offset=? WHERE id=?", (event.epoch, event.offset, clip_id))
            self._db.execute("DELETE FROM clip_actions WHERE epoch='' AND clip=?", (clip_id,))
            self._db.execute("DELETE FROM actions WHERE epoch='' AND offset=?", (own_offset(event.file),))
        else:
            clip_id = self._insert_clip(event.epoch, event.offset, clip)
        offsets = {*event.actions, *([] if event.action is None else [event.action])}
        if not offsets and (found := self._find_action_of(clip, event.epoch)) is not None:
            offsets = {found}
        for offset in offsets:
            self._link(event.epoch, offset, clip_id)
        if not offsets:
            self._link("", own_offset(clip.file), clip_id)
            self._insert_action_of_clip(own_offset(clip.file), clip)
        return True

    def _find_action_of(self, clip: ClipRecord, epoch: str) -> int | None:
        """Return the action of a clip whose event names none: the service could not journal the start."""
        began_us = to_us(clip.began)
        end_us = began_us + int((clip.end_s - clip.start_s) * _US_PER_S)
        row = self._db.execute(
            f"SELECT offset FROM actions WHERE {_SAME_KIND} AND began_us>=? AND began_us<=? "  # noqa: S608 - a constant
            "ORDER BY began_us DESC LIMIT 1",
            (epoch, clip.stream, clip.label, *_view(clip), began_us - _CLIP_MARGIN_US, end_us),
        ).fetchone()
        return None if row is None else int(row[0])

    def _insert_clip(self, epoch: str, offset: int | None, clip: ClipRecord) -> int:
        added = self._db.execute(
            "INSERT INTO clips(epoch, offset, stream, label, part, last, began_us, start_s, end_s, file, still, drawn, "
            "bytes, probability, starred, region, model_name) VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                epoch,
                offset,
                clip.stream,
                clip.label,
                clip.part,
                clip.last,
                to_us(clip.began),
                clip.start_s,
                clip.end_s,
                clip.file,
                clip.still,
                clip.drawn,
                clip.bytes,
                clip.probability,
                clip.starred,
                *_view(clip),
            ),
        )
        assert added.lastrowid is not None
        return added.lastrowid

    def _link(self, epoch: str, action: int, clip: int) -> None:
        self._db.execute("INSERT OR IGNORE INTO clip_actions VALUES(?,?,?)", (epoch, action, clip))

    def _insert_action_of_clip(self, offset: int, clip: ClipRecord) -> None:
        began_us = to_us(clip.began)
        ended_us = began_us + int((clip.end_s - clip.start_s) * _US_PER_S)
        self._db.execute(
            "INSERT OR IGNORE INTO actions(epoch, offset, has_start, end_offset, stream, label, started_s, at_s, "
            "began_us, ended_us, peak, search, region, model_name) VALUES('',?,1,?,?,?,?,?,?,?,?,?,?,?)",
            (
                offset,
                offset,
                clip.stream,
                clip.label,
                clip.start_s,
                clip.end_s,
                began_us,
                ended_us,
                clip.probability,
                _search_text(clip),
                *_view(clip),
            ),
        )

    # Statuses

    def _add_status(self, event: Status) -> bool:
        """Store a status that differs from the one before it, and remove a later one that repeats it."""
        at_us, content = to_us(event.time), (event.state, event.reason)
        neighbours = [
            self._db.execute(
                f"SELECT state, reason, id FROM states WHERE stream=? AND time_us{compare}? "  # noqa: S608
                f"ORDER BY time_us {order} LIMIT 1",
                (event.stream, at_us),
            ).fetchone()
            for compare, order in (("<=", "DESC"), (">", "ASC"))
        ]
        before, after = neighbours
        if before is not None and before[:2] == content:
            return False
        if after is not None and after[:2] == content:
            self._db.execute("UPDATE states SET time_us=? WHERE id=?", (at_us, after[2]))
            return True
        added = self._db.execute(
            "INSERT OR IGNORE INTO states(stream, time_us, state, reason) VALUES(?,?,?,?)",
            (event.stream, at_us, *content),
        )
        return added.rowcount > 0


def _view(item: InView) -> tuple[str, str]:
    """Return the columns `region` and `model_name`."""
    return item.region or "", item.model_name or ""


def _kind(event: Action) -> tuple[str, ...]:
    """Return the values of `_SAME_KIND`."""
    return event.epoch, event.stream, event.label, *_view(event)


def _search_text(item: Action | ClipRecord) -> str:
    return fold("\n".join((item.stream, *filter(None, _view(item)), item.label)))


def _began_us(event: Action) -> int:
    """Return the wall-clock time of the action's start, as its media times tell it."""
    return to_us(event.time) - int(max(0.0, event.at_s - event.started_s) * _US_PER_S)


def own_offset(file: str) -> int:
    """Return a negative number that identifies a clip without its events by its path, also after a restart."""
    data = file.encode()
    return -((zlib.crc32(data) << 20 | zlib.adler32(data) & 0xFFFFF) + 1)


def fold(text: str) -> str:
    """Return text in the form in which it is searched: without case, with composed accents."""
    return unicodedata.normalize("NFC", text).casefold()
