"""Streams with credit, coroutines side by side, plain values, pickled code, and calls made inside a pod."""

from __future__ import annotations

import hashlib
import types
from pathlib import Path

import cloudpickle
import msgspec
import pytest

from deepserve._entry import Entry
from deepserve._values import decode_value
from deepserve.errors import UnpicklableResult
from deepserve.protocol.messages import (
    CancelTask,
    OpenRequest,
    Outcome,
    RequestFinished,
    TaskBlocked,
    TaskCredit,
    TaskFinished,
    TaskOutputs,
    TaskResumed,
    Timings,
    Value,
)
from deepserve.protocol.specs import CodeRef
from tests.integration.runtime.stand_in import PYTHON, StandInPod
from tests.stream_items import all_items, items_in

FILES = {"app.py": Path(__file__).with_name("app.py").read_text()}
PLAIN = """
import dataclasses
import msgspec

@dataclasses.dataclass
class Point:
    x: int
    y: int

def double(point: Point, factor: int = 2) -> Point:
    return Point(point.x * factor, point.y * factor)

def odd():
    return object()
"""
NESTED = """
from deepserve import _current_client, _context
from deepserve._definition import Definition
from deepserve.protocol.messages import Value

def outer(x):
    client = _current_client.current_client()
    inbox = client.open_request(Definition("fn-2", None, None, "inner"), "call", Value())
    client.waiting.for_news(inbox)
    return (x, inbox.finished.outcome.kind, _context.context().task_id)
"""


def items_of(pod: StandInPod, count: int) -> list[object]:
    received: list[object] = []
    while len(received) < count:
        output, payload = pod.link.receive(TaskOutputs)
        for offset, value, data in items_in(output, payload):
            assert offset == len(received)
            received.append(decode_value(value, data))
    return received


@pytest.mark.parametrize("function", ["count_to", "count_async"])
def test_a_stream_goes_on_only_with_credit(pod: StandInPod, function: str) -> None:
    pod.bind(function, files=FILES)
    task_id = pod.assign(5, kind="stream", credit=2)
    assert items_of(pod, 2) == [0, 1]
    if function == "count_to":
        pod.wait_for_text("made 2")  # one item ahead of the reader
    assert not any(isinstance(frame.message, TaskOutputs) for frame in pod.link.kept)
    pod.link.send(TaskCredit(task_id, 3))  # the end itself needs no credit
    finished = pod.finished()
    assert (finished.outcome.kind, finished.count) == ("ok", 5)
    assert [decode_value(value, data) for _, value, data in all_items(pod.link.kept)] == [2, 3, 4]
    assert b"made 5" not in pod.output["stdout"]


@pytest.mark.parametrize("function", ["count_to", "count_async"])
def test_a_cancel_closes_a_generator_that_waits_for_credit(pod: StandInPod, function: str) -> None:
    pod.bind(function, files=FILES)
    task_id = pod.assign(1000, kind="stream", credit=1)
    assert items_of(pod, 1) == [0]
    pod.link.send(CancelTask(task_id, 1, "cancelled"))
    finished = pod.finished()
    assert (finished.outcome.kind, finished.count) == ("cancelled", 1)
    pod.wait_for_text("closed")


def test_a_stream_of_what_is_no_generator_is_an_error(pod: StandInPod) -> None:
    pod.bind("square", files=FILES)
    pod.assign(3, kind="stream", credit=5)
    with pytest.raises(TypeError, match="generator"):
        pod.result()


def test_coroutines_run_side_by_side_on_one_loop(pod: StandInPod) -> None:
    pod.bind("meet", files=FILES, max_inputs=3)
    for _ in range(3):
        pod.assign(3)
    assert len({pod.result() for _ in range(3)}) == 1


def test_a_free_main_thread_takes_the_next_task(pod: StandInPod) -> None:
    pod.bind("thread_name", files=FILES)
    assert {pod.call() for _ in range(200)} == {"MainThread"}


def test_plain_arguments_take_the_annotated_type(pod: StandInPod) -> None:
    pod.bind("double", files={"app.py": PLAIN})
    data = msgspec.msgpack.encode({"args": [{"x": 1, "y": 2}], "kwargs": {"factor": 10}})
    pod.assign_value(Value("msgpack", len(data)), data)
    finished, payload = pod.link.receive(TaskFinished)
    assert finished.value.format == "msgpack"
    assert msgspec.msgpack.decode(payload) == {"x": 10, "y": 20}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({"args": [{"x": "one"}]}, "'point'"),
        ({"args": [{"x": 1, "y": 2}], "kwargs": {"factor": "ten"}}, "'factor': Expected `int`"),
        ({"args": [{"x": 1, "y": 2}], "kwargs": {"other": 1}}, "no parameter other; it takes: point, factor"),
        ({"args": []}, "missing a required argument: 'point'"),
        ({"args": 3}, "are a map"),
        ([1], "are a map"),
    ],
)
def test_plain_arguments_that_do_not_fit_are_refused(pod: StandInPod, body: object, says: str) -> None:
    pod.bind("double", files={"app.py": PLAIN})
    data = msgspec.msgpack.encode(body)
    pod.assign_value(Value("msgpack", len(data)), data)
    finished, _ = pod.link.receive(TaskFinished)
    assert (finished.outcome.kind, says in finished.outcome.detail) == ("refused", True), finished


def test_a_result_without_a_plain_form_is_an_error_to_a_plain_caller(pod: StandInPod) -> None:
    pod.bind("odd", files={"app.py": PLAIN})
    pod.assign_value(Value("msgpack", 1), msgspec.msgpack.encode({}))
    with pytest.raises(UnpicklableResult, match="plain"):
        pod.result()


def test_code_without_a_file_travels_as_one_dump(pod: StandInPod) -> None:
    module = types.ModuleType("typed_by_hand")
    exec("total = 0\ndef add(n):\n    global total\n    total += n\n    return total", module.__dict__)
    module.add.__module__ = "__main__"
    content = cloudpickle.dumps({"add": Entry(module.add)})
    code = CodeRef("pickle", "__main__", "add", hashlib.sha256(content).hexdigest()[:40], python=PYTHON)
    pod.bind("add", code=code, content=content)
    assert [pod.call(2), pod.call(3)] == [2, 5]


def test_a_task_that_waits_for_its_own_call_gives_way_to_another(pod: StandInPod) -> None:
    pod.bind("outer", files={"app.py": NESTED})
    inner_requests = []
    for number in range(3):  # each waits in the pod: three deep in one slot
        task_id = pod.assign(number)
        opened, _ = pod.link.receive(OpenRequest)
        assert opened.parent_task_id == task_id
        assert pod.link.receive(TaskBlocked)[0].task_id == task_id
        inner_requests.append(opened.request_id)
    for number, request_id in reversed(list(enumerate(inner_requests))):
        pod.link.send(RequestFinished(request_id, Outcome("ok"), Timings()))
        assert pod.link.receive(TaskResumed)[0].task_id == f"t-{number + 1}"
        assert pod.result() == (number, "ok", f"t-{number + 1}")


def test_a_task_that_waits_for_its_own_call_can_be_cancelled(pod: StandInPod) -> None:
    pod.bind("outer", files={"app.py": NESTED})
    task_id = pod.assign(1)
    pod.link.receive(TaskBlocked)
    pod.link.send(CancelTask(task_id, 1, "timeout"))
    assert pod.finished().outcome.kind == "timeout"
