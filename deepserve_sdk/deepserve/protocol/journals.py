"""Journals on their way: behind the payload, for they grow with an answer, and headers are bounded."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from deepserve.protocol.framing import Buffer
from deepserve.protocol.pod_messages import AssignTask, PrepareTask, TaskOutputs

M = TypeVar("M", AssignTask, PrepareTask, TaskOutputs)


def packed(message: M, payload: Buffer) -> tuple[M, Buffer]:
    """As they are sent."""
    if not message.journal:
        return message, payload
    behind = msgspec.structs.replace(message, journal=b"", journal_bytes=len(message.journal))
    return behind, b"".join((payload, message.journal))


def unpacked(message: M, payload: bytes) -> tuple[M, bytes]:
    """As they were before they were packed."""
    if not message.journal_bytes:
        return message, payload
    at = max(0, len(payload) - message.journal_bytes)
    whole = msgspec.structs.replace(message, journal=bytes(payload[at:]), journal_bytes=0)
    return whole, payload[:at]
