"""What all events are, and what several of them carry."""

from __future__ import annotations

import msgspec

from deepserve.protocol.messages import Value


class Payload(msgspec.Struct, frozen=True):
    """A user value on its way through: described by `value`, never looked into."""

    value: Value = Value()
    data: bytes = b""


NO_PAYLOAD = Payload()


class Event(msgspec.Struct, frozen=True):
    """Base of all events; named in the past tense."""
