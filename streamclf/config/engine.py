"""Define the options of the inference engine."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator

from engines.backends.names import GPU_BACKEND, SERVER_BACKEND, Backend, Precision
from streamclf.config.section import Section
from streamclf.config.units import MemoryLimit

MAX_DEVICES: Final = 16
MAX_DEVICE: Final = 63
"""The largest number of a GPU: more than the GPUs of any machine."""

_URL: Final = re.compile(r"https?://[^/@\s?#]+/?")
_Device = Annotated[int, Field(strict=True)]


class EngineConfig(Section):
    """The options of the engine, for all streams together."""

    backend: Backend = Field(
        "auto",
        description="Inference library: `auto` takes TensorRT where it and a GPU are available, else OpenVINO, else "
        "onnxruntime.",
    )
    precision: Precision = Field(
        "auto",
        description="Numerical precision: `auto` takes the fastest that reproduces the bundle's golden clip on this "
        "device, at worst fp32.",
    )
    devices: tuple[_Device, ...] | None = Field(
        None,
        description="NVIDIA GPUs to use, by the numbers that `nvidia-smi` shows, like [0, 1]. Each gets a classifier "
        "process, the streams are distributed by load, and those of a lost GPU move to the others. If not set, the "
        "first GPU is used. Only for `tensorrt`, and for `auto`, which then means `tensorrt`.",
    )
    url: str | None = Field(
        None,
        max_length=256,
        description="Address of a Triton Inference Server, like http://10.0.0.5:8000, for `backend: triton`.",
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

    @field_validator("devices")
    @classmethod
    def _check_numbers(cls, devices: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if devices is not None and not 1 <= len(devices) <= MAX_DEVICES:
            raise ValueError(f"{len(devices)} GPUs: give 1 to {MAX_DEVICES}, or leave the key out")
        for number in devices or ():
            if not 0 <= number <= MAX_DEVICE:
                raise ValueError(f"GPU {number}: 0 to {MAX_DEVICE}; give the numbers that nvidia-smi shows")
            if devices is not None and devices.count(number) > 1:
                raise ValueError(f"GPU {number} is listed twice; list each GPU once")
        return devices

    @model_validator(mode="after")
    def _check_backend(self) -> EngineConfig:
        if self.devices is not None and self.backend not in ("auto", GPU_BACKEND):
            raise ValueError(
                f"devices: only {GPU_BACKEND} has numbered GPUs, not {self.backend}; leave devices out, or set "
                f"backend: {GPU_BACKEND}"
            )
        if (self.backend == SERVER_BACKEND) != (self.url is not None):
            raise ValueError("backend: triton and url go together: give both, or none of them")
        if self.url is not None and not _URL.fullmatch(self.url):
            raise ValueError("url: must be http://HOST:PORT or https://HOST:PORT, without a user or a path")
        return self
