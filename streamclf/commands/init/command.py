"""Run `streamclf init`: collect the answers, try the cameras, write the files, and name the next commands."""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamclf.builtin_models import DEFAULT_MODEL, find_bundle
from streamclf.commands.init.cameras import NewStream, parse_streams, split_answer
from streamclf.commands.init.credentials import Credentials
from streamclf.commands.init.document import Document, StreamLines
from streamclf.commands.init.files import refuse_existing, write_file
from streamclf.commands.init.ports import find_free_ports
from streamclf.commands.init.questions import ask, ask_yes, has_terminal
from streamclf.commands.init.trials import describe_failure, describe_picture, find_substreams, say, try_streams
from streamclf.commands.probes import CONNECT_S, MARGIN_S, reach, run_probes
from streamclf.config.events_endpoint import CONFIG_SUFFIXES
from streamclf.config.outlets import OUTLETS
from streamclf.config.placeholders import Substitution
from streamclf.config.service import parse_config_text
from streamclf.config.variables import Variables, add_variables, read_variables, variables_path
from streamclf.errors import UsageError
from streamclf.net.broker_address import parse_broker
from streamclf.redact import register_url
from streamclf.runtime.interrupts import describe_work
from streamclf.sources.camera import list_cameras
from streamclf.supervisor.preflight import preflight

FIRST_PORT: Final = 5555
PAGE_PORT: Final = 8080
_EVENTLESS: Final = frozenset({"normal", "none", "background"})
"""Labels that say that nothing happens; as actions they would never end."""
_LIBRARIES: Final = {"mqtt": ("paho",), "web": ("nicegui",)}
"""Modules that an outlet needs, in the extra of its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of the command; None for what a question may still answer."""

    cameras: Sequence[str] = ()
    urls: Sequence[str] = ()
    broker: str | None = None
    page: bool | None = None
    connect: bool | None = None
    ask: bool = True
    force: bool = False
    keep_failing: bool = False


def run_init(path: Path, options: Options) -> int:
    """Write the configuration `path`; return the exit code, 1 if a camera failed and was left out.

    Raises `UsageError` for an option or answer that cannot be used; then no file was written.
    """
    describe_work(lambda: "nothing was written")
    _check_path(path, force=options.force)
    asks = options.ask and has_terminal()
    if options.ask and not asks and not (options.cameras or options.urls):
        raise UsageError("no terminal to ask on; give --camera or --url, and --yes")
    credentials = Credentials(os.environ)
    environ = _Environ(Variables(os.environ, path), credentials)
    streams = _choose_streams(options, path.parent, credentials, environ, asks=asks)
    broker = None if options.broker is None else _parse_broker(options.broker, credentials, environ)
    connect = options.connect
    if connect is None:
        connect = ask_yes("Try the cameras now", True) if asks else True
    pictures, failures = try_streams(streams, environ, path.parent) if connect else ({}, {})
    if failures and len(failures) == len(streams) and not options.keep_failing:
        say("no camera could be opened, so nothing was written; --keep-failing writes the file nevertheless")
        return 1
    if options.broker is None and asks:
        question = "MQTT broker of Home Assistant, like mqtt://homeassistant.local"
        broker = ask(question, "none", lambda answer: _parse_broker(answer, credentials, environ))
    if broker and connect:
        _try_broker(broker, environ)
    page = options.page
    if page is None:
        page = asks and ask_yes("Page for browsers, with live pictures and events", _is_installed("web"))
    bundle = find_bundle(DEFAULT_MODEL)
    substreams = find_substreams(streams, pictures, (bundle.spec.width, bundle.spec.height))
    events, replay = find_free_ports(2, FIRST_PORT)
    outlets: dict[str, dict[str, str | int]] = {}
    if broker:
        outlets["mqtt"] = {"broker": broker}
    if page:
        outlets["web"] = {"port": find_free_ports(1, PAGE_PORT)[0]}
    document = Document(
        file=path.name,
        model=DEFAULT_MODEL,
        labels=[label for label in bundle.spec.labels if label not in _EVENTLESS],
        streams=[
            StreamLines(
                name=stream.name,
                keys=stream.keys,
                notes=[
                    *describe_picture(pictures.get(stream.name), substreams.get(stream.name)),
                    *describe_failure(failures.get(stream.name)),
                ],
                enabled=stream.name not in failures or options.keep_failing,
            )
            for stream in streams
        ],
        events=f"tcp://127.0.0.1:{events}",
        replay=f"tcp://127.0.0.1:{replay}",
        journal=f"{path.stem}.db",
        variables_file=variables_path(path).name if credentials.variables else None,
        outlets=outlets,
        missing={kind: f"pip install '.[{kind}]'" for kind in outlets if not _is_installed(kind)},
    )
    text = document.text()
    preflight(parse_config_text(text, path, environ))
    _write(path, text, credentials.variables, force=options.force)
    describe_work(lambda: f"{path} was written")
    left_out = [name for name in failures if not options.keep_failing]
    _say_next(path, document, credentials.variables, left_out, substreams)
    return 1 if left_out else 0


class _Environ(Mapping[str, str]):
    """The variables of the environment and of the existing file, and the new credentials."""

    def __init__(self, variables: Variables, credentials: Credentials) -> None:
        self._variables, self._credentials = variables, credentials

    def __getitem__(self, name: str) -> str:
        own = self._credentials.variables
        return own[name] if name in own else self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._variables, **self._credentials.variables})

    def __len__(self) -> int:
        return len({**self._variables, **self._credentials.variables})


def _check_path(path: Path, *, force: bool) -> None:
    if path.suffix.lower() not in CONFIG_SUFFIXES:
        raise UsageError(f"{path}: give a name that ends in .yaml, like cameras.yaml")
    if not path.parent.is_dir():
        raise UsageError(f"{path}: {path.parent} does not exist; create it first")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory; give the name of a file in it")
    if not os.access(path.parent, os.W_OK):
        raise UsageError(f"{path}: {path.parent} cannot be written; choose another place")
    if not force:
        refuse_existing(path)


def _choose_streams(
    options: Options, folder: Path, credentials: Credentials, environ: Mapping[str, str], *, asks: bool
) -> list[NewStream]:
    """Return the streams of the options, else of the answer, else the first camera of this machine."""

    def parse(answer: str) -> list[NewStream]:
        cameras, urls = split_answer(answer)
        if not cameras and not urls:
            raise UsageError("give the index of a camera like 0, a URL like rtsp://HOST/PATH, or a video file")
        with credentials.undone_by_errors():
            return parse_streams(cameras, urls, folder, credentials, environ)

    if options.cameras or options.urls:
        return parse_streams(options.cameras, options.urls, folder, credentials, environ)
    found = list_cameras()
    if asks:
        print("Give each camera as an index or a URL, with a name in front if you like:")
        print("  0   rtsp://USER:PASSWORD@10.0.0.5/stream1   door=rtsp://10.0.0.5/stream1")
        print("Several cameras have blanks between them.")
        for camera in found:
            say(f"camera {camera.index} of this machine: {camera.name}")
        return ask("Cameras", str(found[0].index) if found else "", parse)
    if not found:
        raise UsageError("no camera was found on this machine; give --url, or --camera with its device or name")
    return parse_streams([str(found[0].index)], [], folder, credentials, environ)


def _parse_broker(answer: str, credentials: Credentials, environ: Mapping[str, str]) -> str | None:
    """Return the address of the MQTT broker without its password; None for no broker. Raises `UsageError`."""
    if answer.lower() in ("", "no", "none"):
        return None
    url = answer if "://" in answer else f"mqtt://{answer}"
    register_url(url)
    parse_broker(Substitution(environ).apply(url, ("mqtt",)), os.environ)
    with credentials.undone_by_errors():
        return credentials.take_from(url, "mqtt")


def _try_broker(broker: str, environ: Mapping[str, str]) -> None:
    address = parse_broker(Substitution(environ).apply(broker), os.environ)
    probe = ("mqtt", CONNECT_S + MARGIN_S, lambda: reach(address.host, address.port))
    ((_, found, error),) = run_probes([probe])
    say(f"  mqtt  {f'no connection now: {error}; the service will keep trying' if error else found}")


def _is_installed(kind: str) -> bool:
    return kind in OUTLETS and all(importlib.util.find_spec(module) for module in _LIBRARIES.get(kind, ()))


def _write(path: Path, text: str, variables: Mapping[str, str], *, force: bool) -> None:
    file = variables_path(path)
    if variables:
        existing, before = {}, f"# Passwords of {path.name}. Keep this file private.\n"
        if os.path.lexists(file):
            existing, before = read_variables(file), file.read_text(encoding="utf-8")
        if any(existing.get(name, value) != value for name, value in variables.items()) and not force:
            raise UsageError(f"{file}: exists, with other values; give another name, or --force to change them")
        write_file(file, add_variables(before, variables), mode=0o600, replace=True)
    write_file(path, text, mode=0o644, replace=force)


def _say_next(
    path: Path,
    document: Document,
    variables: Mapping[str, str],
    left_out: Sequence[str],
    substreams: Mapping[str, str],
) -> None:
    """Print what was written, what is left to do, and the next commands."""
    for name, text in substreams.items():
        say(f"note: {name}: {text}")
    enabled = sum(stream.enabled for stream in document.streams)
    say(f"wrote {path}: {enabled} stream(s){''.join(f', {kind}' for kind in document.outlets)}")
    if variables:
        file = variables_path(path)
        say(f"wrote {file}: {', '.join(variables)}; only you can read it, keep it out of version control")
        say(f"  streamclf reads it with {path.name}; a variable of the environment has precedence")
    if left_out:
        say(f"left out: {', '.join(left_out)}; they are comments in the file, or give --keep-failing")
    for kind, need in document.missing.items():
        say(f"{kind} needs: {need} (in a clone); then remove the # before {kind}: in the file")
    shown = shlex.quote(str(path))
    say("next:")
    say(f"  streamclf check --connect {shown}")
    say(f"  streamclf run {shown}")
    if "web" in document.outlets and "web" not in document.missing:
        say(f"  page: http://127.0.0.1:{document.outlets['web']['port']}/ while the service runs")
