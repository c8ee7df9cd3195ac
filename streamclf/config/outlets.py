"""Define the outlets of a configuration: which ones there are, one or several of each kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from streamclf.config.outlet_options import LogConfig, MetricsConfig, MqttConfig, OutletConfig, WebConfig, WebhookConfig
from streamclf.config.picture_keys import PictureKeys
from streamclf.config.section import Section
from streamclf.errors import UsageError, plain_fault

MAX_OUTLETS: Final = 8
"""Largest number of outlets of one kind."""

SectionT = TypeVar("SectionT", bound=Section)


def _one_or_several(value: object) -> str:
    return SEVERAL if isinstance(value, list | tuple) else ONE


ONE: Final = "[one]"
SEVERAL: Final = "[several]"
"""Names of the two forms in pydantic's error locations."""
OneOrSeveral: TypeAlias = Annotated[
    Annotated[SectionT, Tag(ONE)] | Annotated[tuple[SectionT, ...], Field(max_length=MAX_OUTLETS), Tag(SEVERAL)],
    Discriminator(_one_or_several),
]


class OutletsConfig(Section):
    """The systems that the service hands its events to. A list gives several of a kind, each with a `name`."""

    log: OneOrSeveral[LogConfig] | None = Field(None, description="Files that hold events.")
    mqtt: OneOrSeveral[MqttConfig] | None = Field(None, description="MQTT brokers, and Home Assistant.")
    webhook: OneOrSeveral[WebhookConfig] | None = Field(None, description="Web addresses that events are posted to.")
    metrics: MetricsConfig | None = Field(None, description="Prometheus metrics and a health check.")
    web: WebConfig | None = Field(None, description="The page, for browsers.")

    @model_validator(mode="before")
    @classmethod
    def _fill_empty(cls, values: Any) -> Any:
        """Take `metrics:` or `web:` without keys for an outlet with its defaults."""
        if isinstance(values, Mapping):
            return {key: {} if value is None else value for key, value in values.items()}
        return values

    @model_validator(mode="after")
    def _check_names(self) -> OutletsConfig:
        names = [each.full_name for each in self.all]
        for name in names:
            if names.count(name) > 1:
                kind, _, own = name.partition("-")
                raise ValueError(f"{kind}: two have {f'the name {own}' if own else 'no name'}; give each a `name`")
        return self

    @property
    def all(self) -> list[OutletConfig]:
        """Every outlet, in the order of their kinds."""
        found: list[OutletConfig] = []
        for kind in OUTLETS:
            value = getattr(self, kind)
            if value is not None:
                found += [*value] if isinstance(value, tuple) else [value]
        return found

    def with_absolute_paths(self, base: Path) -> OutletsConfig:
        """Return a copy whose relative paths are relative to `base`."""

        def absolute(config: OutletConfig) -> OutletConfig:
            given = {key: path for key in config.PATHS if (path := getattr(config, key)) is not None}
            return config.model_copy(update={key: base / path for key, path in given.items()})

        changed = {
            kind: tuple(map(absolute, value)) if isinstance(value, tuple) else absolute(value)
            for kind in OUTLETS
            if (value := getattr(self, kind)) is not None
        }
        return self.model_copy(update=changed)

    def with_service_paths(self, *, config: Path, clips: Path | None) -> OutletsConfig:
        """Return a copy whose page knows the service's configuration file and the folder of its clips.

        The outlets that send pictures know this folder too, and the token of the page, for links to it.
        """
        web = self.web and self.web.model_copy(
            update={"config": self.web.config or config, "clips": self.web.clips or clips}
        )

        def complete(own: OutletConfig) -> OutletConfig:
            if not isinstance(own, PictureKeys):
                return own
            known: dict[str, object] = {"clips": own.clips or clips}
            if web is not None and own.link is not None and own.link_token is None and own.link_token_file is None:
                known |= {"link_token": web.token, "link_token_file": web.token_file}
            return own.model_copy(update=known)

        changed = {
            kind: tuple(map(complete, value)) if isinstance(value, tuple) else complete(value)
            for kind in ("mqtt", "webhook")
            if (value := getattr(self, kind)) is not None
        }
        return self.model_copy(update={"web": web, **changed})


OUTLETS: Final[dict[str, type[OutletConfig]]] = {
    each.KIND: each for each in (LogConfig, MqttConfig, WebhookConfig, MetricsConfig, WebConfig)
}


def outlet_options(section: type[SectionT], **values: object) -> SectionT:
    """Make the options of an outlet from those of its command; None means the default. Raises `UsageError`."""
    try:
        return section.model_validate({key: value for key, value in values.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = plain_fault(first["msg"])
        raise UsageError(f"{place}: {message}" if place else message) from None
