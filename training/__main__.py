"""The command line `python -m training`: download data, train, evaluate, export and import models."""

from __future__ import annotations

import signal

# Ctrl-C during the imports below ends the process at once, without a traceback. `run` sets another handler.
if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import shlex
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from engines.errors import EngineError
from streamclf.errors import OutputError, StreamclfError
from streamclf.redact import redact_uncaught_errors
from streamclf.runtime.interrupts import catch_interrupts, exit_interrupted, is_interrupted
from streamclf.runtime.standard_streams import prepare_standard_streams
from training.cli import bundles, data, measurements, recipes
from training.cli.list_options import ListOptions
from training.errors import TrainingError, print_error


class Commands(TyperGroup):
    """Commands whose errors are one line on stderr: exit code 2 for wrong usage, 1 for a failure while running."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the arguments: an error of the disk that names no file is reported with them."""
        ctx.meta["arguments"] = shlex.join(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run a command; print an expected error without a traceback."""
        try:
            return super().invoke(ctx)
        except (TrainingError, EngineError, StreamclfError, OSError) as error:
            if is_interrupted():  # the signal has caused the error, for instance by ending a process of num_workers
                raise
            raise typer.Exit(print_error(error, place=ctx.meta["arguments"]) or 1) from error


app = typer.Typer(
    cls=Commands,
    help="Train models, evaluate them, and export them for serving.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("train")(recipes.train)
app.command("summary")(recipes.summary)
app.command("contact-sheet")(recipes.contact_sheet)
app.command("evaluate")(measurements.evaluate)
app.command("live")(measurements.live)
app.command("explain")(measurements.explain)
app.command("download")(data.download)
app.command("import-hf", cls=ListOptions)(bundles.import_hf)
app.command("export")(bundles.export)
app.command("windows")(data.windows)
app.command("camera-events-benchmark")(measurements.camera_events_benchmark)
app.command("gesture-films")(data.gesture_films)
app.command("export-everyday")(bundles.export_everyday)


def run() -> None:
    """Run the command line. Output that cannot be written is one line on stderr.

    So are Ctrl-C (exit code 130) and SIGTERM (143).
    """
    try:
        prepare_standard_streams()
        redact_uncaught_errors()
        catch_interrupts("training", sigterm=True)
        try:
            app()
        finally:
            sys.stdout.flush()
    except BaseException as error:
        if is_interrupted():
            exit_interrupted()
        if not isinstance(error, OutputError):
            raise
        print(f"training: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    run()
