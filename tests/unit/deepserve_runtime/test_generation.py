from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from deepserve.protocol.messages import TaskFinished, TaskOutputs
from deepserve.protocol.model_io import Generated, GeneratedDelta, LikelyToken, TokenLogprob, ToolCall
from tests.stream_items import all_items
from tests.unit.deepserve_runtime.fake_pod import FakePod

import pytest  # isort: skip

pytest.importorskip("tokenizers")
from deepserve_runtime.executors.completion import GrowingCompletion, Piece  # noqa: E402
from deepserve_runtime.executors.flowserve_parts import SequenceOutput, TokenLogprobs  # noqa: E402
from deepserve_runtime.executors.generation import Generation  # noqa: E402


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
    completion = GrowingCompletion()
    generation = Generation(task, [completion])
    for text in ("a", "b", "c"):
        completion.add(text)
        assert not generation.flush()
    completion.complete("stop", 3, 3)
    assert not generation.flush()
    task.grant(1)
    assert generation.flush()
    assert [delta.text for delta in deltas(pod)] == ["a", "bc"]
    assert outcome(pod) == Generated("abc", "stop", 3, 3)


def test_a_plain_call_gets_everything_at_the_end() -> None:
    pod = FakePod()
    completion = GrowingCompletion()
    generation = Generation(pod.task(), [completion])
    completion.add("a")
    assert not generation.flush()
    completion.complete("length", 1, 1)
    assert generation.flush()
    assert deltas(pod) == [] and outcome(pod).finish_reason == "length"


def test_calls_are_reported_as_they_come_and_in_the_end() -> None:
    pod = FakePod()
    completion = GrowingCompletion(WholeLines())
    generation = Generation(pod.task(kind="stream", credit=10), [completion])
    for text in ("hel", "lo\n!ca", "ll\n!brok", "en"):
        completion.add(text)
        generation.flush()
    completion.complete("stop", 1, 9)
    assert generation.flush()
    call = ToolCall("id", "!call", {})
    assert deltas(pod) == [GeneratedDelta("hello"), GeneratedDelta("", [call])]
    assert outcome(pod) == Generated("hello", "tool_calls", 1, 9, [call], ["!broken"])


def test_all_answers_of_a_prompt_are_told_together() -> None:
    pod = FakePod()
    tokens: Any = SimpleNamespace(token=lambda token_id: (f"t{token_id}", b"t%d" % token_id))
    completions = [GrowingCompletion(tokens=tokens) for _ in range(2)]
    generation = Generation(pod.task(), completions)
    entry = TokenLogprobs(7, -0.5, ((7, -0.5), (8, -1.5)))
    for index, text in ((0, "a"), (1, "b"), (1, "c"), (0, "d")):
        is_last = text in "cd"
        reason = "stop" if is_last else None
        output = SequenceOutput(
            "s", (7,), text, is_last, reason, 3, 1 + is_last, (entry,), index=index, num_cached_tokens=2
        )
        assert not generation.is_complete and not generation.flush()
        generation.receive(output)
    assert generation.flush()
    whole = outcome(pod)
    told = TokenLogprob("t7", -0.5, b"t7", [LikelyToken("t7", -0.5, b"t7"), LikelyToken("t8", -1.5, b"t8")])
    assert [(each.text, each.completion_tokens, each.logprobs) for each in (whole, *whole.others)] == [
        ("ad", 2, [told, told]),
        ("bc", 2, [told, told]),
    ]
    assert whole.cached_tokens == 2
