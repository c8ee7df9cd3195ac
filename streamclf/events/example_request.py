"""Define the request to save a stretch of a stream as an example film, and its result.

The page sends the request to the hub, the hub hands it to the capture process of the stream, and the result takes the
same way back (docs/adr/0030-examples.md).
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from streamclf.errors import EventError
from streamclf.events.types import Probability, StreamName
from streamclf.events.views import Label

MAX_REQUEST_BYTES: Final = 32 * 1024
MAX_STRETCH_S: Final = 600.0
MIN_STRETCH_S: Final = 0.2
MAX_AREA_CHARS: Final = 16_384
REQUEST_ID_PATTERN: Final = r"^[A-Za-z0-9_-]{1,64}$"
PROJECT_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_-]{0,63}$"

RequestId = Annotated[str, Field(pattern=REQUEST_ID_PATTERN)]
ProjectName = Annotated[str, Field(pattern=PROJECT_PATTERN)]
"""Name of a model to be taught, and of the folder of its examples."""


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, hide_input_in_errors=True)


_MessageT = TypeVar("_MessageT", bound=_Message)


class ExampleRequest(_Message):
    """Save the video of `stream` between two wall-clock times, in seconds since 1970.

    The film goes to the folder of `label` in the examples of `project`. Without a project, it is kept as an example
    without a label; `top` and `margin` then hold the prediction that was not certain. `area` is the part of the picture
    that the film is about, as keys of `streamclf.config.picture_area_keys.PictureAreaKeys`.
    """

    stream: StreamName
    begin: Annotated[float, Field(ge=0, le=1e11)]
    end: Annotated[float, Field(ge=0, le=1e11)]
    project: ProjectName | None = None
    label: Label | None = None
    region: StreamName | None = None
    area: dict[str, Any] | None = None
    model_name: Annotated[str, Field(max_length=256)] | None = None
    top: Annotated[tuple[tuple[Label, Probability], ...], Field(max_length=8)] = ()
    margin: Probability | None = None

    @model_validator(mode="after")
    def _check(self) -> ExampleRequest:
        if (self.project is None) != (self.label is None):
            raise ValueError("project and label go together")
        seconds = self.end - self.begin
        if not MIN_STRETCH_S <= seconds <= MAX_STRETCH_S:
            raise ValueError(f"a stretch of {seconds:.1f} s: {MIN_STRETCH_S:g} to {MAX_STRETCH_S:g} s")
        if self.area is not None and len(json.dumps(self.area)) > MAX_AREA_CHARS:
            raise ValueError(f"area: more than {MAX_AREA_CHARS} characters")
        return self


class ExampleResult(_Message):
    """The film that was saved, as a path relative to the folder of the examples; or the reason why there is none."""

    file: Annotated[str, Field(max_length=1024)] | None = None
    seconds: float = 0.0
    bytes: int = 0
    error: Annotated[str, Field(max_length=1000)] | None = None


def parse_example_request(payload: bytes) -> ExampleRequest:
    """Read a request from its JSON. Raises `EventError`."""
    return _parse(ExampleRequest, payload)


def parse_example_result(payload: bytes) -> ExampleResult:
    """Read a result from its JSON. Raises `EventError`."""
    return _parse(ExampleResult, payload)


def _parse(kind: type[_MessageT], payload: bytes) -> _MessageT:
    if len(payload) > MAX_REQUEST_BYTES:
        raise EventError(f"{len(payload)} bytes: at most {MAX_REQUEST_BYTES}")
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part)[:64] for part in first["loc"][:4])
        message = first["msg"].removeprefix("Value error, ")[:300]
        raise EventError(f"{place}: {message}" if place else message) from None
