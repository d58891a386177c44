"""Which relay is whose: found while it runs and while it is kept, forgotten with its readers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import (
    AttachRequest,
    GrantCredit,
    LeaveStream,
    Message,
    Outcome,
    RequestFinished,
    StreamItems,
    TaskOutputs,
    Timings,
    Value,
)
from deepserve_controller.core.events import CreditGranted, Event, TaskProduced
from deepserve_controller.service.recipients import Recipients
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.segments import Segments
from deepserve_controller.service.streams import Streams
from tests.stream_items import all_items


def no_timer(at_s: float, callback: object) -> None: ...


class FakeLink:
    def __init__(self) -> None:
        self.sent: list[tuple[Message, bytes]] = []

    def send(self, message: Message, payload: Buffer = b"") -> None:
        self.sent.append((message, bytes(payload)))


class World:
    def __init__(self, folder: Path) -> None:
        self.given: list[Event] = []
        self.segments = Segments(str(folder))
        self.kept = KeptResults(self.segments, ttl_s=60, max_bytes=1 << 20, call_at=no_timer)
        recipients = Recipients()
        self.links = {name: FakeLink() for name in ("link-a", "link-b")}
        for name, link in self.links.items():
            recipients.add(name, link)
        cores: Any = self
        self.streams = Streams(cores, recipients, self.kept, self.segments)

    def give(self, event: Event) -> None:
        self.given.append(event)

    def produce(self, offset: int, *values: Value, data: bytes = b"", digest: bytes = b"") -> None:
        self.streams.produced("rq", "pod-1", TaskOutputs("task-1", 1, offset, values, digest), data)

    def offsets(self, link: str) -> list[int]:
        return [offset for offset, _, _ in all_items(self.links[link].sent)]


ONE = Value("msgpack", 1)


def test_a_plain_stream_goes_to_whoever_asked_and_is_forgotten(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.streams.open("rq", "link-a", keep=False)
    assert world.streams.num_read == 1
    world.produce(0, ONE, ONE, data=b"ab")
    world.streams.grant("link-a", GrantCredit("rq", 2, 2))
    assert world.offsets("link-a") == [0, 1]
    assert world.given == [TaskProduced("task-1", 1, 0, 2, 2), CreditGranted("rq", 2, 2)]
    assert world.streams.finished("rq", keep=False) is None
    assert world.streams.num_read == 0


def test_a_kept_stream_is_found_with_its_result(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.streams.open("rq", "link-a", keep=True)
    world.produce(0, ONE, ONE, ONE, data=b"abc", digest=b"d")
    assert world.offsets("link-a") == [] and world.streams.digest("rq") == b"d"
    relay = world.streams.finished("rq", keep=True)
    world.kept.put("rq", [], RequestFinished("rq", Outcome("ok"), Timings(), count=3), b"", relay)
    world.streams.attach("link-b", AttachRequest("rq", 1, 5))
    assert world.offsets("link-b") == [1, 2]
    world.streams.grant("link-b", GrantCredit("rq", 2, 2, 5))
    assert world.given == [TaskProduced("task-1", 1, 0, 3, 3)]  # nobody makes items any more
    world.streams.leave("link-b", LeaveStream("rq", 5))
    assert world.streams.num_read == 0


def test_segments_are_doubled_for_readers_of_what_is_kept_and_go_with_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "v-1-item").write_bytes(b"content")
    world.streams.open("rq", "link-a", keep=True)
    world.produce(0, Value("pickle", 7, segment="v-1-item"))
    for number in (1, 2):
        world.streams.attach("link-a", AttachRequest("rq", 0, number))
    names = [value.segment for _, value, _ in all_items(world.links["link-a"].sent)]
    assert len({*names, "v-1-item"}) == 3 and all((tmp_path / name).exists() for name in names)
    relay = world.streams.finished("rq", keep=True)
    world.kept.put("rq", [], RequestFinished("rq", Outcome("ok"), Timings(), count=1), b"", relay)
    world.kept.forget("rq")
    assert not (tmp_path / "v-1-item").exists()
    world.streams.link_closed("link-a")
    world.segments.link_closed("link-a", 0)
    assert list(tmp_path.iterdir()) == [] and world.streams.num_read == 0


def test_items_of_a_request_that_ended_leave_shared_memory(tmp_path: Path) -> None:
    world = World(tmp_path)
    (tmp_path / "v-1-late").touch()
    world.produce(0, Value("pickle", 7, segment="v-1-late"))
    assert list(tmp_path.iterdir()) == [] and world.given == []


def test_only_the_outcome_is_wanted_by_who_does_not_read(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.streams.open("rq", "link-a", keep=True)
    world.produce(0, ONE, data=b"a")
    world.streams.attach("link-b", AttachRequest("rq", 0, -1))
    assert world.links["link-b"].sent == [] and world.streams.num_read == 0
    world.streams.attach("link-b", AttachRequest("rq", 0, 0))
    assert [type(message) for message, _ in world.links["link-b"].sent] == [StreamItems]
