"""Who reads a pod's link: the main thread while it leads, the watching thread once it has handed over."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from deepserve.protocol.framing import FrameReader, encode_frame
from deepserve.protocol.messages import StopPod
from deepserve_runtime.link_reader import LinkReader


class Case:
    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.seen: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
        self.ended: list[str] = []
        self.is_over = threading.Event()
        self.reader = LinkReader(self.ours, FrameReader(), self._take, self._end)
        self.reader.start()

    def _take(self, message: object, payload: bytes) -> None:
        assert isinstance(message, StopPod)
        if message.reason == "defect":
            raise RuntimeError("a defect")
        self.seen.put((message.reason, threading.current_thread().name))

    def _end(self, text: str) -> None:
        self.ended.append(text)
        self.is_over.set()

    def send(self, *reasons: str) -> None:
        self.theirs.sendall(b"".join(encode_frame(StopPod(reason)) for reason in reasons))

    def lead(self) -> None:
        self.reader.lead(lambda: None)


@pytest.fixture
def case() -> Iterator[Case]:
    case = Case()
    yield case
    case.theirs.close()
    with suppress(OSError):
        case.reader.hand_over()
    case.ours.close()


def test_the_leader_handles_what_comes_on_its_own_thread(case: Case) -> None:
    case.send("a", "b")
    case.lead()
    assert [case.seen.get(timeout=30) for _ in "ab"] == [("a", "MainThread"), ("b", "MainThread")]


def test_after_the_hand_over_the_watching_thread_reads(case: Case) -> None:
    case.reader.hand_over()
    case.send("a")
    assert case.seen.get(timeout=30) == ("a", "deepserve-link")
    case.reader.take_back()
    case.send("b")
    case.lead()
    assert case.seen.get(timeout=30) == ("b", "MainThread")


def test_half_a_frame_is_completed_by_whoever_reads_next(case: Case) -> None:
    data = encode_frame(StopPod("whole"))
    case.theirs.sendall(data[:9])
    case.lead()
    case.reader.hand_over()
    case.theirs.sendall(data[9:])
    assert case.seen.get(timeout=30) == ("whole", "deepserve-link")
    case.reader.take_back()


def test_an_exception_of_a_signal_between_read_and_handling_loses_nothing(case: Case) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    case.send("a")
    with pytest.raises(KeyboardInterrupt):
        case.reader.lead(interrupt)
    case.send("b")
    case.lead()
    case.lead()
    assert [case.seen.get(timeout=30)[0] for _ in "ab"] == ["a", "b"]


@pytest.mark.parametrize("who", ["leader", "watcher"])
def test_the_end_is_told_once_by_either(case: Case, who: str) -> None:
    case.theirs.close()
    if who == "leader":
        case.lead()
    else:
        case.reader.hand_over()
        assert case.is_over.wait(30)
    assert case.ended == ["the controller closed the link"]


def test_garbage_and_defects_end_the_link(case: Case) -> None:
    case.send("defect")
    case.lead()
    assert "a defect" in case.ended[0]
    other = Case()
    other.theirs.sendall(b"no frame of ours, surely")
    other.lead()
    assert "broken frame" in other.ended[0]
    other.theirs.close()
    other.ours.close()
