"""Draw a text in the terminal again and again, in place, until the caller ends."""

from __future__ import annotations

import contextlib
import sys
import termios
from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.live import Live

REFRESH_HZ = 8


@contextlib.contextmanager
def live_screen(shown: RenderableType, console: Console) -> Iterator[None]:
    """Draw `shown` eight times a second. The last image stays in the terminal."""
    with _no_control_echo(), Live(shown, console=console, refresh_per_second=REFRESH_HZ):
        yield


@contextlib.contextmanager
def _no_control_echo() -> Iterator[None]:
    """Keep the terminal from writing `^C` into the drawing, which would move it by a line."""
    try:
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
    except (OSError, ValueError, AttributeError, termios.error):  # standard input is no terminal, or closed
        yield
        return
    changed = [*before]
    changed[3] = int(before[3]) & ~termios.ECHOCTL
    try:
        termios.tcsetattr(fd, termios.TCSANOW, changed)
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(fd, termios.TCSANOW, before)
