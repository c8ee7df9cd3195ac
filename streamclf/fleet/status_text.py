"""Format the state of a fleet for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

_MAX_LISTED: Final = 20


def format_status(status: Mapping[str, Any]) -> list[str]:
    """Return the lines of `streamclf fleet status`."""
    if not status["up"]:
        return ["no fleet is up; start one with `streamclf fleet up FLEET.yaml`"]
    directory = str(status["directory"]).replace("tcp://", "fleet://")
    lines = [f"fleet {status['fleet']}: {status['live']} of {status['streams']} streams live; subscribe to {directory}"]
    lines += status.get("problems", ())
    lines += [_node_line(name, node) for name, node in status["nodes"].items()]
    lines += [f"  {name:<24} {reason}" for name, reason in status.get("waiting", {}).items()]
    lines += _streams_that_are_not_live(status)
    if status["shortage"]:
        lines.append(status["shortage"])
    lines += [
        f"stream {stream} moves to {target}" if target else f"stream {stream} ends"
        for stream, target in status["moving"].items()
    ]
    if rollout := status["rollout"]:
        done = len(rollout["done"])
        if rollout["halted"]:
            lines.append(f"rolling update halted after {done} node(s): {rollout['halted']}")
        else:
            lines.append(f"rolling update: {done} node(s) done, {rollout['node'] or 'no node'} changes now")
    return lines


def _node_line(name: str, node: Mapping[str, Any]) -> str:
    since = str(node["since"])[:19].replace("T", " ")
    if node["state"] != "live":
        return f"  {name:<24} {node['state']} since {since} UTC: {node['reason']}"
    parts = [f"{node['live']} of {node['streams']} live"]
    if node["load"] is not None:
        parts.append(f"load {node['load']:.0%} of {node['cpus']:.2f} processors")
    if node["latency_ms"] is not None:
        parts.append(f"latency {node['latency_ms']:.0f} ms")
    if node["refused"]:
        parts.append(f"{node['refused']} events refused")
    if node["site"]:
        parts.append(f"site {node['site']}")
    if node["error"]:
        parts.append(f"error: {node['error']}")
    return f"  {name:<24} {', '.join(parts)}"


def _streams_that_are_not_live(status: Mapping[str, Any]) -> Iterator[str]:
    found = [
        f"  {stream} on {name}: {state}"
        for name, node in status["nodes"].items()
        for stream, state in node.get("not_live", {}).items()
    ]
    yield from found[:_MAX_LISTED]
    if len(found) > _MAX_LISTED:
        yield f"  and {len(found) - _MAX_LISTED} more that are not live"
