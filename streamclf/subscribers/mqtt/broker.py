"""Publish to an MQTT broker through paho-mqtt, and wait for its confirmations.

The connection uses MQTT 5, because its last will can wait: a connection that is back within 10 s leaves the service
online. A broker that knows only MQTT 3.1.1 gets that; its last will is published at once.
"""

from __future__ import annotations

import hashlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from logging import WARNING
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamclf.errors import BusError, UsageError
from streamclf.net.broker_address import PASSWORD_VARIABLE, USER_VARIABLE, BrokerAddress
from streamclf.runtime.stop_request import StopRequest
from streamclf.subscribers.mqtt.message import MqttMessage
from streamclf.subscribers.outlet_report import OutletReport

if TYPE_CHECKING:
    from paho.mqtt.client import Client

_MAX_PENDING = 200
"""Messages given to the library at once, which limits its queue."""
_KEEPALIVE_S = 15
_RECONNECT_S = (1, 60)
"""The first pause before the library connects again, and the longest after it has doubled."""
_CONFIRM_S = 30.0
"""A broker that confirms no message for this long gets a new connection."""
_CONNECT_S = 10.0
_CLOSE_S = 2.0
WILL_DELAY_S = 10
"""MQTT 5: the broker publishes the last will when the connection has been lost for this long."""
_SESSION_S = 60
"""MQTT 5: the broker keeps the session, and with it the waiting last will, for this long."""
_FIRST_PENDING = 1
"""MQTT 5: messages given to the library before the broker has said how many it accepts at once."""
_MAX_ANSWER_BYTES = 4096
"""MQTT 5: the largest packet that the broker may send; `BoundedClient` enforces it."""
_UNSUPPORTED = "Unsupported protocol version"
_MAX_CUT_OFF = 3
"""A broker that has closed so many connections without an answer may not know MQTT 5."""
_POLL_S = 0.1


def client_id(prefix: str, position: Path) -> str:
    """Make a client id that is the same after a restart.

    The new connection then continues the old session. With MQTT 3.1.1 the broker ends the old session, and publishes
    its last will, before the new one begins.
    """
    name = f"{socket.gethostname()}\0{position.absolute()}\0{prefix}"
    return f"sclf-{hashlib.sha256(name.encode()).hexdigest()[:16]}"  # MQTT 3.1.1 guarantees 23 characters


class Broker:
    """Keep a connection to a broker. The library connects again with backoff; `publish` waits for confirmations."""

    _client: Client

    def __init__(self, address: BrokerAddress, client_id: str, will: MqttMessage, report: OutletReport) -> None:
        self._address, self._client_id, self._will, self._report = address, client_id, will, report
        self._changed = threading.Condition()
        # The library's thread writes these while it holds the condition.
        self._confirmed: set[int] = set()
        self._is_connected = False
        self._connections = 0
        self._refusal: str | None = None
        self._is_unreachable = False
        self._uses_5 = True
        self._pending = _FIRST_PENDING
        """Messages that the broker accepts before it has confirmed them."""
        self._cut_off = 0
        """Connections in a row that the broker has closed without an answer."""
        self._needs_311 = False
        self._rejections: set[str] = set()

        self._seen_connections = 0
        self._open()

    def close(self, last: MqttMessage) -> None:
        """Publish `last` if the broker is connected, and disconnect."""
        if self._is_connected:
            self._wait_for(self._send([last]), _CLOSE_S)
        self._disconnect()

    def has_reconnected(self) -> bool:
        """Return whether a new connection has been made since the last call."""
        with self._changed:
            seen, self._seen_connections = self._seen_connections, self._connections
            return seen != self._connections

    @property
    def is_connected(self) -> bool:
        """Whether the broker is connected and can confirm messages."""
        return self._is_connected

    def check(self) -> None:
        """Connect with MQTT 3.1.1 if the broker does not know MQTT 5.

        Raise `BusError` if the broker has refused every connection so far: another attempt would not help.
        """
        if self._needs_311:
            self._disconnect()
            self._uses_5, self._needs_311, self._pending = False, False, _MAX_PENDING
            self._open()
        with self._changed:
            if self._refusal and not self._connections:
                raise BusError(
                    f"{self._address}: {self._refusal}; set {USER_VARIABLE} and {PASSWORD_VARIABLE}, "
                    "and allow this user to publish in the broker's configuration"
                )

    def publish(self, messages: Iterable[MqttMessage], stop: StopRequest) -> bool:
        """Publish `messages` in order; while the broker cannot be reached, wait without limit.

        Return True once the broker has confirmed all; False if `stop` was set before that.
        """
        waiting = iter(messages)
        while batch := list(islice(waiting, self._pending)):
            while not self._publish_batch(batch, stop):
                if stop.is_set or (stop.is_requested and not self._is_connected):
                    return False
                notice = f"{self._address}: no confirmation for {_CONFIRM_S:.0f} s"
                self._report.waiting(notice)
                self._report.notice(f"{notice}; connecting again", WARNING)
                self._disconnect()
                self._open()
        return True

    def _publish_batch(self, batch: Sequence[MqttMessage], stop: StopRequest) -> bool:
        """Return False if `stop` is set, or if a connected broker has not confirmed the batch within 30 s."""
        client, pending = self._client, self._send(batch)
        deadline_s = time.monotonic() + _CONFIRM_S
        while not self._wait_for(pending, _POLL_S):
            self.check()
            if self._client is not client:
                client, pending = self._client, self._send(batch)
            if not self._is_connected:
                if stop.is_requested:
                    return False
                deadline_s = time.monotonic() + _CONFIRM_S
            if stop.is_set or time.monotonic() > deadline_s:
                return False
        return True

    def _send(self, messages: Sequence[MqttMessage]) -> set[int]:
        with self._changed:
            self._confirmed.clear()
        # On a new connection, the library sends all unconfirmed messages again, in this order.
        return {self._client.publish(m.topic, m.payload, qos=1, retain=m.retain).mid for m in messages}

    def _wait_for(self, pending: set[int], timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: pending <= self._confirmed, timeout_s)

    def _open(self) -> None:
        mqtt = import_paho()
        from streamclf.subscribers.mqtt.bounded_client import BoundedClient

        version = mqtt.MQTTv5 if self._uses_5 else mqtt.MQTTv311
        client = BoundedClient(mqtt.CallbackAPIVersion.VERSION2, client_id=self._client_id, protocol=version)
        if self._address.user:
            client.username_pw_set(self._address.user, self._address.password)
        if self._address.tls:
            client.tls_set_context(ssl.create_default_context())
        will, connection = _properties() if self._uses_5 else (None, {})
        client.will_set(self._will.topic, self._will.payload, qos=1, retain=True, properties=will)
        client.max_queued_messages_set(2 * _MAX_PENDING)
        client.max_inflight_messages_set(_MAX_PENDING)
        client.reconnect_delay_set(*_RECONNECT_S)
        client.connect_timeout = _CONNECT_S
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.connect_async(self._address.host, self._address.port, keepalive=_KEEPALIVE_S, **connection)
        with self._changed:
            self._client, self._is_connected = client, False
        client.loop_start()

    def _disconnect(self) -> None:
        client = self._client
        client.disconnect()
        # The library joins its thread without a deadline, and that thread may hang in a dead connection.
        stopper = threading.Thread(target=client.loop_stop, name="mqtt-stop", daemon=True)
        stopper.start()
        stopper.join(_CLOSE_S)

    def _on_connect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            if client is not self._client:
                return
            self._cut_off = 0
            if self._uses_5 and str(reason) == _UNSUPPORTED:
                self._needs_311 = True
                return
            if self._uses_5 and not reason.is_failure:
                self._pending = min(_MAX_PENDING, getattr(properties, "ReceiveMaximum", _MAX_PENDING))
            previous, self._refusal = self._refusal, str(reason) if reason.is_failure else None
            self._is_connected = not reason.is_failure
            self._is_unreachable = False
            self._connections += self._is_connected
            self._changed.notify_all()
        if not reason.is_failure:
            self._report.running()
            self._report.notice(f"connected to {self._address}")
        else:
            self._report.waiting(f"{self._address}: {reason}")
            if previous is None:
                self._report.notice(f"{self._address}: {reason}; trying again", WARNING)

    def _on_connect_fail(self, client: Client, userdata: Any) -> None:
        if not self._is_unreachable:
            self._is_unreachable = True
            fault = f"{self._address}: {self._fault()}"
            self._report.waiting(fault)
            self._report.notice(f"{fault}; trying again with growing intervals; nothing is lost", WARNING)

    def _on_disconnect(self, client: Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            if client is not self._client:
                return
            was_connected, self._is_connected = self._is_connected, False
            if self._uses_5 and not self._connections and self._refusal is None:
                self._cut_off += 1
                self._needs_311 = self._needs_311 or self._cut_off >= _MAX_CUT_OFF
        if was_connected and reason.is_failure:
            self._report.waiting(f"{self._address}: connection lost")
            self._report.notice(f"{self._address}: connection lost; connecting again; nothing is lost", WARNING)

    def _on_publish(self, client: Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._changed:
            if client is self._client:
                self._confirmed.add(mid)
                self._changed.notify_all()
        if reason.is_failure and str(reason) not in self._rejections:  # MQTT 5 only
            self._rejections.add(str(reason))
            self._report.notice(
                f"{self._address}: rejects messages ({reason}); check what this user may publish", WARNING
            )

    def _fault(self) -> str:
        """Connect once more to learn why it failed, since the library does not report the reason."""
        try:
            with socket.create_connection((self._address.host, self._address.port), _CONNECT_S) as plain:
                if self._address.tls:
                    with ssl.create_default_context().wrap_socket(plain, server_hostname=self._address.host):
                        pass
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        return "no connection"


def _properties() -> tuple[Any, dict[str, Any]]:
    """Return the properties of the last will, and the arguments of a connection that continues its session."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    make: Any = Properties  # the library declares no types for it
    will = make(PacketTypes.WILLMESSAGE)
    will.WillDelayInterval = WILL_DELAY_S
    connection = make(PacketTypes.CONNECT)
    connection.SessionExpiryInterval = _SESSION_S
    connection.MaximumPacketSize = _MAX_ANSWER_BYTES
    return will, {"clean_start": False, "properties": connection}


def import_paho() -> Any:
    """Import `paho.mqtt.client`. Raises `UsageError` that names the extra to install."""
    try:
        from paho.mqtt import client
    except ImportError as error:
        raise UsageError("MQTT needs paho-mqtt; install it: pip install 'paho-mqtt>=2,<3'") from error
    return client
