"""Join the stored actions with the files of their clips; star and delete clips."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import IO, Final, TypeAlias

from streamclf.clips.folder import ClipFolder, MissingClipError, StarredClipError, StoredClip
from streamclf.clips.names import parse_clip_path
from streamclf.errors import ClipError, UsageError
from streamclf.subscribers.web.history.records import ActionFilter, ActionPage, ActionRecord, ClipRecord
from streamclf.subscribers.web.history.store import History
from streamclf.units import NS

NamesFunction: TypeAlias = Callable[[], dict[str, str]]
"""Returns the display name of each stream that has one."""

_MAX_DAYS: Final = 64
"""Days and streams whose files are remembered until their folder changes."""
_SETTLED_NS: Final = NS
"""A file that is added right after the last change may leave the folder's time as it is."""


class EventArchive:
    """The actions of a service with those clips that exist. Any thread may call it. `folder` None shows no clips."""

    def __init__(self, history: History, folder: ClipFolder | None, names: NamesFunction = dict) -> None:
        self.history, self.folder = history, folder
        self.names = names
        self._lock = threading.Lock()
        self._days: OrderedDict[tuple[str, str], tuple[int, dict[str, StoredClip]]] = OrderedDict()

    def find(self, chosen: ActionFilter, *, limit: int, cursor: str | None = None) -> ActionPage:
        """Return up to `limit` actions, newest first. Raises `UsageError` for a wrong limit or cursor."""
        page = self.history.find(chosen, limit=limit, cursor=cursor, names=self.names())
        return replace(page, actions=tuple(self._with_files(action) for action in page.actions))

    def get(self, offset: int, epoch: str | None = None) -> ActionRecord | None:
        """Return one action; see `History.get`."""
        action = self.history.get(offset, epoch)
        return None if action is None else self._with_files(action)

    def star(self, action: ActionRecord, *, starred: bool) -> None:
        """Keep the clips of an action for ever, or not any more. Raises `UsageError`, and `ClipError`."""
        if not action.clips:
            raise UsageError("the event has no clip, so there is nothing to keep")
        for clip in action.clips:
            self._existing_folder.star(clip.file, is_starred=starred)
            self.history.star(clip.file, starred=starred)

    def delete(self, action: ActionRecord) -> None:
        """Remove an action from the list, with those of its clips that no other action is in.

        Raises `StarredClipError` for a starred clip, `UsageError` for an action that runs, and `ClipError` if a file
        cannot be deleted.
        """
        if action.state == "running":
            raise UsageError("the action is still running; delete it when it has ended")
        if any(clip.starred for clip in action.clips):
            raise StarredClipError("the clip is starred, so it is kept; remove the star first")
        key = (action.epoch, action.offset)
        for clip in action.clips:
            if set(self.history.clip_users(clip.file)) <= {key}:
                try:
                    self._existing_folder.delete(clip.file)
                except StarredClipError:
                    raise
                except MissingClipError:
                    pass  # deleted meanwhile, by retention or by hand
        self.history.delete(action)

    def open(self, path: str) -> IO[bytes]:
        """Open a film or a picture by its path in the folder. Raises `MissingClipError`, and `ClipError`."""
        parsed = parse_clip_path(path)
        streams = self.history.streams
        if parsed is None or (streams is not None and parsed[0].stream not in streams):
            raise MissingClipError("no such clip; it was deleted or has expired")
        return self._existing_folder.open(path)

    @property
    def _existing_folder(self) -> ClipFolder:
        if self.folder is None:
            raise MissingClipError("the page has no folder of clips; set `clips` in the configuration")
        return self.folder

    def _with_files(self, action: ActionRecord) -> ActionRecord:
        """Leave out clips that are gone, and take the stars from the files: other programs may change them."""
        if not action.clips:
            return action
        clips = []
        for clip in action.clips:
            stored = self._stored(clip.file)
            if stored is None or not stored.has_film:
                continue
            if stored.is_starred != clip.starred:
                self.history.star(clip.file, starred=stored.is_starred)
            clips.append(_as_stored(clip, stored))
        return replace(action, clips=tuple(clips))

    def _stored(self, path: str) -> StoredClip | None:
        parsed = parse_clip_path(path)
        if self.folder is None or parsed is None:
            return None
        name = parsed[0]
        key = (name.day, name.stream)
        try:
            changed_ns = self.folder.changed_ns(*key)
            if changed_ns is None:
                return None
            with self._lock:
                known = self._days.get(key)
            if known is None or known[0] != changed_ns:
                known = (changed_ns, {clip.name.stem: clip for clip in self.folder.clips_of_day(*key)})
                if time.time_ns() - changed_ns > _SETTLED_NS:
                    self._remember(key, known)
        except ClipError:
            return None  # the folder cannot be read now; the health page says so
        return known[1].get(name.stem)

    def _remember(self, key: tuple[str, str], known: tuple[int, dict[str, StoredClip]]) -> None:
        with self._lock:
            self._days[key] = known
            self._days.move_to_end(key)
            while len(self._days) > _MAX_DAYS:
                self._days.popitem(last=False)


def _as_stored(clip: ClipRecord, stored: StoredClip) -> ClipRecord:
    name = stored.name
    return replace(
        clip,
        starred=stored.is_starred,
        still=name.still if stored.has_still else None,
        drawn=name.drawn if stored.has_drawn else None,
    )
