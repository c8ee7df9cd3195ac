"""Assemble the commands; this order is that of `streamclf --help`."""

from __future__ import annotations

from typing import Annotated

import typer

from streamclf.cli import fleet, models, outlets, service

app = typer.Typer(
    name="streamclf",
    help="Classify live video: read cameras and files, publish prediction events.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("demo")(service.demo)
app.command("init")(service.init)
app.command("run")(service.run)
app.command("check")(service.check)
app.command("status")(service.status)
app.command("watch")(service.watch)
app.command("log")(outlets.log)
app.command("query")(outlets.query)
app.command("mqtt")(outlets.mqtt)
app.command("webhook")(outlets.webhook)
app.command("metrics")(outlets.metrics)
app.command("web")(outlets.web)
app.command("classify")(models.classify)
app.command("teach")(models.teach)
app.command("compile")(models.compile_model)
app.command("bench")(models.bench)
app.command("doctor")(models.doctor)
app.command("keys")(service.keys)
app.add_typer(fleet.app, name="fleet")


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
