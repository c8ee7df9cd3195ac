"""Keep the streams of a running service, and change each from its present plan to its configured plan.

A change of the source takes the same steps always. The supervisor asks the stream's capture process to stop. When that
has ended, `settle` applies the target plan of that moment. So the configuration may change again in the middle of a
change. A change of the views alone goes to the running processes, which go on with the other views.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from streamclf.errors import RingError
from streamclf.runtime.capture_job import CaptureChange, CaptureJob
from streamclf.runtime.jobs import ClassifierChange, ClassifierLoad, FeedJoin
from streamclf.runtime.liveness import LivenessTable
from streamclf.supervisor.child import Child, ChildEvent
from streamclf.supervisor.placement import Place, Placed, Placement
from streamclf.supervisor.stream_plan import StreamPlan, ViewChannels, ViewPlan

log = logging.getLogger("service")


@dataclass(slots=True, kw_only=True, eq=False)
class View(Placed):
    """One view in its present state."""

    channels: ViewChannels
    was_read: bool = False
    """Whether any classifier has read its ring."""


@dataclass(slots=True, kw_only=True)
class Stream:
    """One stream in its present state."""

    name: str
    plan: StreamPlan
    target: StreamPlan | None
    """The plan to change to: the same as `plan` if no change is under way, None if the stream must be removed."""
    views: dict[str, View]
    row: int
    """The capture process's row of the liveness table."""
    child: Child
    code: int | None = None
    """Exit code of a capture process that has ended for good."""


class StreamSet:
    """All streams of the service.

    `send` sends a change to the classifier of a name, `start_child` starts a process, and `report` publishes why a
    stream is offline. `may_deal` says whether enough classifiers of an engine group are ready to deal views to them.
    """

    def __init__(
        self,
        link: str,
        table: LivenessTable,
        notify: Callable[[ChildEvent], None],
        *,
        send: Callable[[str, ClassifierChange, Sequence[int]], bool],
        start_child: Callable[[Child], None],
        report: Callable[[str, str], None],
        may_deal: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self._link, self._table, self._notify = link, table, notify
        self._send, self._start_child, self._report = send, start_child, report
        self._may_deal = may_deal
        self._streams: dict[str, Stream] = {}
        self._by_child: dict[str, Stream] = {}
        self._placement = Placement()
        self._waiting: Counter[str] = Counter()
        """Views for which no ready process has room, by engine group, as the log has reported them."""
        self._held: set[str] = set()
        """Engine groups whose views wait for further processes that start."""

    def of_child(self, child: str) -> Stream | None:
        """Return the stream whose capture process has this name."""
        return self._by_child.get(child)

    @property
    def all(self) -> list[Stream]:
        """Every stream."""
        return list(self._streams.values())

    def add(self, name: str, plan: StreamPlan) -> None:
        """Add a stream and start its capture process. Raises `RingError` where there is no memory for it."""
        views, error = _open_views(plan.views.values())
        if error:
            for view in views.values():
                view.channels.close()
            raise error
        child = Child(f"capture[{name}]", "streamclf.capture", self._notify, stream=name)
        stream = Stream(name=name, plan=plan, target=plan, views=views, row=self._table.claim(), child=child)
        self._streams[name] = self._by_child[child.name] = stream
        self._start(stream)

    def apply(self, plans: Mapping[str, StreamPlan]) -> list[Child]:
        """Change the streams to `plans`; unchanged streams continue. Return the children that were asked to stop."""
        stopping: list[Child] = []
        for stream in self.all:
            target = stream.target = plans.get(stream.name)
            can_go_on = target is not None and stream.plan.same_capture(target)
            if target and can_go_on and (stream.child.stopping or self._change_running(stream, target)):
                continue  # a child that is stopping gets its target from `settle`
            stream.child.request_stop()
            if stream.child.running:
                stopping.append(stream.child)
            else:
                self.settle(stream)
        self._add_missing(plans)
        return stopping

    def settle(self, stream: Stream) -> None:
        """Change a stream to its target, after its capture process was asked to stop and has ended."""
        if stream.target is None:
            self._remove(stream, "removed from the configuration")
            return
        try:
            self._change_views(stream, stream.target)
        except RingError as error:
            self._remove(stream, str(error))
            return
        self._start(stream)

    def classifier_ready(self, place: Place) -> None:
        """Send a classifier that is ready the views that it has to serve, also some of those that others serve."""
        self._placement.add(place)
        self.join_waiting()
        if moved := self._placement.level(place.name, self._views()):
            log.info("%s: takes over %d streams or regions from other GPUs", place.name, len(moved))
        for view in moved:
            self._move(view, place.name)

    def classifier_gone(self, name: str) -> None:
        """Deal the views of a classifier that has ended to the others of its group; else its next run gets them."""
        self._placement.remove(name)
        lost = [view for view in self._views() if view.process == name]
        for view in self._views():
            if view.leaving == name:
                view.leaving = None
        for view in lost:
            view.process, view.lost = None, name
        self.join_waiting()
        if moved := sum(view.process is not None for view in lost):
            log.warning("%s: lost; other GPUs continue with %d of its %d streams or regions", name, moved, len(lost))

    def feed_left(self, name: str, feed: str) -> None:
        """Let a view join its next classifier, after the classifier `name` has handed it over."""
        for view in self._views():
            if view.leaving == name and view.plan.feed == feed:
                view.leaving = None
                if view.process is not None:
                    self._join(view, view.process)
        self.join_waiting()

    def record_load(self, name: str, load: ClassifierLoad) -> None:
        """Note the load of a classifier; move one view if it is overloaded and another one of its group is not."""
        self._placement.record_load(name, load)
        if load.is_overloaded and name in self._placement and (move := self._placement.relieve(name, self._views())):
            view, target = move
            log.info("%s: moves from %s, which is overloaded, to %s", view.plan.feed, view.process, target)
            self._move(view, target)

    def join_waiting(self) -> None:
        """Send the classifiers the views that no classifier serves yet, up to their capacities."""
        views = self._views()
        self._held = {group for group in self._placement.groups if not self._may_deal(group)}
        for view, name in self._placement.deal(views, self._held):
            self._join(view, name)
        self._log_waiting(views)

    def join_held(self) -> None:
        """Send views that wait for further classifiers of their group, once they have waited long enough."""
        if self._held:
            self.join_waiting()

    def _join(self, view: View, name: str) -> None:
        plan, fds = view.plan, view.channels.classifier_fds
        join = FeedJoin(
            feed=plan.feed,
            stream=plan.stream,
            region=plan.region,
            settings=plan.settings,
            heads=plan.heads,
            card=view.channels.card_classifier is not None,
            resumed=view.was_read,
        )
        view.process = None
        if self._send(name, ClassifierChange(join=join, descriptors=len(fds)), fds):
            view.process, view.was_read = name, True

    def _move(self, view: View, target: str) -> None:
        """Have a view leave its process; it joins `target` when that has reported it."""
        assert view.process is not None
        if self._send(view.process, ClassifierChange(hand_over=view.plan.feed), ()):
            view.leaving, view.process = view.process, target

    def _log_waiting(self, views: Sequence[View]) -> None:
        """Log when the processes of a group that are ready have no room for all views, because GPUs are lost."""
        groups = self._placement.groups_on_gpus - self._held
        waiting = Counter(
            view.plan.classifier
            for view in views
            if view.process is None and view.leaving is None and view.plan.classifier in groups
        )
        if waiting != self._waiting:
            for group in waiting - self._waiting:
                log.error(
                    "%s: %d streams or regions are not classified until a lost GPU is back: the others have no room",
                    group,
                    waiting[group],
                )
            self._waiting = waiting

    def close(self) -> None:
        """Close all descriptors, after the processes have ended."""
        for view in self._views():
            view.channels.close()
        self._streams.clear()

    def count_by_process(self) -> Counter[str]:
        """Count the views that each classifier serves."""
        return Counter(view.process for view in self._views() if view.process is not None)

    def _views(self) -> list[View]:
        return [view for stream in self._streams.values() for view in stream.views.values()]

    def _add_missing(self, plans: Mapping[str, StreamPlan]) -> None:
        for name, plan in plans.items():
            if name in self._streams:
                continue
            try:
                self.add(name, plan)
            except RingError as error:
                self._report(name, str(error))

    def _change_running(self, stream: Stream, target: StreamPlan) -> bool:
        """Change the views of a stream whose source stays; return False if it must be stopped and settled."""
        before = list(stream.views.values())
        try:
            self._change_views(stream, target)
        except RingError as error:
            log.error("stream %s: %s", stream.name, error)
            return False
        if stream.code is not None and not any(view in before for view in stream.views.values()):
            self._start(stream)  # a file that has ended is read again for its new models
        return True

    def _change_views(self, stream: Stream, target: StreamPlan) -> None:
        """Change the views of a stream, also while it is captured.

        A view without memory for its ring is left out, and logged; raises `RingError`, before anything has changed, if
        no view is left.
        """
        before = stream.views
        kept = {key for key, plan in target.views.items() if key in before and before[key].plan.same_channels(plan)}
        opened, error = _open_views(plan for key, plan in target.views.items() if key not in kept)
        if error:
            if not kept and not opened:
                raise error
            log.error("stream %s: a region or a model is left out until the next change: %s", stream.name, error)
        for key, view in opened.items():  # before others are removed: capture always has a view
            self._send_to_capture(stream, CaptureChange(remove=key if key in before else None), view)
        for key in [key for key in before if key not in target.views]:
            self._send_to_capture(stream, CaptureChange(remove=key))
        for key in [key for key in before if key not in kept]:
            self._drop_view(stream, key)
        for key in kept:
            view, plan = before[key], target.views[key]
            if view.process and not view.leaving and view.plan.update != plan.update:
                self._send(view.process, ClassifierChange(update={plan.feed: plan.update}), ())
            if view.plan.area != plan.area:
                self._send_to_capture(stream, CaptureChange(update={key: plan.area}))
            view.plan = plan
        if stream.plan.source.decode != target.source.decode:
            self._send_to_capture(stream, CaptureChange(decode=target.source.decode))
        present = {key: before.get(key) or opened.get(key) for key in target.views}
        stream.views = {key: view for key, view in present.items() if view}
        stream.plan = target
        self._assign(stream)
        self.join_waiting()

    def _send_to_capture(self, stream: Stream, change: CaptureChange, added: View | None = None) -> None:
        """Send a change to a running capture process. One that does not run reads it in its next job."""
        child, fds = stream.child, added.channels.capture_fds if added else []
        if not child.running or child.stopping:
            return
        if added:
            job = added.channels.view_job(added.plan)
            change = replace(change, add=job, descriptors=len(fds))
        if not child.send(change, fds) and child.running and not child.kill_reason:
            child.kill_because("does not read its messages")

    def _drop_view(self, stream: Stream, key: str) -> None:
        """End a view, after its capture has ended: its classifier still reads the chunks that wait."""
        view = stream.views.pop(key)
        if view.process and not view.leaving:
            self._send(view.process, ClassifierChange(leave=view.plan.feed), ())
        view.channels.close()

    def _remove(self, stream: Stream, reason: str) -> None:
        for key in list(stream.views):
            self._drop_view(stream, key)
        self._table.release(stream.row)
        del self._streams[stream.name], self._by_child[stream.child.name]
        self._report(stream.name, reason)
        self.join_waiting()  # the classifiers can serve other views now

    def _start(self, stream: Stream) -> None:
        self._assign(stream)
        stream.code = None
        self._start_child(stream.child)
        self.join_waiting()

    def _assign(self, stream: Stream) -> None:
        """Set the job of the next run of the stream's capture process."""
        plan, source = stream.plan, stream.plan.source
        stream.child.job = CaptureJob(
            link=self._link,
            liveness_fd=self._table.fd,
            liveness_row=stream.row,
            memory_limit=source.memory_limit,
            stream=stream.name,
            source=source.settings,
            views=tuple(view.channels.view_job(view.plan) for view in stream.views.values()),
            clips=None if plan.clips is None else plan.clips.model_dump(mode="json"),
            examples=None if plan.examples is None else plan.examples.model_dump(mode="json"),
            picture=plan.picture,
        )
        fds = [fd for view in stream.views.values() for fd in view.channels.capture_fds]
        stream.child.pass_fds = [*fds, self._table.fd]


def watched_rows_of(streams: Iterable[Stream]) -> list[tuple[str, int]]:
    """Return (name, row of the liveness table) of the capture processes that run and are not stopping."""
    return [(each.child.name, each.row) for each in streams if each.child.running and not each.child.stopping]


def _open_views(plans: Iterable[ViewPlan]) -> tuple[dict[str, View], RingError | None]:
    """Open the channels of views. Return those for which there is memory, and the error of the next one."""
    opened: dict[str, View] = {}
    try:
        for plan in plans:
            opened[plan.key] = View(plan=plan, channels=ViewChannels.open(plan))
    except RingError as error:
        return opened, error
    return opened, None
