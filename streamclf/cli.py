"""Parse the command line; each command imports the module that does its work and calls it.

Heavy imports stay inside the commands, so that `streamclf --help` starts quickly.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from engines.backends.names import Backend, Precision

BEGAN = time.monotonic()
"""When this process started, for the times that `demo` prints."""

app = typer.Typer(
    name="streamclf",
    help="Classify live video: read cameras and files, publish prediction events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seconds = Annotated[
    float | None,
    typer.Option(
        min=0.1,
        max=3650 * 86400,
        help="End after this many seconds; default: run until Ctrl-C.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line on stdout, and nothing else.")]
JsonObject = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else.")]


def _find_endpoint(text: str) -> str:
    from streamclf.config.events_endpoint import DEFAULT_ENDPOINT, find_endpoint

    return find_endpoint(text or DEFAULT_ENDPOINT)


_ENDPOINT_HELP = (
    "Address of the service's events, like tcp://127.0.0.1:5555, its configuration (.yaml), or a key file from "
    "`streamclf keys`"
)
Endpoint = Annotated[str, typer.Argument(callback=_find_endpoint, help=f"{_ENDPOINT_HELP}.")]
OptionalEndpoint = Annotated[
    str,
    typer.Argument(
        callback=_find_endpoint, help=f"{_ENDPOINT_HELP}; default: tcp://127.0.0.1:5555.", show_default=False
    ),
]
FromStart = Annotated[
    bool,
    typer.Option(
        "--from-start", help="On the first run, begin with the oldest event of the journal, not with new events."
    ),
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(help="Least level of the log lines; default: $STREAMCLF_LOG, else info.", show_default=False),
]
LogFormat = Annotated[
    Literal["text", "json"] | None,
    typer.Option(help="Form of the log lines; default: $STREAMCLF_LOG_FORMAT, else text.", show_default=False),
]
Types = Annotated[
    list[str] | None,
    typer.Option(
        "--types",
        "--type",
        help="Only events of these types: action, prediction, status; separated by commas.",
        show_default=False,
    ),
]
Streams = Annotated[
    list[str] | None,
    typer.Option("--streams", "--stream", help="Only these streams; separated by commas.", show_default=False),
]
MinProbability = Annotated[
    float,
    typer.Option(
        min=0, max=1, help="Leave out predictions below this probability, and actions whose peak is below it."
    ),
]
Updates = Annotated[
    bool,
    typer.Option("--updates/--no-updates", help="Also the `update` events of actions, one a second while one runs."),
]
Position = Annotated[
    Path, typer.Option(help="File that remembers the last delivered event, so that the next run continues there.")
]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file that describes the service.")]


def _split(values: list[str] | None) -> list[str] | None:
    """Return the parts of options like `action,status`, given once or several times."""
    return None if not values else [part.strip() for value in values for part in value.split(",")]


def _path_of(text: str) -> Path:
    from streamclf.config.source import path_of

    return path_of(text)


def _print_version(wanted: bool) -> None:
    if wanted:
        from streamclf import __version__

        print(f"streamclf {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    camera: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=99,
            help="Index of the camera; default: the first one, or a rendered film if there is none.",
            show_default=False,
        ),
    ] = None,
    headless: Annotated[
        bool, typer.Option("--headless", help="Print a line per event instead of a live table.")
    ] = False,
    seconds: Seconds = None,
) -> int:
    """Classify a camera live in this terminal; nothing to configure.

    Runs the whole service until Ctrl-C and shows its predictions. Without a camera it classifies a rendered film.
    """
    from streamclf.commands.demo import run_demo

    return run_demo(camera=camera, headless=headless, seconds=seconds, began=BEGAN)


@app.command()
def run(config: ConfigFile, seconds: Seconds = None, log_level: LogLevel = None, log_format: LogFormat = None) -> int:
    """Run the service that CONFIG describes, until Ctrl-C or SIGTERM.

    Logs to stderr. After SIGHUP or a change of the file, the service applies the new configuration.
    """
    from streamclf.commands.run import run_service

    return run_service(config, seconds=seconds, log_level=log_level, log_format=log_format)


@app.command()
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


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Video files.", parser=_path_of)],
    model: Annotated[str, typer.Option(help="Built-in model, or directory of a bundle.")] = "camera-events",
    as_json: Json = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="Write the film with predictions drawn on it to this .mp4 or .gif; for one FILE."
        ),
    ] = None,
    hop: Annotated[int, typer.Option(min=1, help="Chunks between two windows.")] = 1,
    backend: Annotated[Backend, typer.Option(help="Library that runs the model.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format of the computation.")] = "auto",
) -> int:
    """Classify the windows of video files.

    Prints a table for each file, or one JSON line. A file that cannot be read is reported, the others are classified,
    and the exit code is 1.
    """
    from streamclf.commands.classify import run_classify

    return run_classify(
        files, model=model, as_json=as_json, output=output, hop=hop, backend=backend, precision=precision
    )


@app.command("compile")
def compile_(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="Built-in model, or directory of a bundle.")],
    backend: Annotated[Backend, typer.Option(help="Library that will run the model.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="Number format of the computation.")] = "auto",
    max_batch: Annotated[
        int, typer.Option(min=1, max=256, help="Largest number of chunks in one encode, as in the service.")
    ] = 16,
    explain: Annotated[
        bool, typer.Option("--explain", help="Name the graph or the layers that lose accuracy in fp16 or bf16.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(help="Windows to calibrate INT8 with: an .npz of `python -m training windows`.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Windows to compare accuracy with fp32 on: another .npz.")
    ] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Directory for the new INT8 bundle.")] = None,
    as_json: Json = False,
) -> int:
    """Build, check and measure the engine of a model.

    The cache keeps the engine, so the next start of a service does not wait for the build. With TensorRT a build takes
    minutes.
    """
    from streamclf.commands.compile import run_compile

    return run_compile(
        model,
        backend=backend,
        precision=precision,
        max_batch=max_batch,
        explain=explain,
        calibration=calibration,
        validation=validation,
        output=output,
        as_json=as_json,
    )


@app.command()
def bench(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="CONFIG|BUNDLE",
            help="Configuration of a service, or a bundle; default: camera-events.",
            show_default=False,
        ),
    ] = None,
    streams: Annotated[
        int | None,
        typer.Option(min=1, max=400, help="Measure a service with this many simulated cameras.", show_default=False),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="Frame size of the cameras in pixels; default: 1280x720.", show_default=False)
    ] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames per second of each camera; default: 25.", show_default=False)
    ] = None,
    hop: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Chunks between two predictions; default: 1, or as in CONFIG.", show_default=False
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.05,
            max=86400,
            help="Seconds to measure; default: service 20, step of --capacity 10, round of a bundle 0.25, GPU suite 5.",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        Backend | None,
        typer.Option(
            help="Library that runs the model; default: auto for a service, all for a bundle.", show_default=False
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(help="Number format; default: auto for a service, all for a bundle.", show_default=False),
    ] = None,
    max_batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Largest number of chunks in one encode; default: 16, in the GPU suite 256.",
            show_default=False,
        ),
    ] = None,
    capacity: Annotated[
        bool, typer.Option("--capacity", help="Search how many cameras this machine sustains.")
    ] = False,
    suite: Annotated[
        Literal["gpu"] | None, typer.Option(help="gpu: check and measure bundles in every precision on this GPU.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="With --suite: only parts whose name matches this pattern, like 'gestures/*'.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="With --suite: log each part in this file, and skip parts that it already holds."),
    ] = None,
    as_json: JsonObject = False,
) -> int:
    """Measure a model, or a whole service with simulated cameras.

    A bundle is measured alone: every backend, precision and batch size. With --streams or CONFIG the whole service is
    measured: predictions per second, latency, processor time and memory. --capacity searches how many cameras this
    machine sustains. Measure on a machine that does nothing else.
    """
    from streamclf.bench.command import run_bench

    return run_bench(
        target,
        streams=streams,
        size=size,
        fps=fps,
        seconds=seconds,
        hop=hop,
        backend=backend,
        precision=precision,
        max_batch=max_batch,
        capacity=capacity,
        suite=suite,
        only=only,
        keep=keep,
        as_json=as_json,
    )


@app.command()
def doctor(as_json: JsonObject = False) -> int:
    """Report what this machine can run, and what to install.

    Opens each built-in model on the backend that `auto` chooses. The exit code is 1 if no model can run.
    """
    from streamclf.commands.doctor import run_doctor

    return run_doctor(as_json=as_json)


@app.command()
def log(
    output: Annotated[Path, typer.Option("-o", "--output", help="events.db (SQLite) or events.jsonl.")],
    endpoint: OptionalEndpoint = "",
    rotate: Annotated[
        list[str] | None, typer.Option(help="For .jsonl: begin a new file at 100MB, or after 1d; may be given twice.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="For .jsonl: the number of complete files to keep. For .db: the age after which events are removed, "
            "like 90d. Default: keep all.",
            show_default=False,
        ),
    ] = None,
    types: Types = None,
    streams: Streams = None,
    min_probability: MinProbability = 0.0,
    updates: Updates = True,
    once: Annotated[bool, typer.Option("--once", help="Catch up with the journal, then exit.")] = False,
    seconds: Seconds = None,
) -> int:
    """Write the events of a service to a file, each exactly once.

    Even if a process is killed, no event is lost or written twice. Runs until Ctrl-C; the next run continues where
    this one ended.
    """
    from streamclf.config.outlet_options import LogConfig
    from streamclf.config.outlets import outlet_options
    from streamclf.subscribers.outlet_command import run_outlet

    options = outlet_options(
        LogConfig,
        file=output,
        rotate=_split(rotate),
        keep=keep,
        types=_split(types),
        streams=_split(streams),
        min_probability=min_probability,
        updates=updates,
    )
    return run_outlet(endpoint, options, once=once, seconds=seconds)


@app.command()
def status(
    endpoint: OptionalEndpoint = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout, then exit.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for the service to answer.")] = 5.0,
    seconds: Seconds = None,
) -> int:
    """Show the state of each stream of a service.

    Shows a live table until Ctrl-C, or prints one JSON object.
    """
    from streamclf.subscribers.status import run_status

    return run_status(endpoint, as_json=as_json, seconds=seconds, timeout_s=timeout)


@app.command()
def watch(
    endpoint: OptionalEndpoint = "",
    stream: Annotated[list[str] | None, typer.Option(help="Only this stream; may be given several times.")] = None,
    record: Annotated[
        Path | None, typer.Option(help="Write the video to this .mp4 instead of a window; needs no screen.")
    ] = None,
    seconds: Seconds = None,
) -> int:
    """Show the streams of a service with their predictions.

    Opens a window with the predictions drawn on the video. Ctrl-C, or q or Esc in the window, ends it.
    """
    from streamclf.subscribers.watch import run_watch

    return run_watch(endpoint, streams=stream, record=record, seconds=seconds)


@app.command()
def query(
    db: Annotated[
        Path,
        typer.Argument(
            metavar="EVENTS.DB", help="Written by: streamclf log ENDPOINT -o events.db; or the journal of a service."
        ),
    ],
    label: Annotated[str | None, typer.Option(help="Only this label; the label of a status is its state.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only this type: prediction, action or status.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only events since then: an age like 90s, 1h, 7d, or a time like 2026-01-31T12:00."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only events until then: an age or a time, as for --since.")] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only events with at least this probability.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Only the newest events: 100, or all for an export.")
    ] = None,
    as_json: Json = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Export to this .csv or .parquet file instead of printing.")
    ] = None,
) -> int:
    """Find events in a log or in a service's journal; print or export them.

    Takes the newest events that match, and prints them oldest first.
    """
    from streamclf.subscribers.log.query import run_query

    return run_query(
        db,
        label=label,
        stream=stream,
        type=type_,
        since=since,
        until=until,
        min_p=min_p,
        limit=limit,
        as_json=as_json,
        output=output,
    )


@app.command()
def mqtt(
    endpoint: Endpoint,
    broker: Annotated[
        str,
        typer.Argument(
            help="Address of the broker, mqtt[s]://host[:port]; for user and password see the documentation."
        ),
    ],
    position: Position = Path("mqtt.position"),
    prefix: Annotated[str, typer.Option(help="First part of all topics.")] = "streamclf",
    discovery: Annotated[
        bool,
        typer.Option(
            "--discovery/--no-discovery", help="Publish the messages by which Home Assistant finds the entities."
        ),
    ] = True,
    types: Types = None,
    streams: Streams = None,
    min_probability: MinProbability = 0.0,
    updates: Updates = False,
    from_start: FromStart = False,
    seconds: Seconds = None,
) -> int:
    """Publish actions and labels to an MQTT broker.

    Home Assistant discovers the streams. `--types` chooses the events that are published whole; default: action. Runs
    until Ctrl-C; the next run continues after the last delivered event.
    """
    from streamclf.config.outlet_options import MqttConfig
    from streamclf.config.outlets import outlet_options
    from streamclf.subscribers.outlet_command import run_outlet

    options = outlet_options(
        MqttConfig,
        broker=broker,
        prefix=prefix,
        discovery=discovery,
        types=_split(types),
        streams=_split(streams),
        min_probability=min_probability,
        updates=updates,
        from_start=from_start,
    )
    return run_outlet(endpoint, options, position=position, seconds=seconds)


@app.command()
def webhook(
    endpoint: Endpoint,
    url: Annotated[
        str, typer.Argument(envvar="STREAMCLF_WEBHOOK_URL", help="Address to which events are posted, http(s)://….")
    ],
    position: Position = Path("webhook.position"),
    secret_file: Annotated[Path | None, typer.Option(help="File with the key that signs each request.")] = None,
    types: Types = None,
    streams: Streams = None,
    min_probability: MinProbability = 0.0,
    updates: Updates = False,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Largest number of events in one request.")] = 1,
    from_start: FromStart = False,
    seconds: Seconds = None,
) -> int:
    """Post events to a web address, in order; by default the starts and ends of actions.

    Repeats each request until it is accepted. Runs until Ctrl-C; the next run continues after the last delivered event.
    """
    from streamclf.config.outlet_options import WebhookConfig
    from streamclf.config.outlets import outlet_options
    from streamclf.subscribers.outlet_command import run_outlet

    options = outlet_options(
        WebhookConfig,
        url=url,
        secret_file=secret_file,
        types=_split(types),
        streams=_split(streams),
        min_probability=min_probability,
        updates=updates,
        batch=batch,
        from_start=from_start,
    )
    return run_outlet(endpoint, options, position=position, seconds=seconds)


@app.command()
def metrics(
    endpoint: OptionalEndpoint = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback requires --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")] = 9108,
    token_file: Annotated[Path | None, typer.Option(help="File with the bearer token that clients must send.")] = None,
    stalled_after: Annotated[
        float,
        typer.Option(min=1, help="Seconds that a stream may be down before /healthz reports it."),
    ] = 60.0,
    streams: Streams = None,
    seconds: Seconds = None,
) -> int:
    """Serve /metrics and /healthz of a service over HTTP.

    For Prometheus and for health checks. Runs until Ctrl-C.
    """
    from streamclf.config.outlet_options import MetricsConfig
    from streamclf.config.outlets import outlet_options
    from streamclf.subscribers.outlet_command import run_outlet

    options = outlet_options(
        MetricsConfig,
        host=host,
        port=port,
        token_file=token_file,
        stalled_after=stalled_after,
        streams=_split(streams),
    )
    return run_outlet(endpoint, options, seconds=seconds)


@app.command()
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


def main() -> None:
    """Run the command line and exit: 0 done, 1 failed while running, 2 wrong usage or configuration, 130 interrupted.

    Every error that the project raises is one line on stderr, and so is Ctrl-C.
    """
    from streamclf.redact import redact_uncaught_errors
    from streamclf.runtime.interrupts import catch_interrupts, exit_interrupted, is_interrupted
    from streamclf.runtime.standard_streams import prepare_standard_streams

    try:
        redact_uncaught_errors()
        prepare_standard_streams()
        catch_interrupts(_command_name(sys.argv[1:]))
        code = _run(sys.argv[1:])
        if is_interrupted():  # a library has caught the exception
            exit_interrupted()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except BaseException:
        if is_interrupted():
            exit_interrupted()
        raise
    sys.exit(code)


def _command_name(arguments: list[str]) -> str:
    first = next((argument for argument in arguments if not argument.startswith("-")), None)
    names = {info.name or (info.callback.__name__ if info.callback else "") for info in app.registered_commands}
    return f"streamclf {first}" if first in names else "streamclf"


def _run(arguments: list[str]) -> int:
    from streamclf.errors import OutputError

    code = _main(arguments)
    try:
        sys.stdout.flush()
    except OutputError as error:
        code = _print_error(error, code or 1)
    return code


def _main(arguments: list[str]) -> int:
    from engines.errors import EngineError
    from streamclf.errors import StreamclfError, UsageError

    # The base class of typer's usage errors has moved between versions; BadParameter derives from it in each version.
    command_line_error: type[Exception] = next(
        kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
    )
    try:
        return app(arguments, prog_name="streamclf", standalone_mode=False) or 0
    except UsageError as error:
        return _print_error(error, 2)
    except (StreamclfError, EngineError) as error:
        return _print_error(error, 1)
    except command_line_error as error:
        message: str = error.format_message()  # type: ignore[attr-defined]  # every version has it
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return 2
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None and context.parent is not None else "streamclf"
        return _print_error(f"{message} See: {command} --help", 2)


def _print_error(error: object, code: int) -> int:
    """Print an error on one line of stderr, without credentials and control characters; return `code`."""
    from engines.printable import printable
    from streamclf.redact import redact

    print(f"streamclf: {printable(redact(str(error)))}", file=sys.stderr)
    return code
