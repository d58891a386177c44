"""Journals of any size travel: with log probabilities a thousand tokens take more than a header may have."""

from __future__ import annotations

from typing import Any, cast

import pytest

from deepserve.protocol.framing import MAX_HEADER_BYTES, Buffer, FrameReader, encode_frame
from deepserve.protocol.journals import packed, unpacked
from deepserve.protocol.messages import AssignTask, Message, PrepareTask, TaskOutputs, Value
from deepserve_runtime.link import Link
from deepserve_runtime.outputs import Outputs
from tests.unit.deepserve_runtime.fake_pod import FakePod

LARGE = bytes(range(256)) * (2 * MAX_HEADER_BYTES // 256)
VALUE = Value("msgpack", 5)


class Wire:
    """A link whose frames are written and read."""

    def __init__(self) -> None:
        self.arrived: list[tuple[Any, bytes]] = []

    def send(self, message: Message, payload: Buffer = b"") -> None:
        reader = FrameReader()
        reader.feed(encode_frame(message, payload))
        self.arrived += [(found, bytes(data)) for found, data in reader.frames()]


@pytest.mark.parametrize("journal", [b"", b"x", LARGE])
@pytest.mark.parametrize("payload", [b"", b"inline"])
@pytest.mark.parametrize(
    "message",
    [
        AssignTask("t-1", 2, "rq-1", "j-1", "call", value=VALUE),
        PrepareTask("t-1", 3, "chat", VALUE),
        TaskOutputs("t-1", 1, 7, (VALUE,)),
    ],
)
def test_a_journal_arrives_as_it_was_sent(message: Any, payload: bytes, journal: bytes) -> None:
    wire = Wire()
    whole = type(message)(**{name: getattr(message, name) for name in message.__struct_fields__} | {"journal": journal})
    wire.send(*packed(whole, payload))
    assert [unpacked(*frame) for frame in wire.arrived] == [(whole, payload)]


def test_what_a_stream_and_a_call_note() -> None:
    pod, wire = FakePod(), Wire()
    cast(Any, pod).link = wire
    out = Outputs(cast(Link, wire), AssignTask("t-1", 1, "rq-1", "j-1", "stream"))
    out.add(VALUE, b"hello", has_room=False, journal=LARGE)
    out.note(b"more")
    pod.task().note(LARGE)
    found = [unpacked(*frame) for frame in wire.arrived]
    assert [(message.offset, len(message.values), data) for message, data in found] == [
        (0, 1, b"hello"), (1, 0, b""), (0, 0, b"")
    ]  # fmt: skip
    assert [message.journal for message, _ in found] == [LARGE, b"more", LARGE]
