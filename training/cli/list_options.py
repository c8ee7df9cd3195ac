"""Let options of the command line have several values: `--labels "a cat" "a dog"`."""

from __future__ import annotations

from typing import Any, Final

from typer.core import TyperCommand

LIST_OPTIONS: Final = ("--labels", "--template")


class ListOptions(TyperCommand):
    """A command whose list options take all words up to the next option."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `args` after repeating the name of a list option before each of its values."""
        return super().parse_args(ctx, repeat_names(args))


def repeat_names(args: list[str]) -> list[str]:
    """Turn `--labels a b` into `--labels a --labels b`; a value that begins with `-` is given as `--labels=-a`."""
    repeated: list[str] = []
    name: str | None = None
    first = False
    for arg in args:
        if arg in LIST_OPTIONS:
            name, first = arg, True
            repeated.append(arg)
        elif name is None or (arg.startswith("-") and len(arg) > 1):
            name = arg.partition("=")[0] if arg.partition("=")[0] in LIST_OPTIONS else None
            repeated.append(arg)
        else:
            repeated.extend([arg] if first else [name, arg])
            first = False
    return repeated
