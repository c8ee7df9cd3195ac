"""The live table in the terminal: what each stream shows now, how surely, how often, how late."""

from __future__ import annotations

import statistics
import time
from collections import deque
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from streamclf.events.types import Action, Prediction, Received, Status
from streamclf.render.palette import INK, STATES, label_hex

RATE_WINDOW_S = 3.0
HISTORY = 48
CHANGES = 6
BAR_CELLS = 20
BLOCKS = " ▁▂▃▄▅▆▇█"


@dataclass(slots=True)
class StreamView:
    """What is shown of one stream."""

    state: str = "connecting"
    reason: str | None = None
    hop: int | None = None
    """Where the stream is adaptive."""
    top: tuple[tuple[str, float], ...] = ()
    predictions: int = 0
    predicted_at: float | None = None
    """Monotonic time of the last prediction."""
    arrivals: deque[float] = field(default_factory=lambda: deque(maxlen=256))
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=64))
    history: deque[tuple[str, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def rate(self, now: float) -> float:
        """Predictions per second over the last seconds."""
        recent = sum(1 for arrival in self.arrivals if now - arrival <= RATE_WINDOW_S)
        return recent / RATE_WINDOW_S

    @property
    def latency_ms(self) -> float | None:
        """Median time from captured frame to published prediction."""
        return statistics.median(self.latencies_ms) if self.latencies_ms else None


class LiveTable:
    """Takes events, one at a time, and renders the table. One thread."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.footer = ""
        self.streams: dict[str, StreamView] = {}
        self._changes: deque[Text] = deque(maxlen=CHANGES)

    def apply(self, event: Received, *, age_s: float = 0.0) -> None:
        """Show what `event` says; one that did not come just now, but is `age_s` old, counts for no rate or change."""
        if isinstance(event, Status):
            view = self._view(event.stream)
            if age_s == 0 and (event.state, event.reason) != (view.state, view.reason):
                self._note(event.stream, Text(event.state, STATES[event.state]), event.reason or "")
            if age_s == 0 and view.hop is not None and event.hop not in (None, view.hop):
                self._note(event.stream, Text(f"hop {event.hop}"), f"it was {view.hop}")
            view.state, view.reason, view.hop = event.state, event.reason, event.hop
        elif isinstance(event, Prediction):
            self._predicted(event, age_s)
        elif isinstance(event, Action) and event.phase != "update" and age_s == 0:
            self._note(event.stream, Text(f"{event.label} {event.phase}", label_hex(event.label)), "")

    def render(self) -> RenderableType:
        """The table, the probabilities of a single stream, and what changed last."""
        parts: list[RenderableType] = [self._table()]
        if len(self.streams) == 1:
            (view,) = self.streams.values()
            parts.append(_probabilities(view))
        if self._changes:
            parts += [Text(""), *self._changes]
        return Panel(
            Group(*parts), title=self.title, subtitle=self.footer or None, title_align="left", subtitle_align="left"
        )

    def _predicted(self, event: Prediction, age_s: float) -> None:
        view = self._view(event.stream)
        label, probability = event.top[0]
        if age_s == 0 and view.top and view.top[0][0] != label:
            self._note(event.stream, Text(label, label_hex(label)), f"{probability:.2f} at {event.window.end_s:.1f} s")
        view.top = event.top
        view.predictions += 1
        view.predicted_at = time.monotonic() - age_s
        if age_s == 0:
            view.arrivals.append(view.predicted_at)
        if event.latency_ms.capture_to_publish is not None:
            view.latencies_ms.append(event.latency_ms.capture_to_publish)
        view.history.append((label, probability))

    def _view(self, stream: str) -> StreamView:
        return self.streams.setdefault(stream, StreamView())

    def _note(self, stream: str, what: Text, detail: str) -> None:
        line = Text.assemble((time.strftime("%H:%M:%S "), "dim"), (f"{stream}  ", "bold"), what)
        self._changes.append(line.append(f"  {detail}", "dim") if detail else line)

    def _table(self) -> Table:
        now = time.monotonic()
        table = Table(box=None, expand=True, header_style="dim", pad_edge=False)
        for name, justify in (("stream", "left"), ("state", "left"), ("label", "left"), ("p", "right")):
            table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        table.add_column("rate", justify="right", no_wrap=True)
        table.add_column("latency", justify="right", no_wrap=True)
        table.add_column("age", justify="right", no_wrap=True)
        table.add_column("last predictions", no_wrap=True, ratio=1)
        for stream, view in sorted(self.streams.items()):
            label, probability = view.top[0] if view.top else ("…", 0.0)
            latency = view.latency_ms
            table.add_row(
                Text(stream, "bold"),
                Text(view.state, STATES.get(view.state, "")),
                Text(f" {label} ", f"bold {INK} on {label_hex(label)}" if view.top else "dim"),
                f"{probability:.2f}" if view.top else "",
                f"{view.rate(now):.1f}/s" + (f" hop {view.hop}" if view.hop is not None else ""),
                f"{latency:.0f} ms" if latency is not None else "",
                "" if view.predicted_at is None else short_age(now - view.predicted_at),
                _timeline(view) if view.state == "live" or not view.reason else Text(view.reason, "dim"),
            )
        return table


def short_age(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min`, `5 h`, `2 d`."""
    for limit, unit, size in ((10, "s", 1), (120, "s", 1), (7200, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            return f"{max(0.0, seconds):.1f} s" if limit == 10 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _timeline(view: StreamView) -> Text:
    text = Text()
    for label, probability in view.history:
        text.append(BLOCKS[round(probability * (len(BLOCKS) - 1))], label_hex(label))
    return text


def _probabilities(view: StreamView) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for label, probability in view.top[:7]:
        cells = round(probability * BAR_CELLS)
        bar = Text("█" * cells, label_hex(label)).append("░" * (BAR_CELLS - cells), "dim")
        table.add_row(Text(label, justify="right"), bar, f"{probability:.2f}")
    return table
