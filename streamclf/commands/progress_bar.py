"""Make the bar that shows the progress of a command in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn


def make_bar(console: Console) -> Progress | None:
    """Return a bar, which is not started; None if `console` is no terminal, where lines have to do.

    A task of the bar has a `description` and the field `left`, the text after the bar.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        return None
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[left]}", markup=False),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )
