from __future__ import annotations

import msgspec

from deepserve.protocol.messages import TaskFinished, TaskOutputs
from deepserve.protocol.model_io import Generated, GeneratedDelta, ToolCall
from tests.stream_items import all_items
from tests.unit.deepserve_runtime.fake_pod import FakePod

import pytest  # isort: skip

pytest.importorskip("tokenizers")
from deepserve_runtime.executors.generation import Generation, Piece  # noqa: E402


class WholeLines:
    """A parser that gives out lines, and takes those that begin with ! for calls."""

    def __init__(self) -> None:
        self.text = ""

    def feed(self, text: str) -> Piece:
        *lines, self.text = (self.text + text).split("\n")
        calls = tuple(ToolCall("id", line, {}) for line in lines if line.startswith("!"))
        return Piece("".join(line for line in lines if not line.startswith("!")), calls)

    def finish(self) -> Piece:
        return Piece(self.text) if not self.text.startswith("!") else Piece("", (), (self.text,))


def deltas(pod: FakePod) -> list[GeneratedDelta]:
    items = all_items(pod.link.of(TaskOutputs))
    return [msgspec.msgpack.decode(data, type=GeneratedDelta) for _, _, data in items]


def outcome(pod: FakePod) -> Generated:
    [(_, payload)] = pod.link.of(TaskFinished)
    return msgspec.msgpack.decode(payload, type=Generated)


def test_text_is_merged_while_there_is_no_credit_and_the_end_waits_for_it() -> None:
    pod = FakePod()
    task = pod.task(kind="stream", credit=1)
    generation = Generation(task, None)
    for text in ("a", "b", "c"):
        generation.add(text)
        assert not generation.flush()
    generation.complete("stop", 3, 3)
    assert not generation.flush()
    task.grant(1)
    assert generation.flush()
    assert [delta.text for delta in deltas(pod)] == ["a", "bc"]
    assert outcome(pod) == Generated("abc", "stop", 3, 3)


def test_a_plain_call_gets_everything_at_the_end() -> None:
    pod = FakePod()
    generation = Generation(pod.task(), None)
    generation.add("a")
    assert not generation.flush()
    generation.complete("length", 1, 1)
    assert generation.flush()
    assert deltas(pod) == [] and outcome(pod).finish_reason == "length"


def test_calls_are_reported_as_they_come_and_in_the_end() -> None:
    pod = FakePod()
    generation = Generation(pod.task(kind="stream", credit=10), WholeLines())
    for text in ("hel", "lo\n!ca", "ll\n!brok", "en"):
        generation.add(text)
        generation.flush()
    generation.complete("stop", 1, 9)
    assert generation.flush()
    call = ToolCall("id", "!call", {})
    assert deltas(pod) == [GeneratedDelta("hello"), GeneratedDelta("", [call])]
    assert outcome(pod) == Generated("hello", "tool_calls", 1, 9, [call], ["!broken"])
