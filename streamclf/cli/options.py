"""Define the types of arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamclf.errors import UsageError

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
    "Address of the service's events, like tcp://127.0.0.1:5555, or of a fleet, like fleet://127.0.0.1:5550; its "
    "configuration (.yaml), or a key file from `streamclf keys`"
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
    typer.Option(help="Lowest level of the log lines; default: $STREAMCLF_LOG, else info.", show_default=False),
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
        help="Only events of these types: action, clip, prediction, status; separated by commas.",
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
Clips = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the service's clips, to send their pictures; default: send none.", show_default=False
    ),
]
PictureBytes = Annotated[
    int, typer.Option(min=0, help="Largest size of a picture in bytes; a larger one is made smaller.")
]
FirstPicture = Annotated[
    bool | None,
    typer.Option(
        "--first-picture/--no-first-picture",
        help="Also send a picture at the start of an action; default: yes if pictures are sent.",
        show_default=False,
    ),
]
Link = Annotated[
    str | None,
    typer.Option(
        help="Address of the page (streamclf web), to send links to pictures and films instead of pictures.",
        show_default=False,
    ),
]
LinkTokenFile = Annotated[
    Path | None, typer.Option(help="File with the token of the page, which signs the links.", show_default=False)
]
LinkValid = Annotated[str, typer.Option(help="Time for which a link works without a login, like 1d.")]

RegionOption = Annotated[
    str | None,
    typer.Option(
        metavar="LEFT,TOP,RIGHT,BOTTOM",
        help="The part of the picture to use, in shares from 0 to 1, like 0.2,0.1,0.8,0.9.",
        show_default=False,
    ),
]
MaskOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="LEFT,TOP,RIGHT,BOTTOM|X,Y,X,Y,X,Y…",
        help="Paint a rectangle or a polygon black, in shares from 0 to 1; may be given several times.",
        show_default=False,
    ),
]
RotateOption = Annotated[int, typer.Option(help="Turn the picture clockwise first: 90, 180 or 270 degrees.")]
FlipOption = Annotated[
    Literal["horizontal", "vertical"] | None,
    typer.Option(help="Mirror the rotated picture: left and right, or top and bottom.", show_default=False),
]


def split_values(values: list[str] | None) -> list[str] | None:
    """Return the parts of options like `action,status`, given once or several times."""
    return None if not values else [part.strip() for value in values for part in value.split(",")]


def parse_path(text: str) -> Path:
    """Return the path that `text` names, which may be a file URL. Raises `UsageError` if it is empty."""
    from streamclf.config.source_settings import path_of

    if not text:  # an unset variable of a script; `Path` would take it for the working directory
        raise UsageError("an empty path; give a file or a folder")
    return path_of(text)
