"""Define the options of the inference engine."""

from __future__ import annotations

from pydantic import Field

from engines.backends.names import Backend, Precision
from streamclf.config.section import Section
from streamclf.config.units import MemoryLimit


class EngineConfig(Section):
    """The options of the engine, for all streams together."""

    backend: Backend = Field(
        "auto",
        description="Inference library: `auto` takes TensorRT where it and a GPU are available, else OpenVINO, else "
        "onnxruntime.",
    )
    precision: Precision = Field(
        "auto",
        description="Numerical precision: `auto` takes the fastest that reproduces the model's reference clip on this "
        "device, at worst fp32.",
    )
    max_batch: int = Field(
        16, ge=1, le=256, description="Most chunks in one encode, and most windows in one classification."
    )
    max_wait_ms: float = Field(
        20.0,
        ge=0,
        le=1000,
        description="Milliseconds that a chunk waits at most for chunks of other streams, to be encoded together. 0 "
        "never waits.",
    )
    max_staleness_ms: float | None = Field(
        None,
        ge=1,
        le=3_600_000,
        description="Age in milliseconds of a window's newest frame beyond which the window is dropped instead of "
        "classified. If not set, there is no limit.",
    )
    adaptive: bool = Field(False, description="Predict less often, with longer hops, while the machine cannot keep up.")
    threads: int = Field(0, ge=0, le=256, description="Most CPU threads of inference; 0 uses all cores.")
    spare_streams: int = Field(
        4,
        ge=0,
        le=400,
        description="Streams that may be added to a running service before its classifier has to restart.",
    )
    memory_limit: MemoryLimit | None = Field(
        None,
        description="Memory of the classifier's process beyond which it is restarted, at least 200MB. If not set, "
        "there is no limit, because models differ too much.",
    )
