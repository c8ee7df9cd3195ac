"""Run the classifier process of one group of models: rings -> engines -> predictions and actions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from streamclf.classifier.classifier import Classifier
from streamclf.classifier.loop import ClassifierLoop, log_drops
from streamclf.producer.link import EventProducer
from streamclf.runtime.child import EXIT_DONE, ChildControl
from streamclf.runtime.jobs import ClassifierJob, ClassifierReady, ClassifierReport, ModelReport

if TYPE_CHECKING:
    from engines.bundle import Bundle
    from engines.errors import EngineError

LINK_CLOSE_S = 0.6
"""Time to hand the last events to the hub."""
COMPILING_S = 1800.0
"""Building an engine for a device takes minutes at worst, in a library that cannot extend the liveness deadline."""

log = logging.getLogger("classifier")


def main(job: ClassifierJob, control: ChildControl) -> int:
    """Open the engines, report them on stdout in one JSON line, and serve until the request to stop.

    A model that cannot be opened does not concern the others. Raises `EngineError` if no model can be opened.
    """
    from engines.group import GroupOptions
    from engines.serving import open_serving
    from streamclf.classifier.feed_registry import FeedRegistry
    from streamclf.classifier.scene_check import scene_slots

    control.liveness.enter_phase("compiling", COMPILING_S)
    bundles, failed = _load_bundles(job.bundles)
    if not bundles:
        raise next(iter(failed.values()))
    spec = next(iter(bundles.values())).spec
    options = GroupOptions(
        backend=job.engine.backend,
        precision=job.engine.precision,
        max_batch=job.engine.max_batch,
        bank_slots=(scene_slot := FeedRegistry.bank_slots(spec, job.capacity)) + scene_slots(spec),
        threads=job.engine.threads,
        streams=job.streams,
        device=job.device,
        url=job.engine.url,
    )
    serving = open_serving(bundles, options)
    registry = FeedRegistry(spec, job.capacity)
    producer = EventProducer(job.link, job.producer)
    reasons = {name: str(error) for name, error in failed.items()} | serving.failed
    print(ClassifierReady(engine=serving.group.owner.description, failed=reasons).model_dump_json(), flush=True)
    classifier = Classifier(serving, (), producer, scene_slot=scene_slot)
    max_wait_s = job.engine.max_wait_ms / 1e3
    try:
        reports_load = job.device is not None
        ClassifierLoop(
            classifier, control, registry, max_wait_s=max_wait_s, report=_print_report, reports_load=reports_load
        ).run()
    finally:
        left = producer.close(LINK_CLOSE_S)
        if left:
            log.error("%d events could not be handed to the hub before the end", left)
        for feed in registry:
            log_drops(feed)
        classifier.close()
    return EXIT_DONE


def _load_bundles(paths: Mapping[str, Path]) -> tuple[dict[str, Bundle], dict[str, EngineError]]:
    """Load the bundles by the names of their models; return them, and the errors of those that cannot be read."""
    from engines.bundle import load_bundle
    from engines.errors import EngineError

    bundles: dict[str, Bundle] = {}
    failed: dict[str, EngineError] = {}
    for name, path in paths.items():
        try:
            bundles[name] = load_bundle(path)
        except EngineError as error:  # noqa: PERF203 - each one may fail
            failed[name] = error
    return bundles, failed


def _print_report(report: ClassifierReport) -> None:
    """Send a report to the supervisor. The supervisor logs the models that cannot be opened."""
    print(report.model_dump_json(), flush=True)
    if isinstance(report, ModelReport) and report.error is None:
        log.info("%s serves from now on", f"model {report.model}" if report.model else "the model")
