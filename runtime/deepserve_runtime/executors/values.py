"""The messages of model requests as values: MessagePack in, MessagePack out."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from deepserve.protocol.messages import Value
from deepserve_runtime import sdk

T = TypeVar("T")


def convert(given: Any, kind: type[T]) -> T:
    """A decoded MessagePack value as one of the model messages. Raises ModelError."""
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        raise sdk.errors.ModelError(f"not a {kind.__name__}: {error}") from None


def encode(message: msgspec.Struct | bytes) -> tuple[Value, bytes]:
    data = msgspec.msgpack.encode(message)
    return Value("msgpack", len(data)), data
