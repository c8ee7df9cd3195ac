"""Run a `streamclf` command that treats the service as silent sooner than after 5 s, so that tests need not wait."""

from __future__ import annotations

SILENT_S = 2.0
"""Longer than the second between two heartbeats, also on a busy machine."""


def short_silence_program(silent_s: float = SILENT_S) -> tuple[str, str]:
    """Return the arguments that follow the interpreter in place of `-m streamclf`."""
    return (
        "-c",
        "import sys; from streamclf.cli import main; from streamclf.client import stream_views; "
        f"stream_views.SERVICE_SILENT_S = {silent_s}; sys.exit(main())",
    )
