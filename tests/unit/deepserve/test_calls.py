"""Verbs, streams and maps against a controller in a thread."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import deepserve
from deepserve import _context, _map
from deepserve._client import Client
from deepserve._context import TaskContext
from deepserve._map import LARGEST_WINDOW, SMALLEST_WINDOW, window_of
from deepserve._map_outputs import MapOutputs
from deepserve._values import encode_value
from deepserve.errors import (
    AsyncUsageError,
    CallCancelled,
    ControllerLost,
    DeepServeError,
    FunctionTimeout,
    ItemsGone,
    NotFound,
    PodLost,
    RecursionTooDeep,
    Refused,
    StartupFailed,
    StartupTimeout,
    StreamInterrupted,
    UnguardedCallError,
    UnpicklableArgument,
)
from deepserve.protocol.messages import (
    Answer,
    AttachRequest,
    CancelRequest,
    DefineFunction,
    ForgetRequest,
    GrantCredit,
    LeaveStream,
    Message,
    OpenRequest,
    Outcome,
    PutBundle,
    Query,
    RequestFinished,
    StreamItems,
    TaskBlocked,
    TaskResumed,
    Timings,
)
from deepserve.protocol.specs import Scaling
from tests.unit.deepserve.fake_controller import (
    FakeController,
    Reply,
    SilentController,
    StreamingController,
    installed,
)

app = deepserve.App("fake")


@app.function
def square(x: int) -> int:
    return x * x


@app.function
def total(*numbers: int, other: int) -> int:
    return sum(numbers) + other


@app.function
def tokens(n: int) -> Iterator[str]:
    yield from (f"t{i}" for i in range(n))


@app.function
def no_arguments() -> None: ...


class OutcomeController(FakeController):
    """Ends every call with one outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome

    def take(self, message: Message, payload: bytes) -> Iterator[Reply]:
        if isinstance(message, OpenRequest):
            yield RequestFinished(message.request_id, self.outcome, Timings(pod_id="pod-1")), b""
        elif isinstance(message, Query):
            yield Answer(message.query_id, error="not_found", text="no such thing"), b""


def test_a_local_call_starts_nothing() -> None:
    assert square(3) == square.local(3) == 9


def test_code_and_function_are_told_once() -> None:
    with installed(controller := FakeController(lambda x: x * x)):
        assert [square.remote(3), square.remote(x=4)] == [9, 16]
    kinds = [type(message) for message in controller.seen]
    assert kinds == [PutBundle, DefineFunction, OpenRequest, OpenRequest]
    spec = controller.seen_of(DefineFunction)[0].spec
    assert (spec.label, spec.code.transport, spec.code.qualname) == ("fake/square", "bundle", "square")


def test_the_users_exception_is_raised() -> None:
    def run(x: int) -> None:
        raise KeyError(x)

    with installed(FakeController(run)), pytest.raises(KeyError) as caught:
        square.remote(3)
    assert "raised in call rq-test-" in caught.value.__notes__[0] and "pod-1" in caught.value.__notes__[0]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome("timeout", "over its time limit of 1 s", "pod killed", "run"), FunctionTimeout),
        (Outcome("timeout", "not ready", "before it began", "startup"), StartupTimeout),
        (Outcome("cancelled", "by the caller"), CallCancelled),
        (Outcome("pod_lost", "pod-1 was lost: killed by SIGKILL"), PodLost),
        (Outcome("startup_failed", "ImportError: nothing"), StartupFailed),
        (Outcome("refused", "queue full"), Refused),
        (Outcome("refused", "calls are nested 8 deep", code="depth"), RecursionTooDeep),
    ],
)
def test_every_outcome_has_its_error(outcome: Outcome, kind: type[DeepServeError]) -> None:
    with installed(OutcomeController(outcome)), pytest.raises(kind, match=outcome.detail) as caught:
        square.remote(3)
    assert not isinstance(caught.value, TimeoutError)
    there = pickle.loads(pickle.dumps(caught.value))
    assert type(there) is kind and vars(there) == vars(caught.value)
    if isinstance(caught.value, FunctionTimeout | CallCancelled):
        assert caught.value.stopped == outcome.stopped
    if isinstance(caught.value, FunctionTimeout):
        assert caught.value.clock == outcome.clock
    if isinstance(caught.value, PodLost):
        assert (caught.value.exit_code, caught.value.signal_name) == (-9, "SIGKILL")


def test_the_argument_that_cannot_travel_is_named() -> None:
    with installed(FakeController()) as client:
        with pytest.raises(UnpicklableArgument, match=r"argument `x` \(threading.Lock\) of `square`"):
            square.remote(threading.Lock())  # type: ignore[arg-type]
        assert client.inboxes.num_open == 0


def test_spawn_needs_no_round_trip_and_get_waits() -> None:
    with installed(controller := SilentController()) as client:
        call = square.spawn(3)
        assert (call.done(), call.status(), call.timings) == (False, "pending", None)
        assert controller.wait_for(OpenRequest)[0].keep
        with pytest.raises(TimeoutError):
            call.get(timeout=0.01)
        assert client.inboxes.num_open == 1
        call.cancel()
        with pytest.raises(CallCancelled):
            call.get()
        assert (call.done(), call.status(), client.inboxes.num_open) == (True, "cancelled", 0)


def test_a_result_can_be_taken_twice_and_found_by_id() -> None:
    with installed(controller := FakeController(lambda x: [x])):
        call = square.spawn(3)
        assert call.get() is call.get()
        assert call.timings is not None and call.timings.pod_id == "pod-1"
        assert deepserve.Call.from_id(call.id).get() == [3]
        assert controller.seen_of(AttachRequest) == []
        del call
        square.remote(1)
        assert len(controller.wait_for(ForgetRequest)) == 1


def test_a_call_as_argument_stands_for_its_result() -> None:
    with installed(FakeController(lambda x: x * x)):
        call = square.spawn(3)
        assert square.remote(call.arg) == 81
        assert list(square.map([call.arg, 2])) == [81, 4]
        assert square.remote(x=call.arg) == 81


def test_a_call_that_waits_for_another_is_spawned_at_once_and_named_once() -> None:
    with installed(controller := SilentController()):
        call = square.spawn(3)
        square.spawn(call.arg)
        square.spawn([call])
        total.spawn(call.arg, call.arg, other=call.arg)
        opened = controller.wait_for(OpenRequest, 4)
        assert [message.depends_on for message in opened] == [(), (call.id,), (), (call.id,)]


def test_an_interrupted_wait_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with installed(controller := SilentController()) as client:
        monkeypatch.setattr(client.waiting, "for_news", interrupted)
        with pytest.raises(KeyboardInterrupt):
            square.remote(3)
        controller.wait_for(CancelRequest)


def test_a_lost_controller_wakes_whoever_waits() -> None:
    with installed(controller := SilentController()):
        call = square.spawn(3)
        threading.Timer(0.05, controller.close).start()
        with pytest.raises(ControllerLost):
            call.get(timeout=30)
        assert call.status() == "lost"


def test_a_query_is_answered_or_raises() -> None:
    with installed(OutcomeController(Outcome("ok"))) as client, pytest.raises(NotFound, match="no such thing"):
        client.query("lookup", {"app": "a", "name": "b"})


# --- event loops --------------------------------------------------------------------------------------


def test_blocking_verbs_refuse_a_running_loop_and_name_the_twin() -> None:
    async def main() -> None:
        for verb, name in ((square.remote, "square.remote"), (call.get, "Call.get")):
            with pytest.raises(AsyncUsageError, match=rf"await {name}\.aio"):
                verb()  # type: ignore[call-arg, operator]
        with pytest.raises(AsyncUsageError, match=r"square\.map\.aio"):
            list(square.map([1]))

    with installed(FakeController(lambda x: x)):
        call = square.spawn(1)
        asyncio.run(main())


def test_async_twins() -> None:
    async def numbers() -> AsyncIterator[int]:
        for number in range(5):
            yield number

    async def main() -> list[Any]:
        call = await square.spawn.aio(5)
        return [
            await asyncio.gather(*(square.remote.aio(n) for n in range(20))),
            await call.get.aio(timeout=5),
            [n async for n in square.map.aio(range(5))],
            [n async for n in square.map.aio(numbers())],
            await square.for_each.aio(range(3)),
        ]

    with installed(FakeController(lambda x: x * x)):
        squares = [n * n for n in range(20)]
        assert asyncio.run(main()) == [squares, 25, squares[:5], squares[:5], None]


def test_a_cancelled_coroutine_cancels_its_call() -> None:
    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(square.remote.aio(3), 0.05)

    with installed(controller := SilentController()):
        asyncio.run(main())
        controller.wait_for(CancelRequest)


def test_an_async_get_gives_up_after_its_timeout() -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await square.spawn(3).get.aio(timeout=0.02)

    with installed(SilentController()):
        asyncio.run(main())


# --- streams ------------------------------------------------------------------------------------------


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


# --- maps ---------------------------------------------------------------------------------------------


def test_map_yields_in_order_and_starmap_spreads() -> None:
    with installed(FakeController(lambda x, y=0: x * x + y)):
        assert list(square.map(range(200))) == [n * n for n in range(200)]
        assert list(square.starmap([(1, 2), (3, 4)])) == [3, 13]
        assert list(square.map([1, 2], kwargs={"y": 1})) == [2, 5]
        assert list(square.map([1, 2], [10, 20, 30])) == [11, 24]
        assert list(square.map([])) == []
        assert sorted(square.map(range(5), order_outputs=False)) == [0, 1, 4, 9, 16]


class Reversed(FakeController):
    """Answers a map's inputs that come together in pairs, the later one first."""

    def take(self, message: Message, payload: bytes) -> Iterator[Reply]:
        replies = list(super().take(message, payload))
        for start in range(0, len(replies), 2):
            yield from reversed(replies[start : start + 2])


def test_outputs_are_put_in_order_unless_that_is_not_wanted() -> None:
    with installed(Reversed(lambda x: x)):
        assert list(square.map(range(10))) == list(range(10))
    with installed(Reversed(lambda x: x)):
        assert list(square.map(range(4), order_outputs=False)) == [1, 0, 3, 2]


def test_inputs_are_read_no_further_than_the_window() -> None:
    read = []

    def inputs() -> Iterator[int]:
        for number in range(100):
            read.append(number)
            yield number

    with installed(FakeController(lambda x: x)):
        outputs = square.map(inputs(), max_in_flight=3)
        assert read == []
        for output in outputs:
            assert len(read) <= output + 3 + 1
        assert len(read) == 100


@pytest.mark.parametrize("order_outputs", [True, False])
def test_what_a_map_holds_does_not_grow_with_its_length(order_outputs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[MapOutputs] = []

    class Noted(MapOutputs):
        def __init__(self, client: Client, label: str) -> None:
            super().__init__(client, label)
            made.append(self)

    monkeypatch.setattr(_map, "MapOutputs", Noted)
    with installed(FakeController(lambda x: x)):
        for number, _ in enumerate(square.map(range(500), max_in_flight=8, order_outputs=order_outputs)):
            if number == 400:
                [held] = made
                assert len(held.arrived) + len(held._many) + len(held._single) <= 16
        assert number == 499


def test_the_window_is_bounded() -> None:
    assert window_of(Scaling()) == SMALLEST_WINDOW
    assert window_of(Scaling(max_pods=100, max_inputs=2)) == 400
    assert window_of(Scaling(max_pods=4000)) == LARGEST_WINDOW


def failing(x: int) -> int:
    if x % 3 == 2:
        raise ValueError(x)
    return x


def test_an_exception_names_its_input_and_cancels_the_rest() -> None:
    with installed(controller := FakeController(failing)):
        taken = []
        with pytest.raises(ValueError) as caught:
            for output in square.map(range(1000), max_in_flight=5):
                taken.append(output)
        assert taken == [0, 1]
        assert caught.value.input_index == 2  # type: ignore[attr-defined]
        assert "input 2 of the map" in caught.value.__notes__
        controller.wait_for(CancelRequest)


def test_exceptions_may_be_returned() -> None:
    with installed(FakeController(failing)):
        outputs = list(square.map(range(6), return_exceptions=True))
        square.for_each(range(6), ignore_exceptions=True)
    assert [type(output) for output in outputs] == [int, int, ValueError, int, int, ValueError]
    assert outputs[5].input_index == 5  # type: ignore[attr-defined]


def test_leaving_a_map_or_a_failing_input_iterator_cancels() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise OSError("the file ended")

    with installed(controller := FakeController(lambda x: x)):
        for _ in square.map(range(1000)):
            break
        controller.wait_for(CancelRequest)
        with pytest.raises(OSError, match="the file ended"):
            list(square.map(broken()))
        controller.wait_for(CancelRequest, 2)
        with pytest.raises(UnpicklableArgument) as caught:
            list(square.map([1, threading.Lock()]))
        assert caught.value.input_index == 1  # type: ignore[attr-defined]
        controller.wait_for(CancelRequest, 3)


# --- inside a pod -------------------------------------------------------------------------------------


def test_a_task_that_waits_says_so_once() -> None:
    async def main() -> None:
        await asyncio.gather(*(square.remote.aio(n) for n in range(3)))

    token = _context.current_task.set(TaskContext("rq-1", "task-7"))
    try:
        with installed(controller := FakeController(lambda x: time.sleep(0.1) or x), is_pod=True):
            asyncio.run(main())
            blocked = controller.seen_of(TaskBlocked)
            assert blocked
            controller.wait_for(TaskResumed, len(blocked))
    finally:
        _context.current_task.reset(token)
    assert {message.parent_task_id for message in controller.seen_of(OpenRequest)} == {"task-7"}
    assert len(controller.seen_of(TaskResumed)) == len(controller.seen_of(TaskBlocked))


def test_a_remote_call_while_a_pod_imports_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_context, "importing", "app")
    with installed(FakeController()), pytest.raises(UnguardedCallError, match="if __name__ == '__main__':"):
        square.remote(3)


def test_context_outside_pods_is_empty() -> None:
    assert (deepserve.context().request_id, deepserve.context().attempt) == ("", 1)
