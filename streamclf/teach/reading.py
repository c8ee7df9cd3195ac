"""Read the clips of a folder into examples: each film once, with a fault for each one that is passed over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from engines.arrays import U8
from engines.bundle import ModelSpec
from engines.printable import printable
from engines.regular_file import NotRegularFileError
from streamclf.config.picture_area import PictureArea
from streamclf.errors import SourceError, UsageError
from streamclf.redact import redact
from streamclf.sources import Frame, Source
from streamclf.teach.clip_features import ClipFeatureReader, ClipFeatures
from streamclf.teach.example_folder import LabelledClip
from streamclf.teach.examples import Example, ExampleRow, hash_file
from streamclf.teach.listener import Listener

if TYPE_CHECKING:
    from engines.protocol import Engine

READ_SHARE: Final = 0.8
"""The share of reading in the whole work."""
MAX_CANDIDATES: Final = 24
"""The most windows whose pixels are kept, as candidates for the golden clip."""
MAX_CANDIDATE_BYTES: Final = 64 << 20
MAX_FILM_BYTES: Final = 256 * 10**9
"""The largest film: a file may claim any size without having it on the disk, and all of it is hashed."""


class ExampleReader:
    """Read clips with an engine. `candidates`: the pixels of the first window of some clips, by example."""

    def __init__(self, engine: Engine, spec: ModelSpec, listener: Listener, *, limit: int, area: PictureArea) -> None:
        self._reader = ClipFeatureReader(engine, spec, limit=limit, area=area)
        self._listener = listener
        self.candidates: list[tuple[Example, U8]] = []
        self._bytes = 0

    def read(self, clips: Sequence[LabelledClip], known: Sequence[Example]) -> list[Example]:
        """Return the examples that are new. A clip of `known`, or of an earlier film with the same content, is noted.

        Raises `UsageError` if one film has two labels.
        """
        by_path: dict[Path, list[LabelledClip]] = {}
        for clip in clips:
            by_path.setdefault(clip.path, []).append(clip)
        sizes = [_size(path) for path in by_path]
        total, done = max(1, sum(sizes)), 0
        examples = list[Example]()
        seen = {(item.row.sha256, item.row.stretch): item.row for item in known}
        for number, ((path, of_film), size) in enumerate(zip(by_path.items(), sizes, strict=True), start=1):
            name, before = of_film[0].name, done

            def watch(source: Source, frame: Frame, *, name: str = name, before: int = before, n: int = number) -> None:
                share = (before + min(source.read_bytes, size)) / total  # noqa: B023 - called within this pass
                self._listener.progress("read", READ_SHARE * share, name, n)

            self._listener.progress("read", READ_SHARE * done / total, name, number)
            done += size
            if size > MAX_FILM_BYTES:
                self._listener.fault(name, f"{size / 1e9:.0f} GB; at most {MAX_FILM_BYTES / 1e9:.0f} GB: cut it")
                continue
            try:
                digest = hash_file(path)
                wanted = [clip for clip in of_film if self._is_new(clip, digest, seen)]
                if not wanted:
                    continue
                results, warning = self._reader.read(wanted, on_frame=watch)
            except (SourceError, OSError, NotRegularFileError) as error:
                self._listener.fault(name, redact(str(error)))
                continue
            if warning is not None:
                self._listener.note(f"{printable(name)}: {printable(redact(warning))}")
            for clip, content in zip(wanted, results, strict=True):
                if isinstance(content, str):
                    self._listener.fault(name, redact(content))
                else:
                    seen[digest, clip.stretch] = row = _row(clip, digest, content)
                    examples.append(self._example(row, content))
        return examples

    def _is_new(
        self, clip: LabelledClip, digest: str, seen: dict[tuple[str, tuple[float, float] | None], ExampleRow]
    ) -> bool:
        same = seen.get((digest, clip.stretch))
        if same is None:
            return True
        if same.label != clip.label:
            raise UsageError(
                f"{printable(same.name)} and {printable(clip.name)}: the same film with the labels "
                f"{printable(same.label)!r} and {printable(clip.label)!r}; keep one of them"
            )
        self._listener.note(f"{printable(clip.name)}: the same film as {printable(same.name)}; it counts once")
        return False

    def _example(self, row: ExampleRow, content: ClipFeatures) -> Example:
        example = Example(row=row, content=content)
        pixels, content.pixels = content.pixels, None
        if (
            pixels is not None
            and len(self.candidates) < MAX_CANDIDATES
            and self._bytes + pixels.nbytes <= MAX_CANDIDATE_BYTES
        ):
            self._bytes += pixels.nbytes
            self.candidates.append((example, pixels))
        return example


def _row(clip: LabelledClip, digest: str, content: ClipFeatures) -> ExampleRow:
    return ExampleRow(
        name=clip.name,
        label=clip.label,
        group=clip.group,
        sha256=digest,
        stretch=clip.stretch,
        began=clip.began,
        windows=len(content.windows),
        chunks=len(content.features),
    )


def _size(path: Path) -> int:
    try:
        if path.is_dir():
            return sum(item.stat().st_size for item in path.iterdir())
        return path.stat().st_size
    except (OSError, ValueError):  # reading it reports the reason
        return 0
