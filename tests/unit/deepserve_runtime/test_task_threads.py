from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import pytest

from deepserve.errors import InputCancelled
from deepserve_runtime.link import Link
from deepserve_runtime.task_threads import CANCEL_SIGNAL, TaskThreads
from tests.unit.deepserve_runtime.fake_pod import FakePod


class QuietLink:
    after_write: Any = None

    def is_writing_on(self, thread_ident: int) -> bool:
        return False


@pytest.fixture
def threads() -> Iterator[TaskThreads]:
    before = signal.getsignal(CANCEL_SIGNAL)
    made = TaskThreads(cast(Link, QuietLink()))
    made.main.install()
    yield made
    signal.signal(CANCEL_SIGNAL, before)


@pytest.mark.parametrize("num_lost", [0, 1, 3])
def test_a_signal_that_does_not_end_a_system_call_is_sent_again(
    threads: TaskThreads, monkeypatch: pytest.MonkeyPatch, num_lost: int
) -> None:
    kill, sent = signal.pthread_kill, []

    def lose_the_first(ident: int, number: int) -> None:
        sent.append(number)
        if len(sent) > num_lost:
            kill(ident, number)

    monkeypatch.setattr(signal, "pthread_kill", lose_the_first)
    task = FakePod().task()

    def run() -> None:
        threading.Timer(0.05, task.cancel, ("cancelled",)).start()
        time.sleep(60)

    begin_s = time.monotonic()
    with pytest.raises(InputCancelled):
        threads.main.interruptibly(task, run)
    assert time.monotonic() - begin_s < 50
    assert task.was_interrupted and len(sent) > num_lost
    time.sleep(0.1)  # what is still sent then finds no task
    assert threads.main.interruptibly(FakePod().task(), lambda: "next") == "next"
