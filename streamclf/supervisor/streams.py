"""The streams of a running service: what each is, what it is wanted to be, and how one becomes the other.

A stream changes in one way only: its capture process is asked to end, and when it is gone (`settle`), whatever the
stream is wanted to be by then is made of it. So a new wish may come at any moment of an older one's fulfilment.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from streamclf.errors import RingError
from streamclf.runtime.jobs import ClassifierChange, FeedJoin
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.stream_plan import StreamChannels, StreamPlan

log = logging.getLogger("service")


@dataclass(slots=True, kw_only=True)
class Stream:
    """One stream as it is."""

    name: str
    plan: StreamPlan
    wanted: StreamPlan | None
    """What it is to become; the same as `plan` where nothing is under way, None if it is to go."""
    channels: StreamChannels
    row: int
    child: Child
    joined: bool = False
    """Whether the classifier that runs now has been told of it."""
    read: bool = False
    """Whether some classifier has read its ring."""
    code: int | None = None
    """Exit code of a capture that came to its end for good."""


class StreamSet:
    """All streams. `tell` sends a change to the classifier, `begin` starts a child, `report` says why."""

    def __init__(
        self,
        link: str,
        table: LivenessTable,
        notify: Callable[[ChildEvent], None],
        *,
        tell: Callable[[ClassifierChange, Sequence[int]], bool],
        begin: Callable[[Child], None],
        report: Callable[[str, str], None],
    ) -> None:
        self._link, self._table, self._notify = link, table, notify
        self._tell, self._begin, self._report = tell, begin, report
        self._streams: dict[str, Stream] = {}
        self._by_child: dict[str, Stream] = {}
        self.room = 0
        """Streams that the running classifier can hold; 0 while there is none."""

    def __len__(self) -> int:
        return len(self._streams)

    def of_child(self, child: str) -> Stream | None:
        """The stream whose capture process has this name."""
        return self._by_child.get(child)

    @property
    def all(self) -> list[Stream]:
        """Every stream."""
        return list(self._streams.values())

    def add(self, name: str, plan: StreamPlan) -> None:
        """A new stream, and its capture process. Raises `RingError` where there is no memory for it."""
        channels = StreamChannels.open(plan)
        child = Child(f"capture[{name}]", "streamclf.capture", self._notify)
        stream = Stream(name=name, plan=plan, wanted=plan, channels=channels, row=self._table.claim(), child=child)
        self._streams[name] = self._by_child[child.name] = stream
        self._start(stream)

    def apply(self, plans: Mapping[str, StreamPlan]) -> list[Child]:
        """Make the streams what `plans` says, without touching any that stays as it is; who was asked to end for it."""
        ending: list[Child] = []
        for stream in self.all:
            stream.wanted = plans.get(stream.name)
            if stream.wanted is not None and stream.plan.same_capture(stream.wanted):
                if stream.joined and stream.wanted.settings != stream.plan.settings:
                    self._tell(ClassifierChange(update={stream.name: stream.wanted.settings}), ())
                stream.plan = stream.wanted
                if not stream.child.ending:
                    self._assign(stream)
                    continue
            stream.child.request_stop()
            if stream.child.running:
                ending.append(stream.child)
            else:
                self.settle(stream)
        self._add_missing(plans)
        return ending

    def settle(self, stream: Stream) -> None:
        """Its capture process, asked to end, is gone: now it becomes what it is wanted to be."""
        wanted = stream.wanted
        if wanted is None or not stream.plan.same_channels(wanted):
            self._leave(stream)
            stream.channels.close()
        if wanted is None:
            self._forget(stream, "removed from the configuration")
            return
        if not stream.plan.same_channels(wanted):
            try:
                stream.channels = StreamChannels.open(wanted)
            except RingError as error:
                self._forget(stream, str(error))
                return
            stream.read = False
        stream.plan = wanted
        self._start(stream)

    def join_waiting(self) -> None:
        """Tell the classifier of the streams that it does not know, as many as it has room for."""
        joined = sum(stream.joined for stream in self.all)
        for stream in self.all:
            if stream.joined or joined >= self.room:
                continue
            join = FeedJoin(stream=stream.name, settings=stream.plan.settings, resumed=stream.read)
            fds = stream.channels.classifier_fds
            if not self._tell(ClassifierChange(join=join, descriptors=len(fds)), fds):
                return
            stream.joined = stream.read = True
            joined += 1

    def classifier_gone(self) -> None:
        """The next classifier has to be told of all streams again."""
        self.room = 0
        for stream in self.all:
            stream.joined = False

    def close(self) -> None:
        """Let go of all descriptors; the processes have ended."""
        for stream in self.all:
            stream.channels.close()
        self._streams.clear()

    def _add_missing(self, plans: Mapping[str, StreamPlan]) -> None:
        for name, plan in plans.items():
            if name in self._streams:
                continue
            try:
                self.add(name, plan)
            except RingError as error:
                log.error("%s: %s", name, error)
                self._report(name, str(error))

    def _forget(self, stream: Stream, reason: str) -> None:
        log.info("%s: %s", stream.name, reason)
        self._table.release(stream.row)
        del self._streams[stream.name], self._by_child[stream.child.name]
        self._report(stream.name, reason)
        self.join_waiting()  # there is room for another one now

    def _start(self, stream: Stream) -> None:
        self._assign(stream)
        stream.code = None
        self._begin(stream.child)
        self.join_waiting()

    def _assign(self, stream: Stream) -> None:
        stream.child.job = stream.channels.capture_job(stream.name, stream.plan, self._link, self._table.fd, stream.row)
        stream.child.pass_fds = [*stream.channels.capture_fds, self._table.fd]

    def _leave(self, stream: Stream) -> None:
        if stream.joined:
            self._tell(ClassifierChange(leave=stream.name), ())
            stream.joined = False


def watched_rows_of(streams: Iterable[Stream]) -> list[tuple[str, int]]:
    """(name of the capture process, its line on the table) of each that runs and is not ending."""
    return [(each.child.name, each.row) for each in streams if each.child.running and not each.child.ending]
