"""Classify a film with several models while it is read once."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path

from engines.backends.names import Backend, Precision
from engines.bundle import Bundle
from engines.errors import EngineError
from engines.printable import printable
from streamclf.api.window import ClassifiedWindow, to_window
from streamclf.classifier.offline_groups import iter_group_windows, open_groups
from streamclf.config.source_settings import DecodeMode
from streamclf.errors import ModelError, UsageError


def by_name(bundles: Sequence[Bundle]) -> dict[str, Bundle]:
    """Return the bundles by name and version. Raises `UsageError` for two with the same, and for none."""
    if not bundles:
        raise UsageError("model: an empty list; give at least one model")
    found: dict[str, Bundle] = {}
    for bundle in bundles:
        other = found.setdefault(bundle.spec.id, bundle)
        if other is not bundle:
            raise UsageError(
                f"model: {other.path} and {bundle.path} are both {bundle.spec.id}, so their windows could not be "
                "distinguished; classify with one after the other"
            )
    return found


def iter_windows(
    path: Path,
    bundles: dict[str, Bundle],
    *,
    hop: int,
    backend: Backend,
    precision: Precision,
    threads: int,
    max_batch: int,
    decode: DecodeMode,
) -> Generator[ClassifiedWindow, None, None]:
    """Open the models, and yield the windows of the film, of each model in order. Raises as `streamclf.classify`."""
    with ExitStack() as stack:
        try:
            groups = open_groups(bundles, backend=backend, precision=precision, max_batch=max_batch, threads=threads)
            for group in groups:
                stack.callback(group.close)
            results = iter_group_windows(groups, path, hop=hop, decode=decode)
            stack.callback(results.close)
            while True:
                try:
                    name, window = next(results)
                except StopIteration as end:
                    if end.value is not None:
                        warnings.warn(printable(end.value), UserWarning, stacklevel=3)
                    return
                yield to_window(window, bundles[name].spec)
        except EngineError as error:
            raise ModelError(str(error)) from error
