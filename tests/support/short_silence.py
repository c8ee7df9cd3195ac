"""Run a `streamclf` command with shorter times of silence and absence, so that tests need not wait."""

from __future__ import annotations

SILENT_S = 2.0
"""Longer than the second between two heartbeats, also on a busy machine."""
AWAY_S = 1.0
"""Seconds after which `streamclf mqtt` publishes that a stream is not live."""


def short_silence_program(silent_s: float = SILENT_S, will_delay_s: int = 10) -> tuple[str, str]:
    """Return the arguments that follow the interpreter in place of `-m streamclf`."""
    return (
        "-c",
        "import sys; from streamclf.cli import main; from streamclf.client import stream_views; "
        "from streamclf.subscribers.mqtt import broker, home_assistant; "
        f"broker.WILL_DELAY_S = {will_delay_s}; home_assistant.AWAY_S = {AWAY_S}; "
        f"stream_views.SERVICE_SILENT_S = {silent_s}; sys.exit(main())",
    )
