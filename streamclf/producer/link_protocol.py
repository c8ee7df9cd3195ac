"""Define the messages between a producer and the hub.

Each message is a few ZeroMQ frames; numbers are little endian:

    producer -> hub   hello    instance(16) name dropped-totals-JSON           every second
                      drafts   instance(16) name after(u64) JSON [[seq, type, stream, captured_ns, body], ...]
                      preview  stream JPEG                                     on a second socket
                      saved    id result-JSON                                  answers save, not sent again
    hub -> producer   ack      seq(u64)                after the commit
                      again    seq(u64)                drafts before these are missing: resend all after seq
                      action   start(u64) event JSON     to capture-STREAM: an action's event that was committed
                      save     id request-JSON           to capture-STREAM: save a stretch as an example
                      wanted   hub-run(16) JSON [stream, ...]                  answers hello, and on every change

`after` is the sequence number before the first draft of a message. The hub accepts a message only if it has everything
up to `after`. So it never skips a draft that was lost on an earlier connection.

`start` is the offset of the action's start event, 0 if the hub does not know it. This message is not sent again.
"""

from __future__ import annotations

import struct
from typing import Final

from streamclf.events.kinds import MAX_EVENT_BYTES

MAX_LINK_MESSAGE_BYTES: Final = 1 << 20
MAX_DRAFT_BYTES: Final = MAX_EVENT_BYTES - 1024  # the hub adds its envelope
MAX_NAME_BYTES: Final = 128
INSTANCE_BYTES: Final = 16
HELLO_S: Final = 1.0
CAPTURE_PREFIX: Final = "capture-"
"""The name of the producer that reads a stream is this and the stream's name."""
U64: Final = struct.Struct("<Q")
