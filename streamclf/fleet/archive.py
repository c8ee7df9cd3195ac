"""Classify the films of an archive on a Ray cluster, with Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from streamclf import __version__
from streamclf.archive.films import Film
from streamclf.archive.pool import FilmPool
from streamclf.archive.worker import ArchiveJob, FilmRows
from streamclf.errors import UsageError
from streamclf.fleet.cluster import connected
from streamclf.fleet.model_store import describe_bundle

MAX_BLOCKS: Final = 10_000


def classify_on_cluster(
    job: ArchiveJob, films: Sequence[Film], *, address: str | None, on_progress: Callable[[int], None]
) -> Generator[FilmRows, None, None]:
    """Yield the result of each film once, in the order in which they end.

    Each free processor of the cluster runs one process. Nodes read the films themselves: a path must exist on every
    node. Ray Data repeats the films in work of a node that is lost. Raises `UsageError` where there is no cluster, no
    free processor, or another version of streamclf.
    """
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # of this process: errors arrive as exceptions, too
    with connected(address) as ray:
        import ray.data
        from ray.exceptions import RayError

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        cores = int(ray.available_resources().get("CPU", 0))
        if cores < 1:
            raise UsageError(
                "no processor of the cluster is free; add nodes, or lower fleet.cpu_share of the fleet that runs there"
            )
        names = sorted(describe_bundle(job.bundle)[1])
        bundle = ray.put({name: (job.bundle / name).read_bytes() for name in names})
        rows = ray.data.from_items(
            [{"name": os.fsencode(film.name), "size": film.size} for film in films],
            override_num_blocks=min(len(films), MAX_BLOCKS),
        ).map_batches(
            _NodeClassifier,
            fn_constructor_args=(job, [bundle], __version__),
            batch_size=1,
            num_cpus=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=min(cores, len(films))),
        )
        seen = set()
        try:
            for batch in rows.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                for packed in batch["rows"]:
                    result: FilmRows = pickle.loads(packed)  # noqa: S301 - from our own actors
                    if result.film not in seen:
                        seen.add(result.film)
                        yield result
                on_progress(0)
        except RayError as error:
            lines = str(error).strip().splitlines()
            raise UsageError(f"the cluster stopped the work: {lines[-1] if lines else type(error).__name__}") from None


class _NodeClassifier:
    """One process of a node, for Ray Data: it keeps its engine open from film to film."""

    def __init__(self, job: ArchiveJob, bundle: Sequence[Any], version: str) -> None:
        if version != __version__:
            raise UsageError(f"this node has streamclf {__version__}; install {version} there, as here")
        import ray

        self._folder = tempfile.TemporaryDirectory(prefix="streamclf-archive-")
        folder = Path(self._folder.name)
        for name, content in ray.get(bundle[0]).items():
            (folder / name).write_bytes(content)
        self._pool = FilmPool(replace(job, bundle=folder), workers=1)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Classify the films of a batch."""
        films = [Film(os.fsdecode(name), int(size)) for name, size in zip(batch["name"], batch["size"], strict=True)]
        with closing(self._pool.classify(films)) as results:
            return {"rows": [pickle.dumps(result) for result in results]}
