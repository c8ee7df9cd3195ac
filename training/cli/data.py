"""Define the commands that download and prepare data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from engines.printable import printable
from training.cli.options import Json, print_result


def download(
    name: Annotated[
        str, typer.Argument(help="organmnist3d, ucf101top5, fixed-cameras, photos, materials or real-events")
    ],
    folder: Annotated[Path, typer.Option(help="folder to write to")] = Path("data"),
    url: Annotated[str | None, typer.Option(help="address of a mirror")] = None,
) -> None:
    """Download a published data set. A stopped download resumes where it stopped."""
    from training.data.download import DATA_SETS
    from training.data.download import download as download_data

    path = download_data(name, folder, url=url)
    print(printable(path))
    print(f"{DATA_SETS[name].source}; licence: {DATA_SETS[name].licence}", file=sys.stderr)


def windows(
    model: Annotated[Path, typer.Argument(metavar="BUNDLE", help="folder or name of a bundle")],
    data: Annotated[Path, typer.Option(help="CSV list or folder of classes")],
    output: Annotated[Path, typer.Option("-o", "--output", help=".npz file to write")],
    split: Annotated[str | None, typer.Option(help="use only this split of the list; train to calibrate")] = None,
    count: Annotated[int, typer.Option(min=1, help="number of windows; all classes get the same share")] = 256,
    disturbed: Annotated[
        bool,
        typer.Option("--disturbed", help="use the film of camera-events-benchmark; its splits are tuning and held-out"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Cut windows of clips for `streamclf compile --calibration` and `--validation`."""
    from training.export.int8_windows import write_windows

    written = write_windows(model, data, output, split=split, count=count, disturbed=disturbed)
    print_result(written, as_json=as_json)


def gesture_films(
    clips: Annotated[Path, typer.Argument(help="CSV list of clips of gestures: path,label,split")],
    output: Annotated[Path, typer.Option("-o", "--output", help="folder for the films and their list, films.csv")],
    split: Annotated[str, typer.Option(help="the split whose shapes are shown")] = "val",
    around: Annotated[
        Path | None, typer.Option(help="CSV list of ordinary films, to cut to before and after shapes")
    ] = None,
) -> None:
    """Write films of held-out gestures as a stream shows them, for `python -m training live`."""
    from training.builtin.gestures.films import write_films

    written = write_films(clips, output, split=split, around=around)
    print(printable(str(written)))
