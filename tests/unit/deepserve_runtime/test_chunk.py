"""Chunks in a pod: what is told, in which order, and what goes back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from deepserve._values import decode_value, encode_value
from deepserve.protocol import begun_page
from deepserve.protocol.map_messages import AssignChunk, InputFinished, InputsFinished, InputsReturned
from deepserve.protocol.messages import Message
from deepserve_runtime.begun_page import NO_NOTE, BegunPage
from deepserve_runtime.chunk import Chunk


class Wire:
    def __init__(self) -> None:
        self.sent: list[tuple[Message, bytes]] = []

    def send(self, message: Message, payload: Any = b"") -> None:
        self.sent.append((message, bytes(payload)))

    def take(self) -> list[Message]:
        sent, self.sent = self.sent, []
        return [message for message, _ in sent]


class FakePod:
    pod_id = "pod-1"
    code = None
    segments = ""

    def __init__(self) -> None:
        self.link = Wire()


def chunk_of(count: int, page: BegunPage | None = None) -> tuple[Chunk, Wire, list[Any]]:
    parts = [encode_value(((number,), {}))[1] for number in range(count)]
    pod, ended = FakePod(), []
    message = AssignChunk("task-1", 1, "rq-1", "job-1", 10, [len(part) for part in parts], limit_s=5.0)
    chunk = Chunk(pod, message, b"".join(parts), ended.append, page)  # type: ignore[arg-type]
    chunk.begin()
    return chunk, pod.link, ended


def run_next(chunk: Chunk) -> int:
    position = chunk.next_position()
    assert position is not None
    (number,), _ = chunk.arguments(position)
    assert number == position and chunk.context_of(position).index == 10 + position
    chunk.ended_well(*encode_value(number * 10))
    return position


def test_results_are_told_together_and_in_order() -> None:
    chunk, wire, ended = chunk_of(4)
    for _ in range(2):
        run_next(chunk)
    assert wire.sent == []
    chunk.tell()
    [(message, payload)] = wire.sent
    assert isinstance(message, InputsFinished) and (message.position, len(message.sizes)) == (0, 2)
    assert decode_value(encode_value(0)[0], payload[: message.sizes[0]]) == 0
    wire.take()
    run_next(chunk)
    assert chunk.next_position() == 3
    chunk.ended_badly(ValueError("no"), may_retry=True)
    chunk.finish_chunk()
    many, failed = wire.take()
    assert isinstance(many, InputsFinished) and many.position == 2
    assert isinstance(failed, InputFinished) and failed.position == 3 and failed.may_retry
    assert failed.outcome.kind == "error" and ended == [chunk]


def test_a_recall_tells_what_has_ended_and_takes_what_has_not_begun() -> None:
    chunk, wire, _ = chunk_of(5)
    run_next(chunk)
    assert chunk.next_position() == 1
    chunk.recall()
    told, returned = wire.take()
    assert isinstance(told, InputsFinished) and len(told.sizes) == 1
    assert isinstance(returned, InputsReturned) and returned.position == 2 and returned.running_ms > 0
    assert chunk.is_empty and chunk.next_position() is None
    chunk.ended_well(*encode_value(1))
    chunk.finish_chunk()
    assert [type(message) for message in wire.take()] == [InputsFinished]


def test_a_cancel_ends_the_input_that_runs_and_returns_the_rest() -> None:
    chunk, wire, ended = chunk_of(5)
    run_next(chunk)
    assert chunk.next_position() == 1
    chunk.cancel("timeout")
    chunk.finish_cancelled()
    told, returned, stopped = wire.take()
    assert isinstance(told, InputsFinished) and isinstance(returned, InputsReturned) and returned.position == 2
    assert isinstance(stopped, InputFinished) and (stopped.position, stopped.outcome.kind) == (1, "timeout")
    assert ended == [chunk]


def test_a_chunk_that_cannot_run_fails_in_each_of_its_inputs() -> None:
    chunk, wire, _ = chunk_of(3)
    chunk.fail(AttributeError("no such method"))
    assert [(m.position, m.outcome.kind) for m in wire.take() if isinstance(m, InputFinished)] == [
        (0, "error"),
        (1, "error"),
        (2, "error"),
    ]


def test_ends_are_told_before_the_next_input_makes_a_call_and_before_the_one_after_it_begins() -> None:
    chunk, wire, _ = chunk_of(4)
    run_next(chunk)
    assert chunk.next_position() == 1
    chunk.before_call()
    assert [type(message) for message in wire.take()] == [InputsFinished]
    chunk.ended_well(*encode_value(1))
    assert chunk.next_position() is None, "it is time to tell"
    chunk.tell()
    assert chunk.next_position() == 2


def test_the_page_says_what_has_begun_after_the_pod_is_gone(tmp_path: Path) -> None:
    page = BegunPage.make(str(tmp_path), "pod-1")
    assert page is not None
    path = tmp_path / begun_page.file_name("pod-1")
    chunk, _, _ = chunk_of(3, page)
    assert begun_page.read(path.read_bytes()) == {("task-1", 1): 0}
    run_next(chunk)
    chunk.next_position()
    assert begun_page.read(path.read_bytes()) == {("task-1", 1): 2}
    chunk.recall()
    chunk.ended_well(*encode_value(1))
    chunk.finish_chunk()
    assert begun_page.read(path.read_bytes()) == {}


def test_a_page_has_room_for_so_many_and_garbage_on_it_is_skipped(tmp_path: Path) -> None:
    page = BegunPage.make(str(tmp_path), "pod-1")
    assert page is not None
    notes = [page.open(f"task-{number}", 1) for number in range(begun_page.NUM_RECORDS + 1)]
    assert notes[-1] is NO_NOTE and NO_NOTE not in notes[:-1]
    page.close(notes[-1])
    page.close(notes[0])
    assert page.open("task-x", 2) is not NO_NOTE and page.open("x" * 200, 1) is NO_NOTE
    assert begun_page.read(b"\xff" * begun_page.PAGE_BYTES) == {} and begun_page.read(b"short") == {}
    assert BegunPage.make("", "pod-1") is None and BegunPage.make(str(tmp_path / "missing"), "pod-1") is None
