"""Values that travel through a folder of shared memory, none of their bytes beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepserve._values import decode_value, encode_value
from deepserve.protocol.messages import Value


def encode(obj: Any, folder: Path) -> Value:
    value, data = encode_value(obj, segments=str(folder))
    assert value.segment and data == b""
    return value


def take(value: Value, folder: Path) -> Any:
    return decode_value(value, b"", segments=str(folder), unlink=True)
