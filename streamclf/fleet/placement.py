"""Choose a node for each stream, and the next stream to move; pure functions without Ray.

A node is as loaded as the most used of its resources: processors, GPUs, and the number of streams that one service can
have. No decision loads a node beyond its capacity.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from streamclf.net.names import MAX_STREAMS

Policy: TypeAlias = Literal["spread", "pack"]

TOLERANCE: Final = 0.05
"""Difference of load up to which two nodes count as equally loaded: a move costs its stream a few seconds."""
_ROUNDING: Final = 1e-9
_MAX_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """The resources that one stream takes. With `near`, only nodes of that site may run it."""

    stream: str
    cpus: float
    gpus: float = 0.0
    near: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The resources of one node that streams may take. A node with `drained` gets none, and loses those it has."""

    node: str
    cpus: float
    gpus: float = 0.0
    site: str | None = None
    drained: bool = False


@dataclass(slots=True)
class _Use:
    cpus: float = 0.0
    gpus: float = 0.0
    streams: int = 0

    def change(self, demand: Demand, sign: int) -> None:
        self.cpus += sign * demand.cpus
        self.gpus += sign * demand.gpus
        self.streams += sign


@dataclass(frozen=True, slots=True)
class Move:
    """A stream that should run on another node."""

    stream: str
    source: str
    target: str


def place(
    demands: Iterable[Demand], nodes: Collection[Capacity], present: Mapping[str, Sequence[Demand]], policy: Policy
) -> tuple[dict[str, str], list[Demand]]:
    """Return (node by stream, the demands that fit nowhere).

    `present` holds the demands that already run, by node. `spread` takes the node with the least load, `pack` the one
    with the most load that has room. The largest demands come first.
    """
    uses = {node.node: _use_of(present.get(node.node, ())) for node in nodes}
    usable = [node for node in nodes if not node.drained]
    placed: dict[str, str] = {}
    unplaced = []
    sign = 1.0 if policy == "spread" else -1.0
    for demand in sorted(demands, key=lambda each: (-each.cpus, -each.gpus, each.stream)):
        best, best_score = None, math.inf
        for node in usable:
            if demand.near is not None and node.site != demand.near:
                continue
            load = _load(node, uses[node.node], demand)
            if load <= 1 + _ROUNDING and sign * load < best_score:
                best, best_score = node.node, sign * load
        if best is None:
            unplaced.append(demand)
        else:
            placed[demand.stream] = best
            uses[best].change(demand, 1)
    return placed, unplaced


def next_move(nodes: Collection[Capacity], present: Mapping[str, Sequence[Demand]], policy: Policy) -> Move | None:
    """Return the one move that should come next, or None.

    A stream leaves a node that is drained or at another site than its own. With `spread`, a stream then moves from a
    more loaded node to a less loaded one, if that makes both more equal.
    """
    uses = {node.node: _use_of(present.get(node.node, ())) for node in nodes}
    by_load = sorted((node for node in nodes if not node.drained), key=lambda node: _load(node, uses[node.node]))
    targets = by_load if policy == "spread" else by_load[::-1]
    for node in nodes:
        for demand in present.get(node.node, ()):
            if node.drained or (demand.near is not None and demand.near != node.site):
                for target in targets:
                    if target is not node and _fits(target, uses[target.node], demand):
                        return Move(demand.stream, node.node, target.node)
    if policy == "pack":
        return None
    for source in reversed(by_load):
        source_load = _load(source, uses[source.node])
        for target in by_load:
            if source_load - _load(target, uses[target.node]) <= TOLERANCE:
                break
            for demand in sorted(present.get(source.node, ()), key=lambda each: (each.cpus, each.stream)):
                after = _load(target, uses[target.node], demand)
                if _fits(target, uses[target.node], demand) and after < source_load - _ROUNDING:
                    left = _load(source, uses[source.node], demand, -1)
                    if after <= max(left, source_load - TOLERANCE):
                        return Move(demand.stream, source.node, target.node)
    return None


def describe_shortage(unplaced: Sequence[Demand], nodes: Collection[Capacity], total: int) -> str:
    """Describe how many streams do not fit, and what would hold them."""
    shown = ", ".join(sorted(each.stream for each in unplaced)[:_MAX_SHOWN])
    more = f" and {len(unplaced) - _MAX_SHOWN} more" if len(unplaced) > _MAX_SHOWN else ""
    needs = f"{sum(each.cpus for each in unplaced):.2f} processors"
    if gpus := sum(each.gpus for each in unplaced):
        needs += f" and {gpus:.2f} GPUs"
    text = f"{len(unplaced)} of {total} streams do not fit on {len(nodes)} node(s): {shown}{more}; they take {needs}"
    remedies = []
    for site in sorted({each.near or "" for each in unplaced}):
        wanted = [each for each in unplaced if (each.near or "") == site]
        of_site = [node for node in nodes if not site or node.site == site]
        remedies.append(_remedy(wanted, of_site or [*nodes], site))
    return f"{text}. {'; '.join(remedies)}"


def _remedy(unplaced: Sequence[Demand], nodes: Sequence[Capacity], site: str) -> str:
    where = f" of site {site}" if site else ""
    model = max(nodes, key=lambda node: (node.gpus, node.cpus), default=None)
    if model is None:
        return f"add nodes{where}"
    size = f"{model.cpus:.2f} processors" + (f" and {model.gpus:g} GPUs" if model.gpus else "")
    fresh = Capacity(node="", cpus=model.cpus, gpus=model.gpus, site=site or None)
    large = [each.stream for each in unplaced if not _fits(fresh, _Use(), each)]
    if large:
        return f"stream {large[0]} takes more than a whole node{where} ({size}): use a larger node, or set its cpus"
    bins: list[_Use] = []
    for demand in sorted(unplaced, key=lambda each: -each.cpus):
        use = next((each for each in bins if _fits(fresh, each, demand)), None)
        if use is None:
            bins.append(use := _Use())
        use.change(demand, 1)
    return f"{len(bins)} more node(s){where} with {size} for streams would hold them"


def load_of(node: Capacity, present: Iterable[Demand]) -> float:
    """Return the load of a node with these streams, 1 for a full one."""
    return _load(node, _use_of(present))


def _use_of(demands: Iterable[Demand]) -> _Use:
    use = _Use()
    for demand in demands:
        use.change(demand, 1)
    return use


def _fits(node: Capacity, use: _Use, demand: Demand) -> bool:
    return demand.near in (None, node.site) and _load(node, use, demand) <= 1 + _ROUNDING


def _load(node: Capacity, use: _Use, more: Demand | None = None, sign: int = 1) -> float:
    """Return the load of a node, with (or, with the sign -1, without) another demand."""
    cpus, gpus, streams = use.cpus, use.gpus, use.streams
    if more is not None:
        cpus, gpus, streams = cpus + sign * more.cpus, gpus + sign * more.gpus, streams + sign
    return max(_share(cpus, node.cpus), _share(gpus, node.gpus), streams / MAX_STREAMS)


def _share(used: float, available: float) -> float:
    if used <= _ROUNDING:
        return 0.0
    return used / available if available > 0 else math.inf
