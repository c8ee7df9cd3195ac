"""Serve several models whose bundles have the same encoder: one engine encodes, and all of them use its features."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from engines.arrays import I32, U8
from engines.backends.names import Backend, Precision
from engines.bundle import ENCODER_FILE, Bundle, ModelSpec
from engines.errors import BundleError, EngineError, NotBuiltError, ParityError
from engines.opening import open_beside, open_engine
from engines.protocol import ChunkMemory, Engine, SharingEngine

log = logging.getLogger("engine")


def encoder_key(spec: ModelSpec) -> tuple[object, ...]:
    """Return a value that is equal for bundles which can share an encoder: its file, and the form of its windows."""
    return (
        spec.files[ENCODER_FILE],
        spec.fps,
        *(spec.frames_per_chunk, spec.chunks),
        *(spec.height, spec.width, spec.resize),
        spec.feature_shape,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOptions:
    """The arguments of `open_engine` for all engines of a group."""

    backend: Backend = "auto"
    precision: Precision = "auto"
    max_batch: int = 16
    bank_slots: int | None = None
    threads: int = 0
    streams: int = 1
    device: int | None = None
    url: str | None = None


class EngineGroup:
    """Engines of bundles with the same encoder, by the name of the model. The first one encodes for all of them.

    Only one thread at a time may use a group.
    """

    def __init__(self, name: str, owner: SharingEngine) -> None:
        """Begin with the model `name`, whose engine owns the encoder and the bank."""
        self.owner = owner
        self._engines = {name: owner}

    def __contains__(self, name: object) -> bool:
        return name in self._engines

    def __getitem__(self, name: str) -> Engine:
        return self._engines[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._engines)

    def __len__(self) -> int:
        return len(self._engines)

    @property
    def spec(self) -> ModelSpec:
        """The spec of the encoder's bundle: its windows have the form of all models of the group."""
        return self.owner.spec

    @property
    def backend(self) -> Backend:
        """The backend of all engines: an engine's description begins with it."""
        return cast("Backend", self.owner.description.partition(" ")[0])

    @property
    def precision(self) -> Precision:
        """The precision of the encoder."""
        return cast("Precision", self.owner.precision)

    @property
    def max_batch(self) -> int:
        """Most chunks in an `encode`, and most windows in a `classify` of any model."""
        return min(engine.max_batch for engine in (self.owner, *self._engines.values()))

    @property
    def queues_work(self) -> bool:
        """Whether the device computes while the caller goes on: see `Engine.queues_work`."""
        return self.owner.queues_work

    def encode(self, frames: U8, slots: I32) -> None:
        """Encode chunks for all models: see `Engine.encode`."""
        self.owner.encode(frames, slots)

    def share_memory(self, chunks: int) -> ChunkMemory | None:
        """Allocate memory for chunks: see `Engine.share_memory`. None for engines that take none from a GPU."""
        return self.owner.share_memory(chunks) if self.owner.takes_device_chunks else None

    def fetch(self, memory: ChunkMemory, index: int, row: int) -> None:
        """Take a chunk from the GPU's memory: see `Engine.fetch`."""
        self.owner.fetch(memory, index, row)

    def encode_device(self, slots: I32) -> None:
        """Encode the fetched chunks for all models: see `Engine.encode_device`."""
        self.owner.encode_device(slots)

    def add(self, name: str, engine: SharingEngine) -> None:
        """Let `engine`, which `open_beside` has opened, serve the model `name` from now on; close the one before.

        The group owns `engine` from now on, also when it raises `EngineError`.
        """
        try:
            engine.share_bank(self.owner)
        except BaseException:
            engine.close()
            raise
        self.remove(name)
        self._engines[name] = engine

    def remove(self, name: str) -> None:
        """Free the model `name`, if there is one. The encoder stays."""
        engine = self._engines.pop(name, None)
        if engine is self.owner:
            self.owner.drop_head()
        elif engine is not None:
            engine.close()

    def close(self) -> None:
        """Free the device. May be called twice."""
        for name in list(self._engines):
            self.remove(name)
        self.owner.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedGroup:
    """A group, and the models that cannot be opened: the error by the name of the model."""

    group: EngineGroup
    failed: dict[str, EngineError] = field(default_factory=dict)


def open_group(bundles: Mapping[str, Bundle], options: GroupOptions, *, may_build: bool = True) -> OpenedGroup:
    """Open the bundles, which have the same encoder. Each engine passes its own golden clip.

    A model that cannot be opened does not concern the others. If no model can be opened, raise the error of the first.
    With precision `auto`, all models of the group are opened in fp32 where one of them needs that.

    Raises what `open_engine` raises.
    """
    group: EngineGroup | None = None
    failed: dict[str, EngineError] = {}
    for name, bundle in bundles.items():
        try:
            if group is None:
                group = EngineGroup(name, _open_owner(bundle, options, may_build=may_build))
            else:
                group.add(name, open_next(bundle, group, options, may_build=may_build))
        except NotBuiltError:  # noqa: PERF203 - each one may fail
            if group is not None:
                group.close()
            raise
        except EngineError as error:
            if group is not None and isinstance(error, ParityError) and _may_be_fp32(options, group.owner):
                log.warning("%s; continuing with all models of this encoder in fp32", error)
                group.close()
                return open_group(bundles, replace(options, precision="fp32"), may_build=may_build)
            failed[name] = error
    if group is None:
        raise next(iter(failed.values()))
    return OpenedGroup(group=group, failed=failed)


def open_next(bundle: Bundle, group: EngineGroup, options: GroupOptions, *, may_build: bool = True) -> SharingEngine:
    """Open another bundle for `group`: `EngineGroup.add` takes the engine. Another thread may use the group meanwhile.

    The engine has the backend and the precision of the group. Raises what `open_engine` raises.
    """
    check_encoder(bundle, group.spec)
    return open_beside(
        bundle,
        group.owner,
        backend=group.backend,
        precision=group.precision,
        may_lift_head=options.precision == "auto",
        threads=options.threads,
        streams=options.streams,
        device=options.device,
        url=options.url,
        may_build=may_build,
    )


def check_encoder(bundle: Bundle, spec: ModelSpec) -> None:
    """Raise `BundleError` if `bundle` cannot share the encoder of the bundle with `spec`."""
    if encoder_key(bundle.spec) != encoder_key(spec):
        raise BundleError(
            f"{bundle.path}: its encoder, or the form of its windows, is not that of {spec.id}; "
            "it needs a classifier of its own: restart the service"
        )


def _open_owner(bundle: Bundle, options: GroupOptions, *, may_build: bool) -> SharingEngine:
    return open_engine(
        bundle,
        backend=options.backend,
        precision=options.precision,
        max_batch=options.max_batch,
        bank_slots=options.bank_slots,
        threads=options.threads,
        streams=options.streams,
        device=options.device,
        url=options.url,
        may_build=may_build,
    )


def _may_be_fp32(options: GroupOptions, owner: Engine) -> bool:
    return options.precision == "auto" and owner.precision != "fp32"
