"""Calls against a controller in a thread: what is sent, what comes back, and who waits."""

from __future__ import annotations

import asyncio
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

import deepserve
from deepserve import _context
from deepserve._context import TaskContext
from deepserve.errors import (
    AsyncUsageError,
    CallCancelled,
    ControllerLost,
    DeepServeError,
    FunctionTimeout,
    NotFound,
    PodLost,
    RecursionTooDeep,
    Refused,
    StartupFailed,
    StartupTimeout,
    UnguardedCallError,
    UnpicklableArgument,
)
from deepserve.protocol.messages import (
    Answer,
    AttachRequest,
    CancelRequest,
    DefineFunction,
    ForgetRequest,
    Message,
    OpenRequest,
    Outcome,
    PutBundle,
    Query,
    RequestFinished,
    TaskBlocked,
    TaskResumed,
    Timings,
)
from tests.unit.deepserve.fake_controller import (
    FakeController,
    Reply,
    SilentController,
    installed,
)

app = deepserve.App("fake")


@app.function
def square(x: int) -> int:
    return x * x


@app.function
def total(*numbers: int, other: int) -> int:
    return sum(numbers) + other


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
