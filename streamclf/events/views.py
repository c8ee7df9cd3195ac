"""Name the views of a stream: a region of its picture, as one model classifies it (docs/protocol.md).

A stream with one unnamed model and without regions has one view, whose region and model are both None.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Final, NamedTuple, Protocol, TypeAlias

from pydantic import ConfigDict, Field

from streamclf.net.names import STREAM_NAME_PATTERN

MAX_LABEL_CHARS: Final = 256
"""As in a bundle (`engines.bundle`)."""
MAX_LISTED_ACTIONS: Final = 64
"""Labels that a status lists, of the stream and of each view."""
MAX_VIEWS: Final = 64
"""Views that a status lists. A consumer may keep a state for each view, so it ignores further ones."""
SEPARATOR: Final = " · "
"""The separator of names for people, which no name of a stream, a region or a model holds."""

RegionName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]
ModelName = Annotated[str, Field(pattern=STREAM_NAME_PATTERN)]
Label = Annotated[str, Field(min_length=1, max_length=MAX_LABEL_CHARS)]
Share = Annotated[float, Field(ge=0, le=1)]
Area: TypeAlias = tuple[Share, Share, Share, Share]
"""A rectangle (left, top, right, bottom) in shares of a picture's width and height."""


class ViewKey(NamedTuple):
    """The identity of a view within its stream; None means the whole picture, or the model without a name."""

    region: str | None = None
    model_name: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names that are set: of the region, then of the model."""
        return tuple(name for name in self if name is not None)

    @property
    def sort_key(self) -> tuple[str, str]:
        """The key by which views are ordered: first the whole picture, then the regions by name."""
        return self.region or "", self.model_name or ""


UNNAMED: Final = ViewKey()
"""The only view of a stream without regions, models and names."""


class ActionKey(NamedTuple):
    """The identity of a kind of action within its stream; `started_s` distinguishes the actions of one kind."""

    region: str | None
    model_name: str | None
    label: str

    @property
    def view(self) -> ViewKey:
        """The view in which the action happens."""
        return ViewKey(self.region, self.model_name)

    @property
    def sort_key(self) -> tuple[str, str, str]:
        """The key by which actions are ordered: by view, then by label."""
        return *self.view.sort_key, self.label


class InView(Protocol):
    """An event that belongs to one view of its stream."""

    @property
    def region(self) -> str | None:
        """The name of the region; None for the whole picture."""
        ...

    @property
    def model_name(self) -> str | None:
        """The name of the model; None for the model without a name."""
        ...


class InViewWithLabel(InView, Protocol):
    """An event of one view that has one label."""

    @property
    def label(self) -> str:
        """The label of the action."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDescription:
    """One view of a stream, as the stream's status lists it.

    `area` is the region's rectangle (left, top, right, bottom) in shares of the stream's picture; None for the whole
    picture. `actions` lists the labels that the configuration reports as actions in this view.
    """

    __pydantic_config__ = ConfigDict(extra="ignore", allow_inf_nan=False)
    region: RegionName | None = None
    model_name: ModelName | None = None
    area: Area | None = None
    actions: Annotated[tuple[Label, ...], Field(max_length=MAX_LISTED_ACTIONS)] = ()

    @property
    def key(self) -> ViewKey:
        """The identity of the view."""
        return ViewKey(self.region, self.model_name)

    def to_json(self) -> dict[str, Any]:
        """Return the keys of this view in a status; those that are None are left out."""
        keys = {"region": self.region, "model_name": self.model_name, "area": self.area}
        return {**{key: value for key, value in keys.items() if value is not None}, "actions": self.actions}


def view_of(event: InView) -> ViewKey:
    """Return the view to which an event belongs."""
    return ViewKey(event.region, event.model_name)


def action_of(event: InViewWithLabel) -> ActionKey:
    """Return the identity of the kind of action that an event describes."""
    return ActionKey(event.region, event.model_name, event.label)


def view_keys(event: InView) -> dict[str, str]:
    """Return those of `region` and `model_name` that are set, for the JSON of another system.

    `event` may also be the key of a view or of an action.
    """
    keys = {"region": event.region, "model_name": event.model_name}
    return {key: value for key, value in keys.items() if value is not None}


def title(stream: str, view: ViewKey) -> str:
    """Return the name of a view for people, like `Front door · gate · hands`; `stream` is the stream's name."""
    return SEPARATOR.join((stream, *view.names))


def qualified(view: ViewKey, label: str) -> str:
    """Return a label with the names of its view before it, like `gate · hands · wave`."""
    return SEPARATOR.join((*view.names, label))
