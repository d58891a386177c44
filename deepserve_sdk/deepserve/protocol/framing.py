"""Bytes to frames and back; no socket in it (after h11).

A frame is

    2 bytes  b"DS"
    1 byte   protocol version
    1 byte   zero
    4 bytes  header length, little endian
    4 bytes  payload length, little endian
    header   one message as a MessagePack map with `type`
    payload  opaque bytes

Sizes are bounded before anything is allocated; the header's nesting is bounded before it is decoded.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from deepserve.protocol import PROTOCOL_VERSION
from deepserve.protocol.messages import Answer, AnyMessage, Message, Query

MAGIC = b"DS"
PREFIX = struct.Struct("<2sBxII")
_PREFIX_BYTES = PREFIX.size
MAX_HEADER_BYTES = 1 << 20
MAX_PAYLOAD_BYTES = 256 << 20
MAX_NESTING = 32

Buffer = bytes | bytearray | memoryview


class Frame(NamedTuple):
    message: Message
    payload: bytes


class FrameError(Exception):
    """The peer sent what is no frame of this protocol. code: garbage, too_large, version."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyMessage)
_WITH_BODY = (Query, Answer)
"""The messages that hold values of any shape."""


def encode_frame(message: Message, payload: Buffer = b"") -> bytes:
    """One frame as bytes. Raises FrameError(too_large) where a bound is passed."""
    prefix_and_header = encode_prefix(message, len(payload))
    return prefix_and_header + bytes(payload) if payload else prefix_and_header


def encode_prefix(message: Message, payload_bytes: int) -> bytes:
    """Prefix and header of a frame whose payload is written separately, without a copy."""
    header = _encoder.encode(message)
    name = type(message).__name__
    if len(header) > MAX_HEADER_BYTES:
        raise FrameError("too_large", f"{name} header of {len(header)} bytes (limit {MAX_HEADER_BYTES})")
    if payload_bytes > MAX_PAYLOAD_BYTES:
        raise FrameError("too_large", f"{name} payload of {payload_bytes} bytes (limit {MAX_PAYLOAD_BYTES})")
    return PREFIX.pack(MAGIC, PROTOCOL_VERSION, len(header), payload_bytes) + header


class FrameReader:
    """Collects bytes as they come and gives whole frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0

    @property
    def is_mid_frame(self) -> bool:
        """Bytes of an unfinished frame are held: an end of file now is a broken peer."""
        return len(self._buffer) > self._start

    def feed(self, data: Buffer) -> None:
        self._buffer += data

    @staticmethod
    def whole_frame(data: bytes) -> Frame | None:
        """The one frame that `data` is, from its first byte to its last; None where it is anything else."""
        if len(data) < _PREFIX_BYTES:
            return None
        magic, version, header_len, payload_len = PREFIX.unpack_from(data)
        payload_at = _PREFIX_BYTES + header_len
        if payload_at + payload_len != len(data) or magic != MAGIC or version != PROTOCOL_VERSION:
            return None
        return Frame(decode_header(data[_PREFIX_BYTES:payload_at]), data[payload_at:])

    def take_rest(self) -> bytes:
        """What was read past the last frame; used where a connection turns to raw bytes."""
        rest = bytes(memoryview(self._buffer)[self._start :])
        self._buffer.clear()
        self._start = 0
        return rest

    def next_frame(self) -> Frame | None:
        """The next whole frame, or None while more bytes are needed. Raises FrameError."""
        available = len(self._buffer) - self._start
        if available < PREFIX.size:
            self._compact()
            return None
        magic, version, header_len, payload_len = PREFIX.unpack_from(self._buffer, self._start)
        check_prefix(magic, version, header_len, payload_len)
        end = PREFIX.size + header_len + payload_len
        if available < end:
            self._compact()
            return None
        header_at = self._start + PREFIX.size
        with memoryview(self._buffer) as view:
            message = decode_header(view[header_at : header_at + header_len])
            payload = bytes(view[header_at + header_len : self._start + end]) if payload_len else b""
        self._start += end
        if self._start == len(self._buffer):
            self._buffer.clear()
            self._start = 0
        return Frame(message, payload)

    def frames(self) -> Iterator[Frame]:
        while (frame := self.next_frame()) is not None:
            yield frame

    def take(self, data: bytes) -> list[Frame]:
        """All whole frames that `data` completes, in one go: what comes on the warm path is whole and is not copied
        before it is read. Raises FrameError."""
        if self._buffer:
            self.feed(data)
            return list(self.frames())
        found: list[Frame] = []
        at, available = 0, len(data)
        while available - at >= _PREFIX_BYTES:
            magic, version, header_len, payload_len = PREFIX.unpack_from(data, at)
            if magic != MAGIC or version != PROTOCOL_VERSION or header_len > MAX_HEADER_BYTES:
                check_prefix(magic, version, header_len, payload_len)
            header_at = at + _PREFIX_BYTES
            payload_at = header_at + header_len
            end = payload_at + payload_len
            if end > available:
                check_prefix(magic, version, header_len, payload_len)
                break
            found.append(Frame(decode_header(data[header_at:payload_at]), data[payload_at:end]))
            at = end
        if at < available:
            self._buffer += data[at:] if at else data
        return found

    def _compact(self) -> None:
        if self._start > 1 << 16:
            del self._buffer[: self._start]
            self._start = 0


def check_prefix(magic: bytes, version: int, header_len: int, payload_len: int) -> None:
    """Raises FrameError unless the prefix is one of this protocol within its bounds."""
    if magic != MAGIC:
        raise FrameError("garbage", f"not a DeepServe frame (starts with {magic!r})")
    if version != PROTOCOL_VERSION:
        raise FrameError("version", f"peer speaks protocol version {version}, this side {PROTOCOL_VERSION}")
    if header_len > MAX_HEADER_BYTES:
        raise FrameError("too_large", f"header of {header_len} bytes (limit {MAX_HEADER_BYTES})")
    if payload_len > MAX_PAYLOAD_BYTES:
        raise FrameError("too_large", f"payload of {payload_len} bytes (limit {MAX_PAYLOAD_BYTES})")


def decode_header(header: Buffer) -> Message:
    try:
        message: Message = _decoder.decode(header)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError("garbage", f"header is no message of this protocol: {error}") from None
    if type(message) in _WITH_BODY and nesting(message.body) > MAX_NESTING:  # type: ignore[attr-defined]
        raise FrameError("garbage", f"{type(message).__name__} is nested deeper than {MAX_NESTING}")
    return message


def nesting(value: object) -> int:
    """Depth of dicts and lists, without recursion."""
    deepest, pending = 0, [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if isinstance(item, dict):
            deepest = max(deepest, depth)
            pending.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list):
            deepest = max(deepest, depth)
            pending.extend((child, depth + 1) for child in item)
    return deepest
