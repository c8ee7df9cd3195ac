"""Define the bodies of /api/teach."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from streamclf.events.example_request import MAX_STRETCH_S, MIN_STRETCH_S, PROJECT_PATTERN
from streamclf.events.types import StreamName
from streamclf.events.views import Label
from streamclf.subscribers.web.teach.training import Training
from streamclf.teach.limits import GOOD_CLIPS, MIN_CLIPS

File = Annotated[str, Field(min_length=1, max_length=1024)]
VersionName = Annotated[str, Field(pattern=PROJECT_PATTERN)]


class TeachStream(BaseModel):
    """A stream that can be taught, with its regions, and the models of each region; "" is the whole picture."""

    stream: str
    name: str | None
    models: dict[str, list[str]]
    regions: dict[str, tuple[float, float, float, float]] = Field(
        {}, description="Left, top, right and bottom of each named region, in shares of the picture."
    )


class TrainingState(BaseModel):
    """The training that goes on, or the last one."""

    project: str
    version: str
    outcome: str
    share: float
    stage: str
    film: str | None
    left_s: float | None
    error: str | None
    seconds: float
    notes: list[str]

    @classmethod
    def of(cls, training: Training) -> TrainingState:
        """Describe a training."""
        shown = {key: getattr(training, key) for key in cls.model_fields if key != "notes"}
        return cls(**shown, notes=list(training.notes)[-20:])


class TeachState(BaseModel):
    """The streams and models that can be taught, and the training that goes on."""

    available: bool
    reason: str | None = None
    missing: str | None = Field(None, description="Why this page cannot train: libraries that are not installed.")
    can_enable: bool = Field(False, description="Whether POST /api/teach/enable makes it available.")
    now: float = Field(description="The time on the service's machine, in seconds since 1970.")
    last_s: float = 0.0
    enough: int = MIN_CLIPS
    good: int = GOOD_CLIPS
    min_s: float = MIN_STRETCH_S
    max_s: float = MAX_STRETCH_S
    uncertain: int = Field(0, description="Least certain moments that are kept each day.")
    unlabelled: int = 0
    streams: list[TeachStream] = []
    projects: list[str] = []
    training: TrainingState | None = None


class ExampleEntry(BaseModel):
    """One example film."""

    file: str
    label: str | None
    stream: str | None
    region: str | None
    seconds: float
    bytes: int
    began: float
    top: list[tuple[str, float]] = Field([], description="The prediction that was not certain.")
    plays: bool = Field(description="Whether browsers can play it.")


class LabelEntry(BaseModel):
    """The examples of one label."""

    label: str
    count: int
    seconds: float


class ModelVersion(BaseModel):
    """One model that was taught."""

    name: str
    made: float
    is_live: bool
    views: list[tuple[str, str | None]]
    has_report: bool
    result: dict[str, Any] | None


class ProjectState(BaseModel):
    """The examples and the models of one name."""

    project: str
    labels: list[LabelEntry]
    examples: list[ExampleEntry]
    advice: list[str]
    can_train: bool
    undo: str | None
    versions: list[ModelVersion]


class ModelPrediction(BaseModel):
    """The last prediction of one model."""

    model: str = Field(description="Name of the model; `model` for the one of the top-level key.")
    top: list[tuple[str, float]]


class NewLabel(BaseModel):
    """A label to add."""

    label: Label


class Stretch(BaseModel):
    """A stretch of a stream, in seconds since 1970."""

    stream: StreamName
    region: StreamName | None = None
    label: Label
    begin: float = Field(ge=0, le=1e11)
    end: float = Field(ge=0, le=1e11)


class Saved(BaseModel):
    """An example that was saved."""

    file: str
    seconds: float


class Labelled(BaseModel):
    """An example, or a clip of an event, and the label that it gets."""

    file: File
    label: Label
    region: StreamName | None = Field(None, description="Of a clip: the region of the stream that it is about.")


class OneFile(BaseModel):
    """An example."""

    file: File


class OneVersion(BaseModel):
    """A version of a model."""

    version: VersionName


class LiveChoice(BaseModel):
    """A version of a model, and the view on which it goes live."""

    version: VersionName
    stream: StreamName
    region: StreamName | None = None


class Change(BaseModel):
    """A change of the configuration's file that was written."""

    description: str
    difference: str
    saved: str = Field(description="The save of the file; /api/settings/result tells how the service received it.")
