"""Deal views to the classifier processes of their engine group, by load: there are several where GPUs are listed.

A view stays where it is. It moves in three cases: its process is lost, another process of its group becomes ready and
has less to do, or its process is overloaded and another one has room. Pure: no clock, no processes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from streamclf.classifier.load_control import TARGET_LOAD
from streamclf.runtime.jobs import ClassifierLoad
from streamclf.supervisor.stream_plan import ViewPlan

NOMINAL_S: Final = 1e-3
"""Cost of one encode, and of one window, before any process has reported its costs: then only their numbers count."""


@dataclass(slots=True, kw_only=True)
class Place:
    """A classifier process that is ready, with its limit and its last report."""

    name: str
    group: str
    """Name of the engine group, as `ViewPlan.classifier` has it."""
    device: int | None
    capacity: int
    """Largest number of views."""
    load: ClassifierLoad | None = None


@dataclass(slots=True, kw_only=True)
class Placed:
    """A view and the classifier process that serves it."""

    plan: ViewPlan
    process: str | None = None
    """The process that serves it, or is going to; None while it waits for one."""
    leaving: str | None = None
    """The process that still serves it, before it moves."""
    lost: str | None = None
    """The process that ended while it served the view: the view returns there, if it can."""

    @property
    def can_move(self) -> bool:
        """Whether it may leave its process. A file that is read as fast as possible stays: it must lose no chunk."""
        return self.process is not None and self.leaving is None and not self.plan.capture_waits


PlacedT = TypeVar("PlacedT", bound=Placed)


class Placement:
    """The classifier processes that are ready, and how much each of their devices has to do."""

    def __init__(self) -> None:
        self._places: dict[str, Place] = {}

    def __contains__(self, process: object) -> bool:
        return process in self._places

    @property
    def groups(self) -> set[str]:
        """The engine groups that have a process which is ready."""
        return {place.group for place in self._places.values()}

    @property
    def groups_on_gpus(self) -> set[str]:
        """The groups among them whose GPUs are listed."""
        return {place.group for place in self._places.values() if place.device is not None}

    def add(self, place: Place) -> None:
        """Let a process that is ready serve views."""
        self._places[place.name] = place

    def remove(self, process: str) -> None:
        """Deal no view to this process any more."""
        self._places.pop(process, None)

    def record_load(self, process: str, load: ClassifierLoad) -> None:
        """Note the last report of a process."""
        if place := self._places.get(process):
            place.load = load

    def cost(self, plan: ViewPlan, place: Place) -> float:
        """Return the share of the time that a process needs for a view, at measured costs."""
        encode_s, window_s = self._costs(place)
        chunks_per_s = plan.geometry.fps / plan.geometry.frames_per_chunk
        per_window = sum(window_s.get(model, NOMINAL_S) for model in plan.heads)
        return chunks_per_s * (encode_s + per_window / plan.settings.hop)

    def _costs(self, place: Place) -> tuple[float, Mapping[str, float]]:
        """Return the costs of a chunk and of a window of each model; of another GPU if the process has none yet."""
        known = [place, *(each for each in self._places.values() if each.group == place.group)]
        load = next((each.load for each in known if each.load), None)
        return (NOMINAL_S, {}) if load is None else (load.chunk_s, load.window_s)

    def loads(self, views: Iterable[Placed]) -> dict[str, float]:
        """Return the load of the device of each process: all processes of a GPU share it."""
        own = dict.fromkeys(self._places, 0.0)
        for view in views:
            if view.process in own:
                own[view.process] += self.cost(view.plan, self._places[view.process])
        devices: dict[int | None, float] = {}
        for name, place in self._places.items():
            devices[place.device] = devices.get(place.device, 0.0) + own[name]
        return {name: devices[place.device] for name, place in self._places.items()}

    def deal(self, views: Sequence[PlacedT], held: Collection[str] = ()) -> list[tuple[PlacedT, str]]:
        """Return a process for each waiting view, except for those of the groups in `held`.

        Views for which no process has room are left out.
        """
        loads, counts = self.loads(views), self._counts(views)
        dealt = []
        for view in views:
            if view.process is not None or view.leaving is not None or view.plan.classifier in held:
                continue
            open_places = [
                place
                for place in self._places.values()
                if place.group == view.plan.classifier and counts[place.name] < place.capacity
            ]
            if not open_places:
                continue
            costs = {place.name: self.cost(view.plan, place) for place in open_places}
            chosen = min(open_places, key=lambda place: (loads[place.name] + costs[place.name], counts[place.name]))
            dealt.append((view, chosen.name))
            counts[chosen.name] += 1
            for place in self._places.values():
                if place.device == chosen.device:
                    loads[place.name] += costs[chosen.name]
        return dealt

    def level(self, process: str, views: Sequence[PlacedT]) -> list[PlacedT]:
        """Return the views that are to move to `process`, which has just become ready.

        A move must leave the new process with less to do than the old one had. Views that `process` lost come first.
        """
        me = self._places[process]
        loads, counts = self.loads(views), self._counts(views)
        moves: list[PlacedT] = []
        for view in sorted(views, key=lambda view: view.lost != process):
            place = self._places.get(view.process or "")
            if place is None or place is me or place.group != me.group or place.device == me.device:
                continue
            cost = self.cost(view.plan, me)
            if not view.can_move or counts[process] >= me.capacity or loads[process] + cost >= loads[place.name]:
                continue
            moves.append(view)
            counts[process] += 1
            old_cost = self.cost(view.plan, place)
            for each in self._places.values():
                loads[each.name] += cost if each.device == me.device else 0.0
                loads[each.name] -= old_cost if each.device == place.device else 0.0
        return moves

    def relieve(self, process: str, views: Sequence[PlacedT]) -> tuple[PlacedT, str] | None:
        """Return a view that is to leave `process`, which is overloaded, and the process that has room for it."""
        me = self._places[process]
        loads, counts = self.loads(views), self._counts(views)
        others = [
            each
            for each in self._places.values()
            if each.group == me.group and each.device != me.device and counts[each.name] < each.capacity
            if not (each.load and each.load.is_overloaded)
        ]
        for other in sorted(others, key=lambda each: loads[each.name]):
            present = max(loads[other.name], other.load.busy if other.load else 0.0)
            costs = [(self.cost(view.plan, other), view) for view in views if view.process == process and view.can_move]
            fits = [(cost, view) for cost, view in costs if present + cost <= TARGET_LOAD]
            if fits and len(costs) > 1:
                return max(fits, key=lambda each: each[0])[1], other.name
        return None

    def _counts(self, views: Iterable[Placed]) -> dict[str, int]:
        """Count the views in the bank of each process."""
        counts = dict.fromkeys(self._places, 0)
        for view in views:
            for name in {view.process, view.leaving} - {None}:
                if name in counts:
                    counts[name] += 1
        return counts
