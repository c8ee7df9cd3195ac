"""Plan one stream: its views, the ring and pipes of each, and the job of its capture process."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace

from engines.bundle import Bundle
from streamclf.config.classify import HeadSettings, StreamSettings
from streamclf.config.clips import ClipsConfig
from streamclf.config.examples import ExamplesConfig
from streamclf.config.picture_area import WHOLE, PictureArea
from streamclf.config.source import GPU_DEVICES, SourceConfig
from streamclf.config.views import StreamView, actions_of_model
from streamclf.runtime.capture_job import ViewJob
from streamclf.runtime.jobs import FeedUpdate
from streamclf.sources.decoding import mode_for_models
from streamclf.supervisor.checked_config import CheckedConfig
from streamclf.supervisor.engine_groups import EngineKey, Geometry
from streamclf.windows.card_channel import make_channel
from streamclf.windows.ring import create_ring


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewPlan:
    """One view: a region of a stream, or its whole picture, as the models of one classifier process see it."""

    classifier: str
    """Name of the process that classifies it."""
    stream: str
    region: str | None
    area: PictureArea
    geometry: Geometry
    settings: StreamSettings
    heads: dict[str, HeadSettings]
    """What each model of the process reports of it."""
    capture_waits: bool
    """Whether capture waits for the classifier: true for a file that is read as fast as possible."""
    may_use_card: bool = False
    """Whether a GPU may decode the stream, so that its chunks can stay on the GPU."""

    @property
    def key(self) -> str:
        """The name of the view, unique in its stream."""
        return self.classifier if self.region is None else f"{self.classifier}/{self.region}"

    @property
    def feed(self) -> str:
        """The name of the view in its classifier."""
        return self.stream if self.region is None else f"{self.stream}/{self.region}"

    @property
    def update(self) -> FeedUpdate:
        """The settings of the view in its classifier."""
        return FeedUpdate(settings=self.settings, heads=self.heads)

    def same_channels(self, other: ViewPlan) -> bool:
        """Return whether the same ring and pipes can serve both plans."""
        same_kind = (self.capture_waits, self.may_use_card) == (other.capture_waits, other.may_use_card)
        return self.geometry == other.geometry and same_kind


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPlan:
    """Everything that defines one stream: for its capture process, and for the classifiers."""

    source: SourceConfig
    """Its `decode` is that of this stream's models: `exact` if one of them needs that, and the stream says `auto`."""
    views: Mapping[str, ViewPlan]
    """By the key of the view; the views of the whole picture come first."""
    clips: ClipsConfig | None = None
    examples: ExamplesConfig | None = None
    picture: PictureArea = WHOLE
    """How people see the stream: rotated, mirrored and masked."""

    def same_capture(self, other: StreamPlan) -> bool:
        """Return whether the same capture process can serve both plans: views and `decode` can change while it runs."""
        source = other.source.model_copy(update={"decode": self.source.decode})
        return replace(self, views={}) == replace(other, views={}, source=source)


@dataclass(slots=True, kw_only=True)
class ViewChannels:
    """A view's ring and pipes. The supervisor keeps them open while the view exists; processes come and go."""

    ring: int
    wake_read: int
    wake_write: int
    progress_read: int | None
    progress_write: int | None
    card_classifier: int | None = None
    card_capture: int | None = None

    @classmethod
    def open(cls, plan: ViewPlan) -> ViewChannels:
        """Create the ring and the pipes. Raises `RingError` where there is no memory for the ring."""
        ring = create_ring(plan.geometry.slots, plan.geometry.chunk_shape)
        wake = _pipe()
        progress = _pipe() if plan.capture_waits else (None, None)
        card = make_channel() if plan.may_use_card else (None, None)
        return cls(
            ring=ring,
            wake_read=wake[0],
            wake_write=wake[1],
            progress_read=progress[0],
            progress_write=progress[1],
            card_classifier=card[0],
            card_capture=card[1],
        )

    def close(self) -> None:
        """Close all descriptors. The memory is freed with the last process that has mapped it."""
        for each in fields(self):
            fd = getattr(self, each.name)
            if fd is not None:
                os.close(fd)

    @property
    def capture_fds(self) -> list[int]:
        """The descriptors of the capture process, in the order of `streamclf.runtime.capture_job.ViewJob`."""
        return _present(self.ring, self.wake_write, self.progress_read, self.card_capture)

    @property
    def classifier_fds(self) -> list[int]:
        """The descriptors that are sent to the classifier, in the order of `streamclf.runtime.jobs.FeedJoin`."""
        return _present(self.ring, self.wake_read, self.progress_write, self.card_classifier)

    def view_job(self, plan: ViewPlan) -> ViewJob:
        """Return the part of this view in the job of its capture process."""
        geometry = plan.geometry
        return ViewJob(
            view=plan.key,
            region=plan.region,
            area=plan.area,
            fps=geometry.fps,
            frames_per_chunk=geometry.frames_per_chunk,
            height=geometry.height,
            width=geometry.width,
            resize=geometry.resize,
            ring_fd=self.ring,
            wake_fd=self.wake_write,
            progress_fd=self.progress_read,
            card_fd=self.card_capture,
        )


def _pipe() -> tuple[int, int]:
    """Make a pipe that never blocks; return its read end and its write end."""
    ends = os.pipe()
    for fd in ends:
        os.set_blocking(fd, False)
    return ends


def _present(*fds: int | None) -> list[int]:
    return [fd for fd in fds if fd is not None]


def heads_of(view: StreamView, bundles: Mapping[str, Bundle]) -> dict[str, HeadSettings]:
    """Return the settings of each model of a view, with the actions that have its labels."""
    heads = {}
    for model in view.models:
        spec = bundles[model].spec
        actions = actions_of_model(view.actions, model, spec.find_label)
        actions = actions.with_thresholds(spec.thresholds).with_hold(spec.hides_scene)
        heads[model] = HeadSettings(actions=actions)
    return heads


def plan_streams(checked: CheckedConfig, classifiers: Mapping[EngineKey, str]) -> dict[str, StreamPlan]:
    """Plan each stream that the configuration does not pause. Only a stream with actions gets clips.

    With `examples`, every stream gets them: a model that was taught brings the first actions of its stream, and the
    capture process must not restart for them. `classifiers`: the name of the process of each engine group.
    """
    plans = {}
    for name, stream in checked.config.streams.items():
        if stream.enabled:
            views = {view.key: view for view in _plan_views(checked, name, classifiers)}
            has_actions = any(head.actions.labels for view in views.values() for head in view.heads.values())
            clips = checked.config.clips if has_actions or checked.config.examples is not None else None
            specs = [checked.bundles[model].spec for view in views.values() for model in view.heads]
            decode = mode_for_models(stream.decode, specs)
            plans[name] = StreamPlan(
                source=stream.source.model_copy(update={"decode": decode}),
                views=views,
                clips=clips,
                examples=checked.config.examples and checked.config.examples.for_capture,
                picture=next(iter(views.values())).area.without_region,
            )
    return plans


def count_feeds(checked: CheckedConfig) -> Counter[EngineKey]:
    """Count the feeds of each engine group, those of paused streams included."""
    return Counter(
        key for name in checked.config.streams for view in checked.config.views_of(name) for key in _keys(checked, view)
    )


def count_rings(checked: CheckedConfig) -> Counter[tuple[str, Geometry]]:
    """Count the rings of each stream by their geometry."""
    return Counter(
        (name, key.geometry)
        for name, stream in checked.config.streams.items()
        if stream.enabled
        for view in checked.config.views_of(name)
        for key in _keys(checked, view)
    )


def _plan_views(checked: CheckedConfig, stream: str, classifiers: Mapping[EngineKey, str]) -> Iterator[ViewPlan]:
    source = checked.config.streams[stream].source
    capture_waits = checked.config.streams[stream].pace == "fast"
    for view in checked.config.views_of(stream):
        heads = heads_of(view, checked.bundles)
        for key, models in _keys(checked, view).items():
            yield ViewPlan(
                classifier=classifiers[key],
                stream=stream,
                region=view.region,
                area=view.area,
                geometry=key.geometry,
                settings=view.settings,
                heads={model: heads[model] for model in models},
                capture_waits=capture_waits,
                may_use_card=source.decode_device in GPU_DEVICES,
            )


def _keys(checked: CheckedConfig, view: StreamView) -> dict[EngineKey, list[str]]:
    """Return the models of a view by their engine group."""
    found: dict[EngineKey, list[str]] = {}
    for model in view.models:
        found.setdefault(EngineKey.of(checked.bundles[model], checked.config.engine.precision), []).append(model)
    return found
