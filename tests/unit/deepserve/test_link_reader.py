"""Who reads a script's connection: a caller that leads, or the watching thread."""

from __future__ import annotations

import queue
import signal
import socket
import threading
from collections.abc import Iterator

import pytest

from deepserve._link import Link
from deepserve.errors import DeepServeError
from deepserve.protocol.framing import Frame, encode_frame
from deepserve.protocol.messages import CancelRequest, Message


class Case:
    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.seen: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.closed: queue.SimpleQueue[DeepServeError] = queue.SimpleQueue()
        self.link = Link(self.ours)
        self.link.start_reader(self._take, self.closed.put)

    def _take(self, message: Message, payload: bytes) -> None:
        assert isinstance(message, CancelRequest)
        self.seen.put((message.request_id, threading.current_thread().name))

    def send(self, *ids: str) -> None:
        self.theirs.sendall(b"".join(encode_frame(CancelRequest(name)) for name in ids))

    def send_once_led(self, *ids: str) -> None:
        """When the watching thread no longer reads."""
        assert self.link._reader is not None
        reader = self.link._reader

        def send() -> None:
            while not reader._is_unwatched:
                pass
            self.send(*ids)

        threading.Thread(target=send).start()


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.theirs.close()
    case.closed.get(timeout=30)
    case.ours.close()


def is_mine(frame: Frame) -> bool:
    return isinstance(frame.message, CancelRequest) and frame.message.request_id == "mine"


def test_a_caller_reads_its_own_result_itself(case: Case) -> None:
    case.send_once_led("mine")
    assert case.link.lead(is_mine)
    assert case.seen.empty()


@pytest.mark.parametrize("ids", [("other",), ("mine", "other"), ("other", "mine")])
def test_all_else_goes_to_the_watching_thread_in_its_order(case: Case, ids: tuple[str, ...]) -> None:
    case.send_once_led(*ids)
    assert not case.link.lead(is_mine)
    assert [case.seen.get(timeout=30) for _ in ids] == [(name, "deepserve-link") for name in ids]


def test_while_nobody_leads_the_watching_thread_reads(case: Case) -> None:
    case.send("a")
    assert case.seen.get(timeout=30) == ("a", "deepserve-link")


def test_only_one_leads(case: Case) -> None:
    led = threading.Thread(target=case.link.lead, args=(is_mine,))
    assert case.link._reader is not None
    led.start()
    while not case.link._reader._is_unwatched:
        pass
    assert not case.link.lead(is_mine)
    case.send("mine")
    led.join(30)
    assert not led.is_alive()


def test_ctrl_c_while_leading_loses_nothing(case: Case) -> None:
    assert case.link._reader is not None
    reader = case.link._reader

    def interrupt() -> None:
        while not reader._is_unwatched:
            pass
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        case.link.lead(is_mine)
    case.send("after")
    assert case.seen.get(timeout=30) == ("after", "deepserve-link")


def test_the_end_of_the_connection_while_leading_is_told_by_the_watching_thread() -> None:
    case = Case()
    assert case.link._reader is not None
    reader = case.link._reader

    def end() -> None:
        while not reader._is_unwatched:
            pass
        case.theirs.close()

    threading.Thread(target=end).start()
    assert not case.link.lead(is_mine)
    assert "ended" in str(case.closed.get(timeout=30))
    assert not case.link.lead(is_mine)
    case.ours.close()
