"""A stream between its pod and its readers: windows, what is held, and what is given back to the pod."""

from __future__ import annotations

from random import Random

import pytest

from deepserve.protocol.credit import STREAM_BYTES, STREAM_ITEMS, Credit
from deepserve.protocol.messages import StreamItems, Value
from deepserve_controller.service import stream_relay
from deepserve_controller.service.stream_relay import Freed, StreamRelay
from tests.stream_items import items_in

A, B = ("link-a", 1), ("link-b", 7)


class Relay:
    """The relay with a pod that keeps to its credit, and readers who remember what they got."""

    def __init__(self, is_kept: bool = True) -> None:
        self.got: dict[tuple[str, int], list[int]] = {}
        self.gone: list[int] = []
        self.dropped: list[str] = []
        self.given: list[str] = []
        self.credit = Credit()
        self.relay = StreamRelay("rq", is_kept, self._send, lambda value: self.dropped.append(value.segment))

    def _send(self, link_id: str, message: StreamItems, data: bytes, is_given: bool) -> None:
        if not message.values:
            self.gone.append(message.offset)
        for offset, value, payload in items_in(message, data):
            assert value.segment or payload == bytes([offset % 251]) * value.size_bytes
            self.got.setdefault((link_id, message.reader), []).append(offset)
            if is_given:
                self.given.append(value.segment)

    def free(self, freed: Freed | None) -> None:
        self.relay.check_invariants()
        if freed is not None:
            self.credit.grant(*freed)

    def produce(self, count: int, size_bytes: int = 1, segment: str = "") -> int:
        """As many as there is credit for, in one batch."""
        values, data, offset = [], b"", self.relay.end
        while len(values) < count and self.credit.is_open:
            self.credit.spend(1, size_bytes)
            number = offset + len(values)
            values.append(Value("pickle", size_bytes, segment=f"{segment}{number}" if segment else ""))
            data += b"" if segment else bytes([number % 251]) * size_bytes
        self.free(self.relay.add(offset, tuple(values), data))
        return len(values)

    def take(self, reader: tuple[str, int], items: int, size_bytes: int = 1) -> None:
        self.free(self.relay.grant(reader, items, items * size_bytes))


def test_a_stream_that_is_not_kept_goes_through_and_away() -> None:
    world = Relay(is_kept=False)
    world.free(world.relay.attach(A, 0))
    assert world.produce(1000, segment="v-") == STREAM_ITEMS
    assert world.got[A] == list(range(64)) and world.relay.held_bytes == 0
    assert world.given == [f"v-{number}" for number in range(64)]
    assert world.produce(10) == 0
    world.take(A, 32)
    assert world.produce(1000) == 32
    world.relay.close()
    assert world.dropped == []


def test_a_kept_stream_waits_for_a_reader_and_a_reader_for_its_own_window() -> None:
    world = Relay()
    assert world.produce(1000) == 64 and world.got == {}
    world.free(world.relay.attach(A, 10))
    assert world.got[A] == list(range(10, 64))
    assert world.produce(1000) == 10  # nobody will take what is skipped
    assert world.got[A] == list(range(10, 74))
    assert world.produce(1000) == 0


def test_bytes_count_and_an_item_larger_than_all_room_passes_alone() -> None:
    world = Relay()
    world.free(world.relay.attach(A, 0))
    assert world.produce(100, STREAM_BYTES // 4) == 4
    assert world.produce(1, 1) == 0
    world.take(A, 4, STREAM_BYTES // 4)
    assert world.produce(5, 3 * STREAM_BYTES) == 1
    assert world.produce(1, 1) == 0
    world.take(A, 1, 3 * STREAM_BYTES)
    assert world.produce(1, 1) == 1
    assert world.got[A] == [0, 1, 2, 3, 4, 5]


def test_two_readers_are_served_each_at_its_own_pace() -> None:
    world = Relay()
    world.free(world.relay.attach(A, 0))
    world.free(world.relay.attach(B, 0))
    while len(world.got[A] if A in world.got else []) < 1000:
        world.produce(50)
        if world.got[A][-1] % 2 == 0 or len(world.got[A]) > 1:
            world.take(A, len(world.got[A]) - world.relay._readers[A].taken_to)
    assert world.got[B] == list(range(64))
    for _ in range(40):
        world.take(B, len(world.got[B]) - world.relay._readers[B].taken_to)
    assert world.got[B] == world.got[A]


def test_the_slowest_counts_once_much_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_relay, "HELD_BYTES", 200 * (1000 + stream_relay.ITEM_BYTES))
    world = Relay()
    world.free(world.relay.attach(A, 0))
    world.free(world.relay.attach(B, 0))
    for _ in range(100):
        world.produce(64, 1000)
        world.take(A, len(world.got[A]) - world.relay._readers[A].taken_to, 1000)
    assert 200 <= len(world.got[A]) <= 200 + 2 * 64
    assert world.produce(1, 1000) == 0
    world.free(world.relay.leave(B))
    world.take(A, 0)
    assert world.produce(1, 1000) == 1


def test_what_was_taken_can_be_read_again_as_far_as_it_is_retained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_relay, "RETAINED_BYTES", 100 * (1000 + stream_relay.ITEM_BYTES))
    world = Relay()
    world.free(world.relay.attach(A, 0))
    for _ in range(20):
        world.produce(30, 1000, segment="v-")
        world.take(A, 30, 1000)
    assert world.relay.end == 600 and 490 <= world.relay.first <= 530
    assert world.dropped == [f"v-{number}" for number in range(world.relay.first)]
    world.free(world.relay.attach(B, world.relay.first))
    assert world.got[B][0] == world.relay.first
    assert world.relay.attach(("link-c", 1), 5) is None
    assert world.gone == [world.relay.first]


def test_after_its_end_a_kept_stream_is_read_on() -> None:
    world = Relay()
    world.produce(64)
    world.relay.over()
    world.free(world.relay.attach(A, 0))
    world.free(world.relay.link_closed("link-a"))
    world.free(world.relay.attach(B, 60))
    assert world.got[B] == [60, 61, 62, 63]
    with pytest.raises(KeyError):
        world.relay.grant(A, 1, 1)
    world.relay.close()
    assert len(world.dropped) == 64


def test_items_out_of_turn_are_dropped() -> None:
    world = Relay()
    world.produce(3)
    assert world.relay.add(2, (Value("pickle", 1, segment="v-late"),), b"") is None
    assert world.dropped == ["v-late"] and world.relay.end == 3


@pytest.mark.parametrize("seed", range(30))
def test_whatever_readers_do_each_gets_every_item_once_and_in_order(seed: int) -> None:
    random = Random(seed)
    world = Relay()
    started: dict[tuple[str, int], int] = {}
    sizes = [0]
    for step in range(300):
        world.produce(random.randint(1, 80), 1)
        if random.random() < 0.1:
            reader = (f"link-{random.randint(1, 2)}", step + 1)
            started[reader] = random.randint(world.relay.first, world.relay.end + 50)
            world.free(world.relay.attach(reader, started[reader]))
        for reader in list(world.relay._readers):
            taken_to = world.relay._readers[reader].taken_to
            there = started[reader] + len(world.got.get(reader, []))
            if there > taken_to:
                world.take(reader, random.randint(1, there - taken_to))
            if random.random() < 0.05:
                world.free(world.relay.leave(reader))
        if random.random() < 0.02:
            world.free(world.relay.link_closed("link-1"))
        sizes.append(world.relay.held_bytes)
    for reader, offsets in world.got.items():
        assert offsets == list(range(started[reader], started[reader] + len(offsets)))
    for reader in world.relay._readers:
        while True:
            there = started[reader] + len(world.got.get(reader, []))
            taken_to = world.relay._readers[reader].taken_to
            if there <= taken_to:
                break
            world.take(reader, there - taken_to)
        assert there >= world.relay.end or started[reader] > world.relay.end


def test_what_is_left_of_a_batch_stays_before_those_that_follow() -> None:
    world = Relay(is_kept=False)
    world.free(world.relay.attach(A, 0))
    world.relay._readers[A].credit.spend(world.relay._readers[A].credit.items, 0)
    for _ in range(3):
        world.produce(4)
    world.free(world.relay.grant(A, 2, 0))
    assert world.got[A] == [0, 1] and world.relay.first == 2
    world.free(world.relay.grant(A, 100, 0))
    assert world.got[A] == list(range(12))
