"""Stream items on their way out: numbered, gathered, and compared with those of an earlier attempt."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from deepserve.errors import StreamReplayMismatch
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import AssignTask, Message, TaskOutputs, Value
from deepserve_runtime import outputs
from deepserve_runtime.link import Link
from deepserve_runtime.outputs import Outputs
from tests.stream_items import all_items


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[tuple[TaskOutputs, bytes]] = []
        self.arrived = threading.Condition()

    def send(self, message: Message, payload: Buffer = b"") -> None:
        with self.arrived:
            self.sent.append((cast(TaskOutputs, message), bytes(payload)))
            self.arrived.notify_all()

    def items(self) -> list[tuple[int, bytes]]:
        return [(offset, data) for offset, _, data in all_items(self.sent)]

    def wait_for(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.items()) >= count, timeout=30), self.sent


def made(link: FakeLink, **fields: Any) -> Outputs:
    return Outputs(cast(Link, link), AssignTask("t-1", 1, "rq-1", "j-1", "stream", **fields))


def add(out: Outputs, *payloads: bytes, has_room: bool = True) -> None:
    for payload in payloads:
        out.add(Value("pickle", len(payload)), payload, has_room)


@pytest.fixture
def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing leaves by the passing of time."""
    monkeypatch.setattr(outputs, "FLUSH_S", 3600.0)
    monkeypatch.setattr(outputs._flusher, "later", lambda out: None)


def test_the_first_item_leaves_at_once_and_those_that_gather_follow_together(slow_clock: None) -> None:
    link = FakeLink()
    out = made(link)
    out._sent_s = -1e9
    add(out, b"a", b"b", b"c")
    assert link.items() == [(0, b"a")] and out.num_items == 3
    add(out, b"d", has_room=False)  # nobody could join it
    assert [len(message.values) for message, _ in link.sent] == [1, 3]
    out.flush()
    assert link.items() == [(0, b"a"), (1, b"b"), (2, b"c"), (3, b"d")]


def test_after_a_wait_for_credit_items_gather(slow_clock: None) -> None:
    link = FakeLink()
    out = made(link)
    out._sent_s = -1e9
    out.gather()
    add(out, b"a", b"b")
    assert link.items() == []
    add(out, b"c", has_room=False)
    assert [len(message.values) for message, _ in link.sent] == [3]


def test_what_gathers_is_bounded(slow_clock: None) -> None:
    link = FakeLink()
    out = made(link)
    add(out, b"x", *[b""] * (outputs.MAX_ITEMS + 1))
    assert [len(message.values) for message, _ in link.sent] in ([outputs.MAX_ITEMS], [1, outputs.MAX_ITEMS])
    add(out, b"y" * outputs.MAX_BYTES)
    assert len(link.items()) == outputs.MAX_ITEMS + 3


def test_what_gathered_leaves_although_nothing_follows() -> None:
    link = FakeLink()
    out = made(link)
    add(out, *[b"%d" % number for number in range(20)])
    link.wait_for(20)
    assert link.items() == [(number, b"%d" % number) for number in range(20)]


def test_many_threads_writing_keep_the_order_of_each() -> None:
    links = [FakeLink() for _ in range(4)]

    def produce(link: FakeLink) -> None:
        out = made(link)
        for number in range(2000):
            add(out, b"%d" % number, has_room=number % 64 != 63)
        out.flush()

    threads = [threading.Thread(target=produce, args=(link,)) for link in links]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for link in links:
        assert link.items() == [(number, b"%d" % number) for number in range(2000)]


def test_a_resumed_stream_counts_from_where_it_was() -> None:
    link = FakeLink()
    out = made(link, replay="resume", resume_offset=7)
    assert not out.is_replaying
    add(out, b"a", has_room=False)
    assert link.items() == [(7, b"a")] and out.num_items == 8


def replayed(first: list[bytes], second: list[bytes]) -> FakeLink:
    """`second` is made after `first` was passed on; returns what was sent of it."""
    before, after = FakeLink(), FakeLink()
    out = made(before, replay="verify")
    add(out, *first, has_room=False)
    out = made(after, replay="verify", resume_offset=len(first), resume_digest=before.sent[-1][0].digest)
    for payload in second:
        if out.is_replaying:
            out.replay(Value("pickle", len(payload)), payload)
        else:
            add(out, payload, has_room=False)
    out.check_replayed()
    return after


def test_verified_items_are_sent_once() -> None:
    assert replayed([b"a", b"b"], [b"a", b"b", b"c"]).items() == [(2, b"c")]
    assert replayed([b"a", b"b"], [b"a", b"b"]).items() == []


@pytest.mark.parametrize("second", [[b"a", b"x"], [b"ab", b""], [b"", b"ab"], [b"b", b"a"], [b"a"], []])
def test_other_items_are_a_mismatch(second: list[bytes]) -> None:
    with pytest.raises(StreamReplayMismatch):
        replayed([b"a", b"b"], second)


def test_the_digest_goes_on_over_attempts() -> None:
    whole, after = FakeLink(), replayed([b"a", b"b"], [b"a", b"b", b"c"])
    add(made(whole, replay="verify"), b"a", b"b", b"c", has_room=False)
    assert whole.sent[-1][0].digest == after.sent[-1][0].digest != b""
