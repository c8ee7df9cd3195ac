"""Define the arguments that several commands share, and print their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from engines.printable import printable

Json = Annotated[bool, typer.Option("--json", help="print one JSON object on stdout")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="override keys of the recipe, such as optimiser.steps=100"),
]


def result_lines(result: dict[str, Any]) -> str:
    """Return one line `name: value` for each entry of a result."""
    return "\n".join(
        printable(f"{name}: {value:.4f}" if isinstance(value, float) else f"{name}: {value}")
        for name, value in result.items()
    )


def print_result(
    result: dict[str, Any], *, as_json: bool, as_text: Callable[[dict[str, Any]], str] = result_lines
) -> None:
    """Print the result of a command on stdout: as one JSON object, or as the text that `as_text` returns."""
    print(json.dumps(result) if as_json else as_text(result))
