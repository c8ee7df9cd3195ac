"""Run a real Mosquitto broker, and collect everything that is published to it."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from support.ports import free_port

DEADLINE_S = 60.0
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
PROGRAM = shutil.which("mosquitto") or next((f"{p}/mosquitto" for p in _PLACES if Path(p, "mosquitto").exists()), None)


class Mosquitto:
    """A broker on a free port of this machine, and a subscriber to all its topics."""

    def __init__(self, *settings: str) -> None:
        """Prepare a broker with these lines of `mosquitto.conf`, which allows every client."""
        assert PROGRAM
        self.port = free_port()
        lines = (f"listener {self.port} 127.0.0.1", "allow_anonymous true", *settings)
        self._file = tempfile.NamedTemporaryFile("w", suffix=".conf")  # noqa: SIM115 - closed with the broker
        self._file.write("\n".join(lines))
        self._file.flush()
        self._process = subprocess.Popen([PROGRAM, "-c", self._file.name], stderr=subprocess.DEVNULL)
        self._changed = threading.Condition()
        self._messages: list[tuple[str, str]] = []
        self._subscribed = threading.Event()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def __enter__(self) -> Mosquitto:
        from paho.mqtt import client as mqtt

        deadline = time.monotonic() + DEADLINE_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id="collector")
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._keep
        self._client.connect("127.0.0.1", self.port)
        self._client.loop_start()
        assert self._subscribed.wait(DEADLINE_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        self._process.kill()
        self._process.wait(DEADLINE_S)
        self._file.close()

    def on(self, topic: str) -> list[str]:
        """Return the payloads of all messages on `topic`, in order."""
        with self._changed:
            return [payload for each, payload in self._messages if each == topic]

    def _keep(self, client: Any, userdata: Any, message: Any) -> None:
        with self._changed:
            self._messages.append((message.topic, message.payload.decode(errors="replace")))
