"""Collect what the report shows while films are classified, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.bundle import ModelSpec
from engines.printable import path_text
from streamclf.classifier.explanation import Explanation
from streamclf.classifier.film_events import FilmEvent
from streamclf.classifier.offline import FileResult
from streamclf.classifier.window_classifier import WindowResult
from streamclf.commands.report.film_summary import ExplainedStill, detail_for, summarise_film
from streamclf.commands.report.page import ReportData, write_report
from streamclf.commands.report.stills import BestStills, RecentPictures, explained_still
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.sources import Frame, Source

MAX_EXPLAINED_STILLS = 60
"""The most stills with heat in a report: the first ones, so that 200 films do not make a page of 20 MB."""


class ReportBuilder:
    """Collect the report of a run, and write it to `path` at the end."""

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        *,
        films: int,
        title: str,
        max_batch: int,
        method: str | None,
        area: PictureArea = WHOLE,
    ) -> None:
        """Begin a report of `films` films. `max_batch`: by how many chunks windows come late. `method`: of heat."""
        self._path, self._spec, self._detail = path, spec, detail_for(films)
        self._pictures = RecentPictures(spec, max_batch=max_batch, area=area)
        self._stills = BestStills(spec, self._pictures)
        self._explained: list[ExplainedStill] = []
        self._explained_count = 0
        self.data = ReportData(
            title=title, model=spec.id, labels=spec.labels, method=method, independent=spec.activation == "sigmoid"
        )

    def watch(self, source: Source, frame: Frame) -> None:
        """See `FrameHook`."""
        self._pictures.watch(source, frame)

    def add_window(self, window: WindowResult) -> None:
        """Consider a window for the best stills, soon after its frames were read."""
        self._stills.add_window(window)

    def begin_explaining(self) -> None:
        """Expect that the same film is read again."""
        self._pictures.clear()

    def add_explanation(self, film: Path, explanation: Explanation) -> None:
        """Keep the still of an explained window, soon after its frames were read."""
        if self._explained_count >= MAX_EXPLAINED_STILLS:
            return
        still = explained_still(path_text(film), explanation, self._spec, self._pictures)
        if still is not None:
            self._explained_count += 1
            self._explained.append(ExplainedStill(still=still, largest=explanation.heat.largest))

    def add_film(
        self,
        film: Path,
        result: FileResult,
        events: Sequence[FilmEvent],
        *,
        truth: Sequence[int] | None,
        notes: Sequence[str],
    ) -> None:
        """Add a film that was classified to its end."""
        explained, self._explained = self._explained, []
        self._stills.end_film(path_text(film))
        self.data.films.append(
            summarise_film(
                path_text(film),
                result,
                events,
                truth=truth,
                detail=self._detail,
                notes=notes,
                explained=explained,
                independent=self.data.independent,
            )
        )

    def add_fault(self, fault: str) -> None:
        """Add a line about a film that could not be classified."""
        self._stills.drop_film()
        self._explained_count -= len(self._explained)
        self._explained = []
        self.data.faults.append(fault)

    def write(self) -> None:
        """Write the report. Raises `OutputError`."""
        self.data.stills = self._stills.choose()
        write_report(self._path, self.data)
