"""Run `streamclf fleet up`, `status` and `down`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from engines.printable import printable
from streamclf.errors import ConfigError, StreamclfError, UsageError
from streamclf.fleet.cluster import CONTROLLER, NAMESPACE, connected, expand, ray_nodes
from streamclf.fleet.config import FleetFile, load_fleet
from streamclf.fleet.model_store import PIECE_BYTES, describe_bundle
from streamclf.fleet.placement import describe_shortage, place
from streamclf.fleet.setup import Setup
from streamclf.fleet.status_text import format_status
from streamclf.net.endpoints import is_loopback
from streamclf.redact import redact

CALL_S: Final = 30.0
UP_S: Final = 60.0
STOP_S: Final = 20.0
"""Longest time for all nodes to end their services; a node that is away ends by itself."""


class FleetError(StreamclfError):
    """A fleet that does not answer, or does not end."""


def run_up(path: Path, *, address: str | None, partial: bool, wait_s: float) -> int:
    """Start the fleet that FLEET.yaml describes, or change the one that runs; return the exit code."""
    file = load_fleet(path)
    bundles = {name: (bundle, *describe_bundle(bundle)) for name, bundle in file.bundles.items()}
    setup = Setup.of(file, {name: model for name, (_, model, _) in bundles.items()})
    with connected(address) as ray:
        _check_cluster(file, ray, partial=partial)
        from streamclf.fleet.actors import start_controller

        controller = start_controller(str(expand(file.fleet.folder)))
        for model in _call(ray, "missing_models", [model for _, model, _ in bundles.values()]):
            folder, files = next((folder, files) for folder, each, files in bundles.values() if each == model)
            _upload(ray, folder, model, files)
        print(printable(f"fleet {file.fleet.name}: {_call(ray, 'configure', setup)}"))
        unknown = sorted({*file.fleet.drain} - _call(ray, "status")["nodes"].keys())
        if unknown:
            print(
                printable(f"fleet.drain: no node {', '.join(unknown)} is known; fleet status lists the nodes"),
                file=sys.stderr,
            )
        del controller
        return wait_until_live(ray, wait_s)


def run_status(*, address: str | None, as_json: bool) -> int:
    """Print the state of the fleet; return 1 if no fleet is up."""
    with connected(address) as ray:
        status = _call(ray, "status") if _is_up(ray) else {"up": False}
    if as_json:
        sys.stdout.buffer.write(orjson.dumps(status) + b"\n")
    else:
        print("\n".join(map(printable, format_status(status))))
    return 0 if status["up"] else 1


def run_down(*, address: str | None) -> int:
    """End the fleet on all nodes. Journals, clips and models stay."""
    with connected(address) as ray:
        if not _is_up(ray):
            print("no fleet is up")
            return 0
        end_s = time.monotonic() + STOP_S
        while left := _call(ray, "stop"):
            if time.monotonic() > end_s:
                print(
                    f"{left} node(s) did not answer; their services end by themselves, without a lease", file=sys.stderr
                )
                break
            time.sleep(0.3)
        _call(ray, "end")
        ray.kill(ray.get_actor(CONTROLLER, NAMESPACE))
    print("the fleet has ended; journals, clips and models stay in the folders of its nodes")
    return 0


def _is_up(ray: Any) -> bool:
    try:
        ray.get_actor(CONTROLLER, NAMESPACE)
    except ValueError:
        return False
    return True


def _call(ray: Any, method: str, *arguments: Any) -> Any:
    """Call the controller, also while it starts again. Raises the error that it raised, or `FleetError`."""
    end_s = time.monotonic() + CALL_S
    while isinstance(result := _try_call(ray, method, *arguments), _Away):
        if time.monotonic() > end_s:
            raise FleetError(
                f"the controller does not answer within {CALL_S:g} s: {result.reason}; `ray status` shows whether the "
                "head is up"
            )
        time.sleep(0.5)
    return result


@dataclass(frozen=True)
class _Away:
    """The controller cannot be called now; Ray may be starting it again."""

    reason: str


def _try_call(ray: Any, method: str, *arguments: Any) -> Any:
    try:
        actor = ray.get_actor(CONTROLLER, NAMESPACE)
        return ray.get(getattr(actor, method).remote(*arguments), timeout=CALL_S)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, StreamclfError):
            raise error.cause from None
        raise FleetError(f"the controller has failed: {redact(str(error.cause))[:500]}") from None
    except (ray.exceptions.RayError, ValueError) as error:
        return _Away(redact(str(error).partition("\n")[0])[:300])


def _check_cluster(file: FleetFile, ray: Any, *, partial: bool) -> None:
    """Raise `ConfigError` if the cluster cannot hold the streams, or if subscribers cannot reach all nodes."""
    nodes = ray_nodes(ray)
    if not any(node.is_head for node in nodes):
        raise UsageError("the cluster has no head; start it with `ray start --head`")
    hosts = {node.host for node in nodes}
    events = file.publish.get("events", "tcp://127.0.0.1:*")
    if len(hosts) > 1 and (events.startswith("ipc://") or is_loopback(events, "publish.events")):
        raise ConfigError(
            f"publish.events={events}: the {len(hosts)} machines of the cluster could not reach each other's events; "
            "set tcp://0.0.0.0:5555, publish.replay likewise, and keys and allow (docs/scale.md)"
        )
    capacities = [node.capacity(file.fleet) for node in nodes]
    named = [each.node for each in capacities]
    numbered = [
        each if named.count(each.node) == 1 else replace(each, node=f"{each.node}-{number}")
        for number, each in enumerate(capacities)
    ]
    _, unplaced = place(file.demands.values(), numbered, {}, file.fleet.placement)
    if unplaced and not partial:
        raise ConfigError(
            f"{describe_shortage(unplaced, numbered, len(file.streams))}; or start without them by --partial"
        )


def _upload(ray: Any, folder: Path, model: str, files: Any) -> None:
    """Send a bundle to the controller, in pieces."""
    _call(ray, "begin_model", model, files)
    for name, (size, _) in files.items():
        with (folder / name).open("rb") as file:
            for offset in range(0, size, PIECE_BYTES):
                _call(ray, "add_piece", name, offset, file.read(PIECE_BYTES))
    _call(ray, "finish_model")


def wait_until_live(ray: Any, wait_s: float) -> int:
    """Wait until all placed streams are live, and print how many are; report those that are not."""
    end_s, shown = time.monotonic() + wait_s, ""
    while True:
        status = _call(ray, "status")
        placed = status["streams"] - len(status["unplaced"])
        is_live = status["live"] >= placed and None not in status["moving"].values()
        if (progress := f"{status['live']} of {placed} streams are live") != shown:
            shown = progress
            print(progress, file=sys.stderr, flush=True)
        if is_live or time.monotonic() >= end_s:
            break
        time.sleep(0.5)
    print("\n".join(map(printable, format_status(status))))
    return 0 if is_live else 1
