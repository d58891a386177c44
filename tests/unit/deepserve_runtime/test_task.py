from __future__ import annotations

import threading

import msgspec
import pytest

from deepserve._values import NONE, decode_exception
from deepserve.errors import InputCancelled, PythonVersionMismatch
from deepserve.protocol.messages import TaskFinished, TaskOutputs
from tests.stream_items import all_items
from tests.unit.deepserve_runtime.fake_pod import FakePod


def test_a_task_is_finished_exactly_once() -> None:
    pod = FakePod()
    task = pod.task()
    task.finish()
    task.fail(ValueError("late"))
    assert pod.finished.outcome.kind == "ok"


def test_an_error_travels_with_its_line_and_itself() -> None:
    pod = FakePod()
    pod.task().fail(ValueError("first line\nsecond line"), may_retry=True)
    [(finished, payload)] = pod.link.of(TaskFinished)
    assert (finished.outcome.kind, finished.outcome.detail) == ("error", "ValueError: first line")
    assert finished.may_retry
    assert isinstance(decode_exception(finished.value, payload), ValueError)


def test_an_exception_that_cannot_be_put_in_words_is_still_reported() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    pod = FakePod()
    pod.task().fail(Mute())
    assert pod.finished.outcome.detail.startswith("Mute")


def test_half_a_character_in_an_exceptions_text_is_left_out() -> None:
    pod = FakePod()
    pod.task().fail(FileNotFoundError("caf\udce9"))
    [(finished, payload)] = pod.link.of(TaskFinished)
    assert msgspec.msgpack.encode(finished)
    error = decode_exception(finished.value, payload)
    assert finished.outcome.detail == "FileNotFoundError: caf?"
    assert "caf" in str(error) and "FileNotFoundError" in repr(error)


@pytest.mark.parametrize("reason", ["cancelled", "timeout"])
def test_whatever_a_cancelled_task_raises_its_outcome_is_the_reason(reason: str) -> None:
    pod = FakePod()
    task = pod.task()
    task.cancel(reason)
    task.fail(ValueError("raised in the clean-up"))
    assert pod.finished.outcome.kind == reason


def test_a_python_mismatch_is_refused() -> None:
    pod = FakePod()
    pod.task().fail(PythonVersionMismatch("3.9"))
    assert pod.finished.outcome.kind == "refused"


def test_items_are_numbered_and_use_up_credit() -> None:
    pod = FakePod()
    task = pod.task(kind="stream", credit=2)
    for _ in range(2):
        task.wait_for_credit()
        task.emit(NONE, b"")
    assert [offset for offset, _, _ in all_items(pod.link.of(TaskOutputs))] == [0, 1]
    assert not task.may_send
    task.finish()
    assert pod.finished.count == 2


def test_credit_wakes_who_waits_for_it() -> None:
    task = FakePod().task(kind="stream")
    thread = threading.Thread(target=task.wait_for_credit)
    thread.start()
    task.grant(1)
    thread.join(30)
    assert not thread.is_alive()


def test_a_cancel_wakes_who_waits_for_credit() -> None:
    task = FakePod().task(kind="stream")
    raised = threading.Event()

    def wait() -> None:
        with pytest.raises(InputCancelled):
            task.wait_for_credit()
        raised.set()

    threading.Thread(target=wait).start()
    task.cancel("cancelled")
    assert raised.wait(30)


def test_a_cancel_before_the_code_begins_is_raised_as_it_begins() -> None:
    task = FakePod().task()
    task.cancel("timeout")
    with pytest.raises(InputCancelled):
        task.open_to_interrupts(lambda: None)


def test_an_interrupt_is_sent_once_and_only_while_open() -> None:
    calls: list[str] = []
    task = FakePod().task()
    task.open_to_interrupts(lambda: calls.append("interrupt"))
    task.cancel("cancelled")
    task.cancel("timeout")
    assert calls == ["interrupt"] and task.cancel_reason == "cancelled"
    late = FakePod().task()
    late.open_to_interrupts(lambda: calls.append("late"))
    late.close_to_interrupts()
    late.cancel("cancelled")
    assert calls == ["interrupt"]
