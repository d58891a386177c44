"""Frames: any language can read them, no bytes can break their reader, and their bounds hold."""

from __future__ import annotations

import struct
from itertools import permutations
from typing import Literal

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepserve.protocol import PROTOCOL_VERSION, framing
from deepserve.protocol.framing import PREFIX, FrameError, FrameReader, encode_frame
from deepserve.protocol.messages import Message, OpenRequest, Outcome, Query, RequestFinished, Timings, Value
from deepserve.protocol.specs import CodeRef, FunctionSpec, function_id


def read_all(data: bytes) -> list[tuple[Message, bytes]]:
    reader = FrameReader()
    reader.feed(data)
    return [(frame.message, frame.payload) for frame in reader.frames()]


def test_a_frame_reads_with_the_msgpack_package() -> None:
    message = OpenRequest("rq-1", "fn-2", kind="map", value=Value("pickle", 3))
    data = encode_frame(message, b"abc")
    magic, version, header_len, payload_len = struct.unpack_from("<2sBxII", data)
    assert (magic, version, payload_len) == (b"DS", PROTOCOL_VERSION, 3)
    header = msgpack.unpackb(data[12 : 12 + header_len])
    assert header == {
        "type": "OpenRequest",
        "request_id": "rq-1",
        "function_id": "fn-2",
        "kind": "map",
        "value": {"format": "pickle", "size_bytes": 3},
    }
    assert data[12 + header_len :] == b"abc"


def test_golden_bytes_do_not_change_within_a_version() -> None:
    message = RequestFinished("rq-1", Outcome("ok"), Timings(pod_id="pd-1"))
    assert encode_frame(message, b"x").hex() == (
        "445301004c000000" + "01000000"
        "84a474797065af5265717565737446696e6973686564aa726571756573745f6964a472712d31"
        "a76f7574636f6d6581a46b696e64a26f6ba774696d696e677381a6706f645f6964a470642d31" + "78"
    )


@given(st.lists(st.tuples(st.integers(1, 9), st.binary(max_size=300)), max_size=8), st.data())
def test_frames_survive_any_cut(sent: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = b"".join(encode_frame(Query(number, "status"), payload) for number, payload in sent)
    reader, received, at = FrameReader(), [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, len(stream) - at))
        reader.feed(stream[at : at + size])
        at += size
        received += [(frame.message.query_id, frame.payload) for frame in reader.frames()]  # type: ignore[attr-defined]
    assert received == sent
    assert not reader.is_mid_frame


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_or_wait_for_more(data: bytes) -> None:
    try:
        frames = read_all(data)
    except FrameError as error:
        assert error.code in ("garbage", "too_large", "version")
    else:
        assert frames == []


@given(st.binary(max_size=200))
def test_random_headers_are_garbage(header: bytes) -> None:
    data = PREFIX.pack(b"DS", PROTOCOL_VERSION, len(header), 0) + header
    with pytest.raises(FrameError) as caught:
        read_all(data)
    assert caught.value.code == "garbage"


def test_another_version_is_named() -> None:
    with pytest.raises(FrameError, match=f"version {PROTOCOL_VERSION + 1}") as caught:
        read_all(PREFIX.pack(b"DS", PROTOCOL_VERSION + 1, 1, 0))
    assert caught.value.code == "version"


@pytest.mark.parametrize(
    ("header_len", "payload_len"), [(framing.MAX_HEADER_BYTES + 1, 0), (1, framing.MAX_PAYLOAD_BYTES + 1)]
)
def test_sizes_are_refused_before_their_bytes_come(header_len: int, payload_len: int) -> None:
    with pytest.raises(FrameError) as caught:
        read_all(PREFIX.pack(b"DS", PROTOCOL_VERSION, header_len, payload_len))
    assert caught.value.code == "too_large"


def test_deep_nesting_is_refused() -> None:
    body: dict[str, object] = {}
    for _ in range(framing.MAX_NESTING + 1):
        body = {"deeper": body}
    with pytest.raises(FrameError, match="nested deeper"):
        read_all(encode_frame(Query(1, "status", body)))


def test_very_deep_nesting_does_not_exhaust_the_stack() -> None:
    header = msgpack.packb({"type": "Query", "query_id": 1, "name": "x"})
    header = bytes([header[0] + 1]) + header[1:] + msgpack.packb("body") + b"\x81\xa1a" * 200_000 + b"\x80"
    with pytest.raises(FrameError) as caught:
        read_all(PREFIX.pack(b"DS", PROTOCOL_VERSION, len(header), 0) + header)
    assert caught.value.code == "garbage"


METHODS: list[tuple[str, Literal["call", "stream"]]] = [("a", "call"), ("b", "stream")]


def test_the_function_id_is_the_content() -> None:
    spec = FunctionSpec("app", "f", "function", CodeRef("bundle", "m", "f", "d1"))
    same = FunctionSpec("app", "f", "function", CodeRef("bundle", "m", "f", "d1"))
    other = msgspec.structs.replace(spec, code=CodeRef("bundle", "m", "f", "d2"))
    assert function_id(spec) == function_id(same) != function_id(other)
    there = msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=FunctionSpec)
    assert function_id(there) == function_id(spec)
    turned = [msgspec.structs.replace(spec, methods=dict(pairs)) for pairs in permutations(METHODS)]
    assert len({function_id(spec) for spec in turned}) == 1
