"""Keep the requests that a receiver has refused for good."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

import orjson

from streamclf.errors import JournalError
from streamclf.net.http_target import Target
from streamclf.runtime.durable_files import append
from streamclf.subscribers.webhook.http_post import Answer

MAX_DEAD_LETTER_BYTES: Final = 64 << 20


@dataclass(frozen=True, slots=True)
class RequestContent:
    """The body of one request, and the key by which a receiver recognises a repetition."""

    key: str
    body: bytes
    kept: bytes
    """The body without pictures, as it is kept if the receiver refuses it."""


class DeadLetters:
    """A dead letter queue: the requests that the receiver refused, with the reason, as one JSON object a line.

    A refused request is on disk before the position after it is stored.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, target: Target, content: RequestContent, answer: Answer) -> None:
        """Append a refused request. Raises `JournalError` if the disk is full or the file holds 64 MiB.

        The next start of the command then sends the request again.
        """
        line = orjson.dumps(
            {
                "time": datetime.now(timezone.utc),
                "receiver": str(target),
                "status": answer.status,
                "reason": answer.reason,
                **({} if answer.location is None else {"location": answer.location}),
                "key": content.key,
                "body": orjson.Fragment(content.kept),
            }
        )
        try:
            fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            with open(fd, "ab", buffering=0) as file:  # noqa: PTH123 - a descriptor
                if file.tell() + len(line) > MAX_DEAD_LETTER_BYTES:
                    raise JournalError(
                        f"{self.path}: holds {MAX_DEAD_LETTER_BYTES >> 20} MiB of refused events; "
                        "repair the receiver, move this file away, and start this command again"
                    )
                append(file.fileno(), line + b"\n")
        except OSError as error:
            raise JournalError(
                f"{self.path}: {error.strerror}; nothing is lost: free space, and start this command again"
            ) from error
