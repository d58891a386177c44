"""User values to payload bytes and back, with a size bound; the same code in scripts and in pods.

A payload of format `pickle` that begins with the byte 0x80 is a pickle and nothing more. One with out-of-band buffers
has a table before it, little endian:

    4 bytes       1: some buffers are writable; 2: none is
    4 bytes       number of buffers
    8 bytes each  size of the pickle, then of every buffer
    pickle
    buffers       each at a multiple of 64 bytes from the payload's start
"""

from __future__ import annotations

import errno
import os
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec

from deepserve import _pickling
from deepserve._exceptions import decode_exception, encode_exception
from deepserve._pickling import EVERYTHING, PIECE_BYTES, PYTHON, CannotPickle, Pickled, Reach
from deepserve._ref_holds import carried, take_carried
from deepserve._segments import distant, segment_content
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

INLINE_BYTES = 128 << 10
"""Larger values go into a segment where there is a folder for them. (As dear at 64 KiB, half as dear at 256.)"""
DISTANT_INLINE_BYTES = 1 << 20
"""The same for a controller on another host, where a segment costs one more round trip."""

NONE = Value()
_HEAD = struct.Struct("<II")
_WRITABLE, _READ_ONLY, _PICKLE = 1, 2, 0x80
_PLAIN = bytes((_PICKLE,))
"""Without buffers: whatever is made of it has copies."""
_ALIGNMENT = 64
_SCALARS = frozenset((int, float, bool, type(None)))
"""No code can be inside of these, nor of short texts: there is nothing to look for."""
_SHORT = 4096


def encode_value(
    obj: Any,
    *,
    segments: str | Callable[[], str] = "",
    by_value_ok: bool = True,
    reach: Reach = EVERYTHING,
    error: type[SerializationError] = UnpicklableArgument,
    is_large: bool = False,
) -> tuple[Value, bytes]:
    """Pickle `obj`; the bytes are empty where they went into a segment of the folder `segments`.

    segments: the folder, or how to learn it (asked for large values only); empty where there is none.
    by_value_ok: code without an importable name (lambdas, closures) may travel inside.
    reach: which of this process's own modules the reader can import; the rest travels by value.
    error: raised, naming the culprit, where `obj` cannot be pickled. Raises ValueTooLarge above the size limit, and
    where shared memory is full. is_large: there are large `bytes` or texts inside (only a hint).
    """
    carried.holds = None
    kind = type(obj)
    if kind in _SCALARS or ((kind is str or kind is bytes) and len(obj) <= _SHORT):
        plain = pickle.dumps(obj, 5)
        if len(plain) <= INLINE_BYTES:
            return Value("pickle", len(plain)), plain
    is_large = is_large or is_large_piece(obj)
    small = _pickling.dump_small(obj) if reach.modules and not is_large else None
    if type(small) is bytes:
        return Value("pickle", len(small), "", "", take_carried() if carried.holds is not None else ()), small
    try:
        if small is None:
            carried.holds = None
            small = _pickling.dump(obj, by_value_ok=by_value_ok, reach=reach, is_large=is_large)
        pickled = cast(Pickled, small)
    except CannotPickle as refusal:
        from deepserve._culprit import explain

        raise error(explain(obj, refusal)) from refusal.__cause__
    python = PYTHON if pickled.by_value else ""
    refs = take_carried() if carried.holds is not None else ()
    if not pickled.buffers and len(pickled.data) == 1 and len(pickled.data[0]) <= INLINE_BYTES:
        data = pickled.data[0]
        return Value("pickle", len(data), python, "", refs), data  # type: ignore[return-value]  # the pickler's own bytes
    parts, size_bytes = _layout(pickled)
    if size_bytes > INLINE_BYTES and callable(segments):
        segments = segments()
    check_size(size_bytes, bool(segments))
    inline_bytes = DISTANT_INLINE_BYTES if segments in distant else INLINE_BYTES
    if size_bytes > inline_bytes and segments:
        assert isinstance(segments, str)
        return Value("pickle", size_bytes, python, write_segment(segments, parts, size_bytes), refs), b""
    return Value("pickle", size_bytes, python, "", refs), b"".join(parts)


def store_value(obj: Any, segments: str) -> Value:
    """Pickle `obj` into a segment of its own, however small, under the name of a stored value.

    Raises UnpicklableArgument, ValueTooLarge.
    """
    carried.holds = None
    try:
        pickled = _pickling.dump(obj, is_large=is_large_piece(obj))
    except CannotPickle as refusal:
        from deepserve._culprit import explain

        raise UnpicklableArgument(explain(obj, refusal)) from refusal.__cause__
    parts, size_bytes = _layout(pickled)
    check_size(size_bytes, True)
    python = PYTHON if pickled.by_value else ""
    return Value("pickle", size_bytes, python, write_segment(segments, parts, size_bytes, kind="r"), take_carried())


def is_large_piece(obj: Any) -> bool:
    """Whether `obj` is one of those that pickle would copy needlessly."""
    kind = type(obj)
    return (kind is bytes or kind is str or kind is bytearray) and len(obj) >= PIECE_BYTES


def may_need_segment(obj: Any) -> bool:
    """Whether `obj` could be too large for a frame, as far as its type tells."""
    kind = type(obj)
    return is_large_piece(obj) if kind is bytes or kind is str else kind not in _SCALARS


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
    if not value.segment:
        return _loaded(payload)
    folder = segments() if callable(segments) else segments
    with segment_content(folder, value.segment, value.size_bytes, unlink=unlink, only_copied=_PLAIN) as content:
        return _loaded(content)


def check_size(size_bytes: int, may_use_segment: bool) -> None:
    """Raises ValueTooLarge."""
    limit_bytes = current_settings().max_value_bytes
    if not may_use_segment:
        limit_bytes = min(limit_bytes, MAX_PAYLOAD_BYTES)
    if size_bytes > limit_bytes:
        raise ValueTooLarge(
            f"the value has {size_bytes:,} bytes; the limit is {limit_bytes:,} (DEEPSERVE_MAX_VALUE_BYTES)"
        )


def write_segment(folder: str, parts: list[Buffer], size_bytes: int, kind: str = "v") -> str:
    """The name, beginning with `kind`, of a segment that holds `parts`. Raises ValueTooLarge where there is no room."""
    if (elsewhere := distant.get(folder)) is not None:
        return elsewhere.write(parts, size_bytes, kind)
    from deepserve._arena import arena_of

    try:
        return arena_of(folder).write(parts, size_bytes, kind)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        disk = os.statvfs(folder)
        free_bytes, total_bytes = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        raise ValueTooLarge(
            f"the value has {size_bytes:,} bytes; of the {total_bytes:,} bytes of shared memory ({folder}) "
            f"{free_bytes:,} are free"
        ) from None


def _layout(pickled: Pickled) -> tuple[list[Buffer], int]:
    """The payload piece by piece, so that buffers are copied once only, and its size."""
    data: list[Buffer] = list(pickled.data)
    pickle_bytes = sum(len(piece) for piece in data)
    if not pickled.buffers:
        return data, pickle_bytes
    buffers = [buffer.raw() for buffer in pickled.buffers]
    kind = _READ_ONLY if all(buffer.readonly for buffer in buffers) else _WRITABLE
    sizes = [pickle_bytes, *(len(buffer) for buffer in buffers)]
    parts = [_HEAD.pack(kind, len(buffers)) + struct.pack(f"<{len(sizes)}Q", *sizes), *data]
    at = len(parts[0]) + pickle_bytes
    for buffer in buffers:
        padding = -at % _ALIGNMENT
        if padding:
            parts.append(bytes(padding))
        parts.append(buffer)
        at += padding + len(buffer)
    return parts, at


def _loaded(data: Buffer) -> Any:
    """Raises SerializationError."""
    try:
        return _load(data)
    except SerializationError:
        raise
    except Exception as error:
        raise SerializationError(f"the value cannot be loaded here: {type(error).__name__}: {error}") from error


def _load(data: Buffer) -> Any:
    if data[0] == _PICKLE:
        return pickle.loads(data)
    kind, count = _HEAD.unpack_from(data)
    if kind not in (_WRITABLE, _READ_ONLY):
        raise SerializationError("the value has no layout of this version")
    if isinstance(data, bytes) and kind == _WRITABLE:
        data = bytearray(data)  # arrays made over the buffers must be writable
    view = memoryview(data)
    sizes = struct.unpack_from(f"<{count + 1}Q", view, _HEAD.size)
    at = _HEAD.size + 8 * len(sizes)
    pickled = view[at : at + sizes[0]]
    at += sizes[0]
    buffers = []
    for size_bytes in sizes[1:]:
        at += -at % _ALIGNMENT
        buffers.append(view[at : at + size_bytes])
        at += size_bytes
    return pickle.loads(pickled, buffers=buffers)
