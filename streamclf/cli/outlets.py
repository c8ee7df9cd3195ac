"""Define the commands that hand the events of a service to a file, a broker or a web address."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamclf.cli.options import (
    Clips,
    Endpoint,
    FirstPicture,
    FromStart,
    Json,
    Link,
    LinkTokenFile,
    LinkValid,
    MinProbability,
    OptionalEndpoint,
    PictureBytes,
    Position,
    Seconds,
    Streams,
    Types,
    Updates,
    split_values,
)


def log(
    output: Annotated[Path, typer.Option("-o", "--output", help="events.db (SQLite) or events.jsonl.")],
    endpoint: OptionalEndpoint = "",
    rotate: Annotated[
        list[str] | None, typer.Option(help="For .jsonl: begin a new file at 100MB, or after 1d; may be given twice.")
    ] = None,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Age after which events are removed, like 90d, or with --rotate a number of files; default: keep all.",
            show_default=False,
        ),
    ] = None,
    keep_size: Annotated[
        str | None,
        typer.Option(
            help="Size beyond which the oldest events are removed, like 5GB. Default: keep all.", show_default=False
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
        rotate=split_values(rotate),
        keep=keep,
        keep_size=keep_size,
        types=split_values(types),
        streams=split_values(streams),
        min_probability=min_probability,
        updates=updates,
    )
    return run_outlet(endpoint, options, once=once, seconds=seconds)


def query(
    db: Annotated[
        Path,
        typer.Argument(
            metavar="EVENTS.DB", help="Written by: streamclf log ENDPOINT -o events.db; or the journal of a service."
        ),
    ],
    label: Annotated[str | None, typer.Option(help="Only this label; the label of a status is its state.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    region: Annotated[str | None, typer.Option(help="Only this region of a stream.")] = None,
    model: Annotated[str | None, typer.Option(help="Only the model of this name in the configuration.")] = None,
    type_: Annotated[str | None, typer.Option("--type", help="Only prediction, action, status or clip.")] = None,
    since: Annotated[
        str | None,
        typer.Option(help="Only events since then: an age like 90s, 1h, 7d, or a time like 2026-01-31T12:00."),
    ] = None,
    until: Annotated[str | None, typer.Option(help="Only events until then: an age or a time, as for --since.")] = None,
    min_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Only events with at least this probability.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Only so many of the newest; default: 100, with -o all.")
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
        region=region,
        model=model,
        type=type_,
        since=since,
        until=until,
        min_p=min_p,
        limit=limit,
        as_json=as_json,
        output=output,
    )


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
    clips: Clips = None,
    picture_bytes: PictureBytes = 300_000,
    first_picture: FirstPicture = None,
    link: Link = None,
    link_token_file: LinkTokenFile = None,
    link_valid: LinkValid = "1d",
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
        types=split_values(types),
        streams=split_values(streams),
        min_probability=min_probability,
        updates=updates,
        clips=clips,
        picture_bytes=picture_bytes,
        first_picture=first_picture,
        link=link,
        link_token_file=link_token_file,
        link_valid=link_valid,
        from_start=from_start,
    )
    return run_outlet(endpoint, options, position=position, seconds=seconds)


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
    clips: Clips = None,
    picture_bytes: PictureBytes = 300_000,
    first_picture: FirstPicture = None,
    link: Link = None,
    link_token_file: LinkTokenFile = None,
    link_valid: LinkValid = "1d",
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
        types=split_values(types),
        streams=split_values(streams),
        min_probability=min_probability,
        updates=updates,
        batch=batch,
        clips=clips,
        picture_bytes=picture_bytes,
        first_picture=first_picture,
        link=link,
        link_token_file=link_token_file,
        link_valid=link_valid,
        from_start=from_start,
    )
    return run_outlet(endpoint, options, position=position, seconds=seconds)


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
        streams=split_values(streams),
    )
    return run_outlet(endpoint, options, seconds=seconds)


def web(
    endpoint: OptionalEndpoint = "",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other than loopback requires --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free port.")] = 8080,
    token_file: Annotated[Path | None, typer.Option(help="File with the token for the login.")] = None,
    clips: Annotated[
        Path | None,
        typer.Option(help="Folder with the service's clips; default: the page shows none.", show_default=False),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="Configuration that the page may change; default: it changes none.", show_default=False),
    ] = None,
    streams: Streams = None,
    seconds: Seconds = None,
) -> int:
    """Serve a page with live pictures, events, health and settings of a service.

    For browsers on this machine at http://127.0.0.1:8080. Runs until Ctrl-C.
    """
    from streamclf.config.outlet_options import WebConfig
    from streamclf.config.outlets import outlet_options
    from streamclf.subscribers.outlet_command import run_outlet

    options = outlet_options(
        WebConfig,
        host=host,
        port=port,
        token_file=token_file,
        clips=clips,
        config=config,
        streams=split_values(streams),
    )
    return run_outlet(endpoint, options, seconds=seconds)
