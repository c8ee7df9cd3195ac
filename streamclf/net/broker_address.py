"""Parse the address of an MQTT broker; user and password may come from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from streamclf.errors import UsageError
from streamclf.net.urls import UrlError, split_url
from streamclf.redact import register_secret

USER_VARIABLE: Final = "STREAMCLF_MQTT_USER"
PASSWORD_VARIABLE: Final = "STREAMCLF_MQTT_PASSWORD"  # noqa: S105 - a name


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerAddress:
    """The address of a broker, and the user to sign in as."""

    host: str
    port: int
    tls: bool
    user: str | None
    password: str | None = field(repr=False)

    def __str__(self) -> str:
        return f"mqtt{'s' if self.tls else ''}://{self.host}:{self.port}"


def parse_broker(url: str, environ: Mapping[str, str]) -> BrokerAddress:
    """Parse the URL of a broker. User and password may come from the environment instead.

    The password is masked in all output from now on. Raises `UsageError`, which shows no part of the URL.
    """
    example = "mqtt://host[:port] or mqtts://host[:port]"
    remedy = f"give {example}, and the password as {PASSWORD_VARIABLE}"
    if url.partition(":")[0].lower() not in ("mqtt", "mqtts"):
        raise UsageError(f"the broker's URL: the scheme is not mqtt or mqtts; {remedy}")
    try:
        parts = split_url(url, example=example)
    except UrlError as error:
        raise UsageError(f"the broker's URL: {error}; or give the password as {PASSWORD_VARIABLE}") from None
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise UsageError(f"the broker's URL: holds more than host and port; {remedy}, and the topic as --prefix")
    user = unquote(parts.username) if parts.username else environ.get(USER_VARIABLE)
    password = unquote(parts.password) if parts.password else environ.get(PASSWORD_VARIABLE)
    if password:
        register_secret(password)
        if not user:
            raise UsageError(f"a password without a user; set {USER_VARIABLE} as well")
    tls = parts.scheme == "mqtts"
    return BrokerAddress(
        host=parts.hostname or "", port=parts.port or (8883 if tls else 1883), tls=tls, user=user, password=password
    )
