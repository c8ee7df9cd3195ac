"""Arguments only: each command parses its own and calls the room that does the work."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer

from engines.backends.names import Backend, Precision

BEGAN = time.monotonic()

app = typer.Typer(
    name="streamclf",
    help="Real-time streaming video classifier: cameras in, prediction events out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Seconds = Annotated[float | None, typer.Option(min=0.1, help="End after this long.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line on stdout, nothing else.")]
Endpoint = Annotated[str, typer.Argument(help="Like tcp://127.0.0.1:5555; or a key file made for the service.")]
FromStart = Annotated[bool, typer.Option("--from-start", help="First run: all that the journal holds, not from now.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="The service's YAML file.")]


@app.command()
def demo(
    camera: Annotated[int | None, typer.Option(min=0, max=99, help="Which camera; 0 if there is one.")] = None,
    headless: Annotated[bool, typer.Option("--headless", help="Lines instead of a live table.")] = False,
    seconds: Seconds = None,
) -> int:
    """Classify a camera, or a film made for it, live in this terminal. Nothing to configure."""
    from streamclf.commands.demo import run_demo

    return run_demo(camera=camera, headless=headless, seconds=seconds, began=BEGAN)


@app.command()
def run(config: ConfigFile, seconds: Seconds = None) -> int:
    """Run the service that CONFIG describes, until Ctrl-C."""
    from streamclf.commands.run import run_service

    return run_service(config, seconds=seconds)


@app.command()
def check(config: ConfigFile) -> int:
    """Say whether CONFIG can be run here: keys, model, files. Starts nothing."""
    from streamclf.commands.run import check_service

    print(check_service(config))
    return 0


@app.command()
def classify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Videos.")],
    model: Annotated[str, typer.Option(help="A bundle's directory, or a built-in name.")] = "camera-events",
    as_json: Json = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Annotated film: .mp4 or .gif.")] = None,
    hop: Annotated[int, typer.Option(min=1, help="Chunks between two windows.")] = 1,
    backend: Annotated[Backend, typer.Option(help="What runs the model.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="What it computes in.")] = "auto",
) -> int:
    """Classify the windows of video files."""
    from streamclf.commands.classify import run_classify

    return run_classify(
        files, model=model, as_json=as_json, output=output, hop=hop, backend=backend, precision=precision
    )


@app.command("compile")
def compile_(
    model: Annotated[str, typer.Argument(metavar="BUNDLE", help="A bundle's directory, or a built-in name.")],
    backend: Annotated[Backend, typer.Option(help="What is to run it.")] = "auto",
    precision: Annotated[Precision, typer.Option(help="What it is to compute in.")] = "auto",
    max_batch: Annotated[int, typer.Option(min=1, max=256, help="Chunks in one encode, as in the service.")] = 16,
    explain: Annotated[bool, typer.Option("--explain", help="Name what fp16 or bf16 break: graph or layers.")] = False,
    calibration: Annotated[Path | None, typer.Option(help="For INT8: .npz of `python -m training windows`.")] = None,
    validation: Annotated[Path | None, typer.Option(help="To compare with fp32 on: another such .npz.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Where the INT8 bundle goes.")] = None,
    as_json: Json = False,
) -> int:
    """Build a model's engine ahead, check its numbers, and say how fast it is."""
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
        str | None, typer.Argument(metavar="CONFIG|BUNDLE", help="A bundle is measured alone, a service as a whole.")
    ] = None,
    streams: Annotated[int | None, typer.Option(min=1, max=400, help="A service with so many cameras.")] = None,
    size: Annotated[str | None, typer.Option(help="Of the cameras' pictures; else 1280x720.")] = None,
    fps: Annotated[float | None, typer.Option(help="Pictures per second of a camera; else 25.")] = None,
    hop: Annotated[int | None, typer.Option(min=1, max=1024, help="Chunks between two predictions.")] = None,
    seconds: Annotated[
        float | None, typer.Option(min=0.05, max=86400, help="To measure for; of a bundle, a round.")
    ] = None,
    backend: Annotated[Backend | None, typer.Option(help="Only this one.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="Only this one.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, max=256, help="Chunks in one encode, at most.")] = None,
    capacity: Annotated[bool, typer.Option("--capacity", help="Find how many cameras this machine holds.")] = False,
    suite: Annotated[Literal["gpu"] | None, typer.Option(help="gpu: prove and measure bundles on this GPU.")] = None,
    only: Annotated[str | None, typer.Option(help="Of the suite: parts called so, like 'gestures/*'.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Of the suite: file of its parts; what is there is done.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")] = False,
) -> int:
    """Measure a model, a service with cameras made for it, or how many cameras this machine holds."""
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
def doctor(as_json: Json = False) -> int:
    """Say what this machine can do, which backend each model would take, and what to install to do better."""
    from streamclf.commands.doctor import run_doctor

    return run_doctor(as_json=as_json)


@app.command()
def log(
    endpoint: Endpoint,
    output: Annotated[Path, typer.Option("-o", "--output", help="events.db (SQLite) or events.jsonl.")],
    rotate: Annotated[
        list[str] | None, typer.Option(help="For .jsonl: begin a new file at 100MB, or after 1d; may be given twice.")
    ] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Complete files to keep; all by default.")] = None,
    once: Annotated[bool, typer.Option("--once", help="Catch up with the journal, then exit.")] = False,
    seconds: Seconds = None,
) -> int:
    """Write every event of a service to a file, exactly once, even if a process is killed."""
    from streamclf.subscribers.log.command import run_log

    return run_log(endpoint, output, rotate=rotate or (), keep=keep, once=once, seconds=seconds)


@app.command()
def status(
    endpoint: Endpoint,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout, then end.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for an answer.")] = 5.0,
    seconds: Seconds = None,
) -> int:
    """Show how each stream of a service is: a live table, or one JSON object."""
    from streamclf.subscribers.status import run_status

    return run_status(endpoint, as_json=as_json, seconds=seconds, timeout_s=timeout)


@app.command()
def watch(
    endpoint: Endpoint,
    stream: Annotated[list[str] | None, typer.Option(help="Only this stream; may be given again.")] = None,
    record: Annotated[Path | None, typer.Option(help="Write what is shown to this .mp4; needs no screen.")] = None,
    seconds: Seconds = None,
) -> int:
    """Show a service's streams with their predictions drawn over the picture."""
    from streamclf.subscribers.watch import run_watch

    return run_watch(endpoint, streams=stream, record=record, seconds=seconds)


@app.command()
def query(
    db: Annotated[Path, typer.Argument(metavar="EVENTS.DB", help="Written by: streamclf log ENDPOINT -o events.db")],
    label: Annotated[str | None, typer.Option(help="Only this label; the label of a status is its state.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="prediction, action or status.")] = None,
    since: Annotated[str | None, typer.Option(help="An age like 90s, 1h, 7d, or a time like 2026-01-31T12:00.")] = None,
    until: Annotated[str | None, typer.Option(help="An age or a time, as for --since.")] = None,
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
    """Find events in a log, and print or export the newest that match, oldest first."""
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
    broker: Annotated[str, typer.Argument(help="mqtt[s]://host[:port]; user and password: see docs/outlets.md.")],
    position: Annotated[Path, typer.Option(help="Where it remembers how far it has come.")] = Path("mqtt.position"),
    prefix: Annotated[str, typer.Option(help="What its topics begin with.")] = "streamclf",
    discovery: Annotated[bool, typer.Option("--discovery/--no-discovery", help="For Home Assistant.")] = True,
    every: Annotated[bool, typer.Option("--all", help="Predictions, statuses and updates, too.")] = False,
    from_start: FromStart = False,
    seconds: Seconds = None,
) -> int:
    """Tell an MQTT broker of actions and labels; Home Assistant finds them by itself."""
    from streamclf.subscribers.mqtt.command import run_mqtt

    return run_mqtt(
        endpoint,
        broker,
        position=position,
        prefix=prefix,
        discovery=discovery,
        every=every,
        from_start=from_start,
        seconds=seconds,
    )


@app.command()
def webhook(
    endpoint: Endpoint,
    url: Annotated[
        str, typer.Argument(envvar="STREAMCLF_WEBHOOK_URL", help="http(s)://…, where each event is POSTed.")
    ],
    position: Annotated[Path, typer.Option(help="Where it remembers how far it has come.")] = Path("webhook.position"),
    secret_file: Annotated[Path | None, typer.Option(help="Holds the key that signs each request.")] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="action (the default), prediction, status.")] = None,
    stream: Annotated[list[str] | None, typer.Option(help="Only this stream; may be given again.")] = None,
    batch: Annotated[int, typer.Option(min=1, max=1000, help="Events in one request, at most.")] = 1,
    from_start: FromStart = False,
    seconds: Seconds = None,
) -> int:
    """POST events to a web address, signed, in order, again and again until they are taken."""
    from streamclf.subscribers.webhook.command import run_webhook

    return run_webhook(
        endpoint,
        url,
        position=position,
        secret_file=secret_file,
        types=type_ or ("action",),
        streams=stream,
        batch=batch,
        from_start=from_start,
        seconds=seconds,
    )


@app.command()
def metrics(
    endpoint: Endpoint,
    host: Annotated[
        str, typer.Option(help="Address to serve on; beyond this machine with a token only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 9108,
    token_file: Annotated[Path | None, typer.Option(help="Holds what a reader must give as Bearer token.")] = None,
    stalled_after: Annotated[float, typer.Option(min=1, help="Seconds until /healthz minds a stream.")] = 60.0,
    seconds: Seconds = None,
) -> int:
    """Serve Prometheus /metrics and /healthz of a service."""
    from streamclf.subscribers.metrics.command import run_metrics

    return run_metrics(
        endpoint, host=host, port=port, token_file=token_file, stalled_after_s=stalled_after, seconds=seconds
    )


@app.command()
def keys(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Where the two files go.")],
    name: Annotated[str, typer.Argument(help="Of the service, or of a subscriber.")],
    service: Annotated[Path | None, typer.Option(help="A subscriber's: the service's public file.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="A subscriber's: where it finds the service.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files of this name.")] = False,
) -> int:
    """Make a pair of CURVE keys, for a service or for one that subscribes to it."""
    from streamclf.net.curve_keys import explain_keys, make_keys

    files = make_keys(directory, name, service=service, endpoint=endpoint, force=force)
    print(explain_keys(*files, service=service, endpoint=endpoint))
    return 0


def main() -> None:
    """The command line: every error of ours is one line on stderr; exit code 0, 1 or 2."""
    sys.exit(_main(sys.argv[1:]))


def _main(arguments: list[str]) -> int:
    from engines.errors import EngineError
    from streamclf.errors import StreamclfError, UsageError

    # Typer has moved its base of all usage errors between versions; every version derives BadParameter from it.
    command_line_error: type[Exception] = next(
        kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
    )
    try:
        return app(arguments, standalone_mode=False) or 0
    except UsageError as error:
        return _complain(error, 2)
    except (StreamclfError, EngineError) as error:
        return _complain(error, 1)
    except (KeyboardInterrupt, typer.Abort):
        return 0
    except command_line_error as error:
        message: str = error.format_message()  # type: ignore[attr-defined]  # every version has it
        if type(error).__name__ == "NoArgsIsHelpError":
            print(message)
            return 2
        return _complain(f"{message} See: streamclf --help", 2)


def _complain(error: object, code: int) -> int:
    from streamclf.redact import redact

    print(f"streamclf: {redact(str(error))}", file=sys.stderr)
    return code
