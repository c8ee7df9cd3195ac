"""Define the commands of a fleet: one configuration on several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streamclf.cli.options import JsonObject

Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Address of the Ray cluster; default: $RAY_ADDRESS, else the cluster of this machine.",
        show_default=False,
    ),
]

app = typer.Typer(no_args_is_help=True, help="Run the streams of one configuration on several machines, with Ray.")


@app.command("up")
def up(
    fleet: Annotated[Path, typer.Argument(metavar="FLEET", help="YAML file that describes the fleet.")],
    address: Address = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Start although some streams find no room; they start once there is.")
    ] = False,
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait until the streams are live.")] = 60.0,
) -> int:
    """Start the fleet that FLEET describes, or change the fleet that runs.

    Streams are added, changed and removed at once. Other changes, such as a new model, go from node to node, and halt
    where the new one is worse. The exit code is 1 if streams are not live in time.
    """
    from streamclf.fleet.command import run_up

    return run_up(fleet, address=address, partial=partial, wait_s=wait)


@app.command("status")
def status(address: Address = None, as_json: JsonObject = False) -> int:
    """Show the nodes of the fleet and their streams. The exit code is 1 if no fleet is up."""
    from streamclf.fleet.command import run_status

    return run_status(address=address, as_json=as_json)


@app.command("down")
def down(address: Address = None) -> int:
    """End the fleet on all nodes; journals, clips and models stay."""
    from streamclf.fleet.command import run_down

    return run_down(address=address)
