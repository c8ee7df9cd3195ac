"""Run `streamclf check`: find out before the start what a service cannot open on this machine."""

from __future__ import annotations

import errno
import os
import socket
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from engines.bundle import Bundle
from streamclf.commands.device_checks import find_missing_devices
from streamclf.commands.probes import CONNECT_S, MARGIN_S, Picture, Probe, longest_s, reach, read_picture, run_probes
from streamclf.commands.running_service import is_running
from streamclf.commands.substream import ModelPicture, describe_substream
from streamclf.config.outlet_options import MetricsConfig, MqttConfig, OutletConfig, WebConfig
from streamclf.config.picture_area import PictureArea
from streamclf.config.service import ServiceConfig, load_config
from streamclf.config.source import SourceConfig
from streamclf.errors import EndpointInUseError
from streamclf.net.broker_address import parse_broker
from streamclf.redact import redact
from streamclf.supervisor.disk_need import describe_disk
from streamclf.supervisor.endpoint_checks import bound_endpoints
from streamclf.supervisor.preflight import preflight

_PORTS: Final = {"rtsp": 554, "rtsps": 322, "http": 80, "https": 443}


def check_service(path: Path, *, connect: bool = False) -> tuple[list[str], int]:
    """Check a configuration; return lines for people and the exit code, 1 if something cannot be opened now.

    Opens files, binds the service's ports and connects to the hosts of URLs. `connect` reads a frame of every source.
    Raises `ConfigError` with key and remedy for a configuration that cannot work at all.
    """
    config = load_config(path)
    checked = preflight(config)
    disk = describe_disk(checked)
    endpoints = [*_check_endpoints(config)]
    runs = any(is_taken for _, is_taken in endpoints) and is_running(config)
    problems = [text for text, is_taken in endpoints if not (is_taken and runs)]
    problems += find_missing_devices(config.engine)
    pictures: dict[str, Picture] = {}
    probes = [*_probe_streams(config, pictures, connect=connect), *_probe_outlets(config.outlets.all, connect=connect)]
    lines = [f"note: {text}" for text in (*_find_repeated_sources(config), *_find_unmasked_films(config))]
    if runs:
        lines.append("note: the service of this configuration runs on this machine now, and uses its ports")
    for place, found, error in run_probes(probes):
        if error:
            problems.append(f"{place}: {error}")
        elif connect:
            lines.append(f"{place}: {found}")
    lines += [f"note: {text}" for text in _find_large_pictures(config, pictures, checked.bundles)]
    outlets = "".join(f", {each.full_name}" for each in config.outlets.all)
    models = ", ".join(
        f"{name} ({bundle.spec.id})" if name else bundle.spec.id for name, bundle in checked.bundles.items()
    )
    summary = f"{len(config.streams)} stream(s){outlets}, {models}, events on {config.publish.events}"
    if problems:
        lines += [*problems, f"{path}: {len(problems)} problem(s): {summary}"]
    else:
        lines.append(f"{path}: ok: {summary}")
    return [redact(line) for line in (*lines, *disk.split("\n"))], 1 if problems else 0


def _check_endpoints(config: ServiceConfig) -> Iterator[tuple[str, bool]]:
    """Bind the service's endpoints for a moment; yield each problem, and whether a program has the endpoint already."""
    with bound_endpoints(config.publish) as errors:
        for error in errors:
            yield str(error), isinstance(error, EndpointInUseError)
        yield from _check_ports(config.outlets.all)  # while both are bound: an outlet may have the same port


def _check_ports(outlets: Sequence[OutletConfig]) -> Iterator[tuple[str, bool]]:
    """Bind the outlets' ports for a moment; yield as `_check_endpoints` does."""
    for outlet in outlets:
        if isinstance(outlet, MetricsConfig | WebConfig) and outlet.port:
            try:
                family = socket.AF_INET6 if ":" in outlet.host else socket.AF_INET
                socket.create_server((outlet.host, outlet.port), family=family).close()
            except OSError as error:
                reason = str(error.strerror).partition(" (")[0]  # Python repeats the address as a tuple
                text = f"outlets.{outlet.KIND}: {outlet.host}:{outlet.port}: {reason}; choose another port"
                yield text, error.errno == errno.EADDRINUSE


def _find_repeated_sources(config: ServiceConfig) -> Iterator[str]:
    """Find live sources that several streams read: each costs the camera a connection, and many allow only one."""
    names = defaultdict(list)
    for name, stream in config.streams.items():
        source = stream.url if stream.url is not None and not stream.is_file else stream.camera
        if source is not None:
            names[source].append(name)
    for same in names.values():
        if len(same) > 1:
            yield (
                f"streams {', '.join(same)}: the same source; many cameras allow only one connection: give one stream "
                "`regions` or several `models` instead"
            )


def _find_unmasked_films(config: ServiceConfig) -> Iterator[str]:
    """Find streams whose films show what the stream's mask hides: they are copies of the camera's packets."""
    copied = [key for key in ("clips", "examples") if getattr(config, key) is not None]
    for name, stream in config.streams.items():
        if stream.mask and stream.url is not None and copied:
            kinds = " and ".join(copied)
            yield (
                f"streams.{name}: {kinds} show what mask hides, because they are copies of the camera's video; for "
                f"privacy set a mask in the camera itself, or leave out {kinds}"
            )


def _find_large_pictures(
    config: ServiceConfig, pictures: Mapping[str, Picture], bundles: Mapping[str, Bundle]
) -> Iterator[str]:
    """Find cameras whose second stream would be large enough for every model."""
    for name, picture in pictures.items():
        seen = [
            ModelPicture(part=part, model=(bundles[model].spec.width, bundles[model].spec.height))
            for view, part in zip(config.views_of(name), picture.parts, strict=True)
            for model in view.models
        ]
        if text := describe_substream(config.streams[name].url, picture, seen):
            yield f"streams.{name}: {text}"


def _probe_streams(config: ServiceConfig, pictures: dict[str, Picture], *, connect: bool) -> Iterator[Probe]:
    """Yield a probe for each stream; it adds what it reads to `pictures`."""

    def read(name: str, source: SourceConfig, areas: Sequence[PictureArea]) -> str:
        pictures[name] = read_picture(source, areas)
        return f"live ({pictures[name]})"

    for name, stream in config.streams.items():
        place = f"streams.{name}"
        if not stream.enabled:
            continue
        if stream.push is None and (stream.ends or connect):
            areas = [view.area for view in config.views_of(name)]
            yield place, longest_s(stream), partial(read, name, stream.source, areas)
        elif stream.url is not None:
            parts = urlsplit(stream.url)
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme.lower(), 554)
            yield place, CONNECT_S + MARGIN_S, lambda host=host, port=port: reach(host, port)  # type: ignore[misc]


def _probe_outlets(outlets: Sequence[OutletConfig], *, connect: bool) -> Iterator[Probe]:
    """Yield a probe for each outlet whose receiver can be reached over the network."""
    for outlet in outlets if connect else ():
        place = f"outlets.{outlet.KIND}" + (f"[{outlet.name}]" if outlet.name else "")
        if isinstance(outlet, MqttConfig):
            broker = parse_broker(outlet.broker, os.environ)
            yield place, CONNECT_S + MARGIN_S, lambda b=broker: reach(b.host, b.port)  # type: ignore[misc]
        elif url := getattr(outlet, "url", None):
            parts = urlsplit(str(url))
            port = parts.port or _PORTS.get(parts.scheme, 80)
            yield place, CONNECT_S + MARGIN_S, lambda h=parts.hostname, p=port: reach(h or "", p)  # type: ignore[misc]
