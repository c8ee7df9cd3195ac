"""Define the commands that start, check and show a service."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from streamclf.cli.options import ConfigFile, LogFormat, LogLevel, OptionalEndpoint, Seconds, Streams, split_values

BEGAN = time.monotonic()
"""When this process started, for the times that `demo` prints."""


def demo(
    source: Annotated[
        str | None,
        typer.Argument(
            help="Number of a camera, URL like rtsp://HOST/PATH, or a video file; default: the first camera, or a "
            "rendered film if there is none.",
            show_default=False,
        ),
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Print a line per event instead of a live table; open no browser.")
    ] = False,
    page: Annotated[
        bool | None,
        typer.Option(
            "--page/--no-page",
            help="Serve the page for browsers; default: yes if its libraries are installed.",
            show_default=False,
        ),
    ] = None,
    seconds: Seconds = None,
) -> int:
    """Classify a camera or a film live in this terminal, without a configuration.

    Runs the whole service until Ctrl-C, shows its predictions, and opens the page if there is a screen. At its end it
    prints the commands that run a service on the same source.
    """
    from streamclf.commands.demo import run_demo

    return run_demo(source, headless=headless, with_page=page, seconds=seconds, began=BEGAN)


def init(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file to write; default: cameras.yaml.", show_default=False)
    ] = Path("cameras.yaml"),
    camera: Annotated[
        list[str] | None,
        typer.Option(
            help="Webcam: index, device or a part of its name; with a name for the stream: desk=0. May be given "
            "several times.",
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        list[str] | None,
        typer.Option(
            help="URL or video file; with a name for the stream: door=rtsp://HOST/PATH. May be given several times.",
            show_default=False,
        ),
    ] = None,
    broker: Annotated[
        str | None,
        typer.Option(
            "--mqtt",
            metavar="URL",
            help="MQTT broker of Home Assistant, like mqtt://USER:PASSWORD@HOST, or `none`.",
        ),
    ] = None,
    page: Annotated[
        bool | None, typer.Option("--page/--no-page", help="Serve the page for browsers.", show_default=False)
    ] = None,
    connect: Annotated[
        bool | None, typer.Option("--try/--no-try", help="Try every camera now.", show_default=False)
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask no questions; use the defaults of options that are not given.")
    ] = False,
    keep_failing: Annotated[
        bool, typer.Option("--keep-failing", help="Keep cameras that fail; otherwise they become comments.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace CONFIG if it exists.")] = False,
) -> int:
    """Ask for cameras and receivers, try each camera, and write the configuration of a service.

    Each option answers one question in advance. Passwords go into a file of their own, which only its owner can read.
    The exit code is 1 if a camera failed and was left out.
    """
    from streamclf.commands.init.command import Options, run_init

    options = Options(
        cameras=camera or (),
        urls=url or (),
        broker=broker,
        page=page,
        connect=connect,
        ask=not yes,
        force=force,
        keep_failing=keep_failing,
    )
    return run_init(config, options)


def run(config: ConfigFile, seconds: Seconds = None, log_level: LogLevel = None, log_format: LogFormat = None) -> int:
    """Run the service that CONFIG describes, until Ctrl-C or SIGTERM.

    Logs to stderr. After SIGHUP or a change of the file, the service applies the new configuration.
    """
    from streamclf.commands.run import run_service

    return run_service(config, seconds=seconds, log_level=log_level, log_format=log_format)


def check(
    config: ConfigFile,
    connect: Annotated[
        bool, typer.Option("--connect", help="Also read a frame of every camera, and connect to every outlet.")
    ] = False,
) -> int:
    """Check whether CONFIG can run on this machine.

    Checks keys, model and files, binds the ports, reads the first frame of files, and connects to the hosts of URLs.
    Starts nothing. Prints how much disk the journal needs, too. The exit code is 2 for a wrong configuration, and 1 for
    something that cannot be opened now.
    """
    from engines.printable import printable
    from streamclf.commands.check import check_service

    lines, code = check_service(config, connect=connect)
    print("\n".join(map(printable, lines)))
    return code


def status(
    endpoint: OptionalEndpoint = "",
    streams: Streams = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, then exit.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for the service to answer.")] = 5.0,
    seconds: Seconds = None,
) -> int:
    """Show the state of each stream of a service.

    Shows a live table until Ctrl-C, or prints one JSON object.
    """
    from streamclf.subscribers.status import run_status

    return run_status(endpoint, streams=split_values(streams), as_json=as_json, seconds=seconds, timeout_s=timeout)


def watch(
    endpoint: OptionalEndpoint = "",
    streams: Streams = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the video to this .mp4 instead of opening a window; needs no screen.")
    ] = None,
    seconds: Seconds = None,
) -> int:
    """Show the streams of a service with their predictions.

    Opens one window with all streams, and with the predictions drawn on the video. Ctrl-C, or q or Esc in the window,
    ends it.
    """
    from streamclf.subscribers.watch import run_watch

    return run_watch(endpoint, streams=split_values(streams), record=record, seconds=seconds)


def keys(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Directory for the two key files.")],
    name: Annotated[str, typer.Argument(help="Name of the service or subscriber; the files are called so.")],
    service: Annotated[Path | None, typer.Option(help="For a subscriber: the public key file of the service.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="For a subscriber: the address of the service's events.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files of this name.")] = False,
) -> int:
    """Create a pair of CURVE keys, for a service or for a subscriber.

    Prints which file belongs where.
    """
    from engines.printable import printable
    from streamclf.net.curve_keys import explain_keys, make_keys

    files = make_keys(directory, name, service=service, endpoint=endpoint, force=force)
    text = explain_keys(*files, service=service, endpoint=endpoint)
    print("\n".join(map(printable, text.split("\n"))))
    return 0
