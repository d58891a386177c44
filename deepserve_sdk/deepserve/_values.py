"""User values to payload bytes and back, with a size bound; the same code in scripts and in pods.

Layout of a `pickle` payload, little endian:

    4 bytes       number of out-of-band buffers
    8 bytes each  size of the pickle, then of every buffer
    pickle
    buffers       each at a multiple of 64 bytes from the payload's start
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from deepserve import _pickling
from deepserve._exceptions import decode_exception, encode_exception
from deepserve._pickling import EVERYTHING, PYTHON, CannotPickle, Pickled, Reach
from deepserve._segments import map_segment, write_segment
from deepserve.errors import (
    PythonVersionMismatch,
    SerializationError,
    UnpicklableArgument,
    ValueTooLarge,
)
from deepserve.protocol.framing import MAX_PAYLOAD_BYTES, Buffer
from deepserve.protocol.messages import Value
from deepserve.settings import current_settings

__all__ = ["NONE", "decode_exception", "decode_value", "encode_exception", "encode_value"]

INLINE_BYTES = 256 << 10
"""Larger values go into a segment where there is a folder for them."""

NONE = Value()
_COUNT = struct.Struct("<I")
_ALIGNMENT = 64


def encode_value(
    obj: Any,
    *,
    segments: str | Callable[[], str] = "",
    by_value_ok: bool = True,
    reach: Reach = EVERYTHING,
    error: type[SerializationError] = UnpicklableArgument,
) -> tuple[Value, bytes]:
    """Pickle `obj`; the bytes are empty where they went into a segment of the folder `segments`.

    segments: the folder, or how to learn it (asked for large values only); empty where there is none.
    by_value_ok: code without an importable name (lambdas, closures) may travel inside.
    reach: which of this process's own modules the reader can import; the rest travels by value.
    error: raised, naming the culprit, where `obj` cannot be pickled. Raises ValueTooLarge above the size limit.
    """
    try:
        pickled = _pickling.dump(obj, by_value_ok=by_value_ok, reach=reach)
    except CannotPickle as refusal:
        from deepserve._culprit import explain

        raise error(explain(obj, refusal)) from refusal.__cause__
    python = PYTHON if pickled.by_value else ""
    if not pickled.buffers and len(pickled.data) < INLINE_BYTES:
        data = _COUNT.pack(0) + len(pickled.data).to_bytes(8, "little") + pickled.data
        return Value("pickle", len(data), python), data
    parts = list(_parts(pickled))
    size_bytes = sum(len(part) for part in parts)
    if size_bytes > INLINE_BYTES and callable(segments):
        segments = segments()
    check_size(size_bytes, bool(segments))
    if size_bytes > INLINE_BYTES and segments:
        assert isinstance(segments, str)
        return Value("pickle", size_bytes, python, write_segment(segments, parts)), b""
    return Value("pickle", size_bytes, python), b"".join(parts)


def store_value(obj: Any, segments: str, owner: str) -> Value:
    """Pickle `obj` into a segment of its own, however small, which the controller removes when client `owner` left.

    Raises UnpicklableArgument, ValueTooLarge.
    """
    try:
        pickled = _pickling.dump(obj)
    except CannotPickle as refusal:
        from deepserve._culprit import explain

        raise UnpicklableArgument(explain(obj, refusal)) from refusal.__cause__
    parts = list(_parts(pickled))
    size_bytes = sum(len(part) for part in parts)
    check_size(size_bytes, True)
    python = PYTHON if pickled.by_value else ""
    return Value("pickle", size_bytes, python, write_segment(segments, parts, kind=f"r-{owner}"))


def decode_value(value: Value, payload: Buffer, *, segments: str | Callable[[], str] = "", unlink: bool = False) -> Any:
    """The object behind `value`. `segments`: folder of segments; `unlink`: remove the one that was read.

    Raises PythonVersionMismatch before a byte of another Python's code is loaded, and SerializationError where the
    bytes cannot be loaded (a class whose module does not exist here).
    """
    if value.format == "none":
        return None
    if value.format == "msgpack":
        return msgspec.msgpack.decode(payload)
    if value.format != "pickle":
        raise SerializationError(f"a value of format {value.format!r} where an object was expected")
    if value.python and value.python != PYTHON:
        raise PythonVersionMismatch(f"the value holds code of Python {value.python}, this is Python {PYTHON}")
    data = payload
    if value.segment:
        folder = segments() if callable(segments) else segments
        data = map_segment(folder, value.segment, value.size_bytes, unlink=unlink)
    try:
        return _load(data)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"the value cannot be loaded here: {type(error).__name__}: {error}") from error


def check_size(size_bytes: int, may_use_segment: bool) -> None:
    """Raises ValueTooLarge."""
    limit_bytes = current_settings().max_value_bytes
    if not may_use_segment:
        limit_bytes = min(limit_bytes, MAX_PAYLOAD_BYTES)
    if size_bytes > limit_bytes:
        raise ValueTooLarge(
            f"the value has {size_bytes:,} bytes; the limit is {limit_bytes:,} (DEEPSERVE_MAX_VALUE_BYTES)"
        )


def _parts(pickled: Pickled) -> Iterator[Buffer]:
    """The payload piece by piece, so that buffers are copied once only."""
    buffers = [buffer.raw() for buffer in pickled.buffers]
    sizes = [len(pickled.data), *(len(buffer) for buffer in buffers)]
    head = _COUNT.pack(len(buffers)) + struct.pack(f"<{len(sizes)}Q", *sizes)
    at = len(head) + len(pickled.data)
    yield head
    yield pickled.data
    for buffer in buffers:
        padding = -at % _ALIGNMENT
        if padding:
            yield bytes(padding)
        yield buffer
        at += padding + len(buffer)


def _load(data: Buffer) -> Any:
    (count,) = _COUNT.unpack_from(data)
    if count == 0:
        return pickle.loads(memoryview(data)[12:])
    if isinstance(data, bytes):
        data = bytearray(data)  # arrays made over the buffers must be writable
    view = memoryview(data)
    sizes = struct.unpack_from(f"<{count + 1}Q", view, _COUNT.size)
    at = _COUNT.size + 8 * len(sizes)
    pickled = view[at : at + sizes[0]]
    at += sizes[0]
    buffers = []
    for size_bytes in sizes[1:]:
        at += -at % _ALIGNMENT
        buffers.append(view[at : at + size_bytes])
        at += size_bytes
    return pickle.loads(pickled, buffers=buffers)
