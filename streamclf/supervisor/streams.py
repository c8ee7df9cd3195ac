"""Keep the streams of a running service, and change each from its present plan to its configured plan.

Every change takes the same steps. The supervisor asks the stream's capture process to stop. When that has ended,
`settle` applies the target plan of that moment. So the configuration may change again in the middle of a change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from streamclf.config.views import UNNAMED
from streamclf.errors import RingError
from streamclf.runtime.jobs import ClassifierChange, FeedJoin
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.stream_plan import StreamChannels, StreamPlan


@dataclass(slots=True, kw_only=True)
class Stream:
    """One stream in its present state."""

    name: str
    plan: StreamPlan
    target: StreamPlan | None
    """The plan to change to: the same as `plan` if no change is under way, None if the stream must be removed."""
    channels: StreamChannels
    row: int
    """The capture process's row of the liveness table."""
    child: Child
    joined: bool = False
    """Whether the present classifier serves it."""
    was_read: bool = False
    """Whether any classifier has read its ring."""
    code: int | None = None
    """Exit code of a capture process that has ended for good."""


class StreamSet:
    """All streams of the service.

    `send` sends a change to the classifier, `start_child` starts a process, and `report` publishes why a stream is
    offline.
    """

    def __init__(
        self,
        link: str,
        table: LivenessTable,
        notify: Callable[[ChildEvent], None],
        *,
        send: Callable[[ClassifierChange, Sequence[int]], bool],
        start_child: Callable[[Child], None],
        report: Callable[[str, str], None],
    ) -> None:
        self._link, self._table, self._notify = link, table, notify
        self._send, self._start_child, self._report = send, start_child, report
        self._streams: dict[str, Stream] = {}
        self._by_child: dict[str, Stream] = {}
        self.capacity = 0
        """Largest number of streams of the running classifier; 0 while no classifier runs."""

    def of_child(self, child: str) -> Stream | None:
        """Return the stream whose capture process has this name."""
        return self._by_child.get(child)

    @property
    def all(self) -> list[Stream]:
        """Every stream."""
        return list(self._streams.values())

    def add(self, name: str, plan: StreamPlan) -> None:
        """Add a stream and start its capture process. Raises `RingError` where there is no memory for it."""
        channels = StreamChannels.open(plan)
        child = Child(f"capture[{name}]", "streamclf.capture", self._notify, stream=name)
        stream = Stream(name=name, plan=plan, target=plan, channels=channels, row=self._table.claim(), child=child)
        self._streams[name] = self._by_child[child.name] = stream
        self._start(stream)

    def apply(self, plans: Mapping[str, StreamPlan]) -> list[Child]:
        """Change the streams to `plans`; unchanged streams continue. Return the children that were asked to stop."""
        stopping: list[Child] = []
        for stream in self.all:
            stream.target = plans.get(stream.name)
            if stream.target is not None and stream.plan.same_capture(stream.target):
                if stream.joined and stream.target.classification != stream.plan.classification:
                    self._send(ClassifierChange(update={stream.name: stream.target.classification}), ())
                stream.plan = stream.target
                if not stream.child.stopping:
                    self._assign(stream)
                    continue
            stream.child.request_stop()
            if stream.child.running:
                stopping.append(stream.child)
            else:
                self.settle(stream)
        self._add_missing(plans)
        return stopping

    def settle(self, stream: Stream) -> None:
        """Change a stream to its target, after its capture process was asked to stop and has ended."""
        target = stream.target
        if target is None or not stream.plan.same_channels(target):
            self._leave(stream)
            stream.channels.close()
        if target is None:
            self._remove(stream, "removed from the configuration")
            return
        if not stream.plan.same_channels(target):
            try:
                stream.channels = StreamChannels.open(target)
            except RingError as error:
                self._remove(stream, str(error))
                return
            stream.was_read = False
        stream.plan = target
        self._start(stream)

    def join_waiting(self) -> None:
        """Send the classifier the streams that it does not serve yet, up to its capacity."""
        joined = sum(stream.joined for stream in self.all)
        for stream in self.all:
            if stream.joined or joined >= self.capacity:
                continue
            join = FeedJoin(
                feed=stream.name,
                stream=stream.name,
                settings=stream.plan.settings,
                heads={UNNAMED: stream.plan.head},
                resumed=stream.was_read,
            )
            fds = stream.channels.classifier_fds
            if not self._send(ClassifierChange(join=join, descriptors=len(fds)), fds):
                return
            stream.joined = stream.was_read = True
            joined += 1

    def classifier_gone(self) -> None:
        """Record that no classifier serves the streams any more: the next classifier must get all of them."""
        self.capacity = 0
        for stream in self.all:
            stream.joined = False

    def close(self) -> None:
        """Close all descriptors, after the processes have ended."""
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
                self._report(name, str(error))

    def _remove(self, stream: Stream, reason: str) -> None:
        self._table.release(stream.row)
        del self._streams[stream.name], self._by_child[stream.child.name]
        self._report(stream.name, reason)
        self.join_waiting()  # the classifier can serve another stream now

    def _start(self, stream: Stream) -> None:
        self._assign(stream)
        stream.code = None
        self._start_child(stream.child)
        self.join_waiting()

    def _assign(self, stream: Stream) -> None:
        stream.child.job = stream.channels.capture_job(stream.name, stream.plan, self._link, self._table.fd, stream.row)
        stream.child.pass_fds = [*stream.channels.capture_fds, self._table.fd]

    def _leave(self, stream: Stream) -> None:
        if stream.joined:
            self._send(ClassifierChange(leave=stream.name), ())
            stream.joined = False


def watched_rows_of(streams: Iterable[Stream]) -> list[tuple[str, int]]:
    """Return (name, row of the liveness table) of the capture processes that run and are not stopping."""
    return [(each.child.name, each.row) for each in streams if each.child.running and not each.child.stopping]
