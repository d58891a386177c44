"""Streams against a controller in a thread: items, credit, and how reading ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

import deepserve
from deepserve._values import encode_value
from deepserve.errors import (
    DeepServeError,
    FunctionTimeout,
    ItemsGone,
    PodLost,
    StreamInterrupted,
)
from deepserve.protocol.messages import (
    AttachRequest,
    CancelRequest,
    GrantCredit,
    LeaveStream,
    Message,
    OpenRequest,
    Outcome,
    RequestFinished,
    StreamItems,
    Timings,
)
from tests.unit.deepserve.fake_controller import (
    SilentController,
    StreamingController,
    installed,
)

app = deepserve.App("fake")


@app.function
def tokens(n: int) -> Iterator[str]:
    yield from (f"t{i}" for i in range(n))


def test_a_stream_gives_its_items_and_grants_credit_as_they_are_taken() -> None:
    with installed(controller := StreamingController(list(range(300)))):
        items = tokens.remote(300)
        assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
        gives_up_s = time.monotonic() + 30
        while controller.sent < 64 and time.monotonic() < gives_up_s:
            time.sleep(0.005)
        time.sleep(0.05)  # would there be more, some of it would have come
        assert controller.sent == 64
        assert list(items) == list(range(5, 300))
    assert sum(grant.items for grant in controller.seen_of(GrantCredit)) <= 300


def test_leaving_a_stream_early_cancels_it() -> None:
    with installed(controller := StreamingController(list(range(300)))):
        for _ in tokens.remote(300):
            break
        controller.wait_for(CancelRequest)


def test_a_spawned_stream_is_read_with_offsets_and_left_alone() -> None:
    with installed(controller := StreamingController(["a", "b", "c"])):
        call = tokens.spawn(3)
        for first in call.stream():
            assert first == "a"
            break
        assert list(call.stream(with_offset=True)) == [(1, "b"), (2, "c")]
        assert controller.seen_of(CancelRequest) == []
        with pytest.raises(DeepServeError, match="generator"):
            list(tokens.map([1]))


def test_an_interrupted_stream_is_cancelled_and_one_that_is_kept_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with installed(controller := SilentController()) as client:
        monkeypatch.setattr(client.waiting, "for_news", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(tokens.remote(3))
        cancelled = controller.wait_for(CancelRequest)
        call = tokens.spawn(3)
        with pytest.raises(KeyboardInterrupt):
            next(call.stream())
        assert [message.request_id for message in controller.wait_for(LeaveStream)] == [call.id]
        assert controller.seen_of(CancelRequest) == cancelled


def test_each_reader_of_a_call_attaches_with_a_number_of_its_own_and_leaves() -> None:
    with installed(controller := StreamingController(["a", "b", "c"])):
        call = tokens.spawn(3)
        unread = call.stream()
        assert list(call.stream()) == ["a", "b", "c"]
        assert list(call.stream(from_offset=1, with_offset=True)) == [(1, "b"), (2, "c")]
        assert list(call.stream()) == []  # the last one had come to the end
        first, second, third = controller.seen_of(AttachRequest)
        assert [(message.from_offset, message.reader) for message in (first, second)] == [
            (0, first.reader),
            (1, second.reader),
        ]
        assert len({0, first.reader, second.reader, third.reader}) == 4
        assert [message.reader for message in controller.wait_for(LeaveStream, 3)] == [
            first.reader,
            second.reader,
            third.reader,
        ]
        del unread


def test_items_that_are_gone_are_an_error() -> None:
    class Forgetful(StreamingController):
        def _stream(self, request_id: str, from_offset: int, reader: int) -> Iterator[tuple[Message, bytes]]:
            yield StreamItems(request_id, 5, (), reader), b""
            yield RequestFinished(request_id, Outcome("ok"), Timings(), count=7), b""

    with installed(Forgetful([])):
        call = tokens.spawn(7)
        with pytest.raises(ItemsGone, match="items 2 to 4 of call"):
            list(call.stream(from_offset=2))


def test_the_end_of_a_stream_may_come_before_its_last_items() -> None:
    class Hasty(StreamingController):
        def _stream(self, request_id: str, from_offset: int, reader: int) -> Iterator[tuple[Message, bytes]]:
            yield RequestFinished(request_id, Outcome("timeout", "too slow"), Timings(), count=2), b""
            for offset in range(2):
                value, data = encode_value(offset)
                yield StreamItems(request_id, offset, (value,), reader), data

    with installed(Hasty([])):
        call, seen = tokens.spawn(7), []
        with pytest.raises(FunctionTimeout):
            for item in call.stream():
                seen.append(item)
        assert seen == [0, 1]


def test_an_interrupted_stream_says_how_far_it_came_and_why() -> None:
    class Lossy(StreamingController):
        def take(self, message: Message, payload: bytes) -> Iterator[tuple[Message, bytes]]:
            if isinstance(message, OpenRequest):
                value, data = encode_value("a")
                yield StreamItems(message.request_id, 0, (value,)), data
                outcome = Outcome("pod_lost", "pod-1 was lost: killed by SIGKILL", code="interrupted")
                yield RequestFinished(message.request_id, outcome, Timings(pod_id="pod-1"), count=1), b""

    with installed(Lossy([])):
        items = iter(tokens.remote(3))
        assert next(items) == "a"
        with pytest.raises(StreamInterrupted, match="after 1 items") as caught:
            next(items)
        assert caught.value.num_delivered == 1
        assert isinstance(caught.value.__cause__, PodLost) and caught.value.__cause__.exit_code == -9


def test_credit_is_granted_by_bytes_too() -> None:
    with installed(controller := StreamingController([b"x" * 600_000] * 10)):
        items = tokens.remote(10)
        assert [len(next(items)) for _ in range(4)] == [600_000] * 4
        grants = controller.wait_for(GrantCredit, 2)
        assert [(grant.items, grant.size_bytes > 1_200_000) for grant in grants] == [(2, True)] * 2


def test_an_async_stream() -> None:
    async def main() -> list[str]:
        return [item async for item in tokens.remote.aio(3)]

    with installed(StreamingController(["a", "b"])):
        assert asyncio.run(main()) == ["a", "b"]
