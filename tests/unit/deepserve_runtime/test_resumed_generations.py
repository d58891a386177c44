"""A pod is lost behind any of its frames: the next one goes on without a lost or doubled character, or tool call."""

from __future__ import annotations

import queue
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

pytest.importorskip("torch")

from deepserve.protocol.messages import TaskFinished, TaskOutputs  # noqa: E402
from deepserve.protocol.model_io import Generated, GeneratedDelta, GenerationParams, TokenizedPrompt  # noqa: E402
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec  # noqa: E402
from deepserve_runtime.executors.engine import EngineExecutor  # noqa: E402
from deepserve_runtime.executors.journal import Journal  # noqa: E402
from deepserve_runtime.task_threads import TaskThreads  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.unit.deepserve_runtime.fake_pod import FakeLink, FakePod  # noqa: E402

ARGUMENTS = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}},
    "required": ["a"],
    "additionalProperties": False,
}
CALL = {
    "type": "object",
    "properties": {"name": {"const": "add"}, "parameters": ARGUMENTS},
    "required": ["name", "parameters"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> EngineExecutor:
    folder: Path = make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3")
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threads = cast(TaskThreads, SimpleNamespace(main=SimpleNamespace(inbox=inbox, link=FakeLink())))
    spec = FunctionSpec("models", "tiny", "model", CodeRef("builtin", "", ""), model=ModelSpec("tiny", str(folder)))
    made = EngineExecutor(spec, threads)
    made.load()
    made._reader.__dict__["_answers"] = SimpleNamespace(calls="llama3_json", needs_special_tokens=False)
    return made


def run(executor: EngineExecutor, prompt: TokenizedPrompt, **attempt: Any) -> FakePod:
    """One attempt, to its end. Nothing is gathered: each item is a frame."""
    pod = FakePod()
    task = pod.task(msgspec.to_builtins(prompt), credit=1000, replay="resume", **attempt)
    executor.assign(task)
    while not pod.link.of(TaskFinished):
        if task.outputs is not None:
            task.outputs._sent_s = -1.0
        executor._main.inbox.get(timeout=60)()  # type: ignore[misc]
    executor._engine.check_invariants()
    assert pod.finished.outcome.is_ok, pod.finished.outcome
    return pod


def said(frames: list[tuple[TaskOutputs, bytes]]) -> tuple[str, list[Any], bytes]:
    """What the caller has: the text, the calls; and what the controller has journaled."""
    text, calls, journal = "", [], b""
    for frame, payload in frames:
        at = 0
        for value in frame.values:
            delta = msgspec.msgpack.decode(payload[at : at + value.size_bytes], type=GeneratedDelta)
            text, calls, at = text + delta.text, calls + delta.tool_calls, at + value.size_bytes
        journal += frame.journal
    return text, calls, journal


def generated(pod: FakePod) -> Generated:
    """Without what depends on the pod: how much of the prompt was cached there."""
    [(_, payload)] = pod.link.of(TaskFinished)
    return msgspec.structs.replace(msgspec.msgpack.decode(payload, type=Generated), cached_tokens=0)


PROMPTS = {
    "greedy": TokenizedPrompt([1, 2, 3], GenerationParams(max_tokens=40, temperature=0.0)),
    "a seed of its own": TokenizedPrompt([1, 2, 3], GenerationParams(max_tokens=40, temperature=1.0, ignore_eos=True)),
    "stop strings": TokenizedPrompt([1, 2, 3], GenerationParams(max_tokens=60, seed=4, stop=["e", "o"])),
    "schema": TokenizedPrompt([5, 6], GenerationParams(max_tokens=60, temperature=1.0, seed=1, json_schema=CALL)),
    "tool call": TokenizedPrompt([5, 6], GenerationParams(max_tokens=60, seed=1, json_schema=CALL), parse_tools=True),
    "text beside tools": TokenizedPrompt(
        [5, 6], GenerationParams(max_tokens=60, temperature=1.0, ignore_eos=True), parse_tools=True
    ),
}


@pytest.mark.parametrize("name", list(PROMPTS))
def test_a_stream_goes_on_behind_each_frame(executor: EngineExecutor, name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.generation.MAX_UNSAID", 3)
    monkeypatch.setattr("deepserve_runtime.outputs.FLUSH_S", 0.0)
    prompt = PROMPTS[name]
    whole = run(executor, prompt, kind="stream")
    frames = whole.link.of(TaskOutputs)
    text, calls, _ = said(frames)
    expected = generated(whole)
    assert text == expected.text and calls == expected.tool_calls and len(frames) > (1 if name == "tool call" else 3)
    assert bool(calls) == (name == "tool call"), expected
    for cut in range(1, len(frames) + 1):
        before, calls_before, journal = said(frames[:cut])
        offset = sum(len(frame.values) for frame, _ in frames[:cut])
        again = run(executor, prompt, kind="stream", journal=journal, resume_offset=offset)
        after, calls_after, rest = said(again.link.of(TaskOutputs))
        assert (before + after, calls_before + calls_after) == (text, calls), cut
        assert generated(again) == expected
        assert Journal(journal + rest).token_ids == Journal(said(frames)[2]).token_ids or not rest
        first = next((frame.offset for frame, _ in again.link.of(TaskOutputs) if frame.values), offset)
        assert first == offset


def test_a_call_goes_on_from_its_journal(executor: EngineExecutor, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.generation.MAX_UNSAID", 4)
    prompt = PROMPTS["a seed of its own"]
    whole = run(executor, prompt)
    frames = whole.link.of(TaskOutputs)
    assert len(frames) == 9 and not any(frame.values for frame, _ in frames)
    steps = executor._engine.stats().num_steps
    again = run(executor, prompt, journal=said(frames)[2])
    assert generated(again) == generated(whole)
    assert executor._engine.stats().num_steps - steps < 12  # 36 of its 40 tokens were there


def test_several_answers_go_on_with_their_log_probabilities(executor: EngineExecutor, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.generation.MAX_UNSAID", 5)
    params = GenerationParams(n=3, logprobs=2, max_tokens=20, stop=["e"], seed=1)
    prompt = TokenizedPrompt([1, 2, 3], params)
    whole = run(executor, prompt)
    expected = generated(whole)
    answers = [expected, *expected.others]
    assert len({each.text for each in answers}) == 3
    assert all(len(each.logprobs) == each.completion_tokens for each in answers)
    frames = whole.link.of(TaskOutputs)
    assert len(frames) > 2
    for cut in range(1, len(frames) + 1):
        again = generated(run(executor, prompt, journal=said(frames[:cut])[2]))
        for one, other in zip([again, *again.others], answers, strict=True):
            assert (one.text, one.finish_reason, one.completion_tokens) == (
                other.text,
                other.finish_reason,
                other.completion_tokens,
            )
            assert [each.bytes for each in one.logprobs] == [each.bytes for each in other.logprobs]
            numbers = [each.logprob for each in other.logprobs]
            assert [each.logprob for each in one.logprobs] == pytest.approx(numbers, abs=1e-3)


def test_a_journal_of_another_model_fails_its_task_alone(executor: EngineExecutor) -> None:
    journal = Journal()
    journal.add([10**6])
    pod = FakePod()
    prompt = PROMPTS["greedy"]
    executor.assign(pod.task(msgspec.to_builtins(prompt), kind="stream", credit=9, journal=journal.take()))
    executor._main.inbox.get(timeout=60)()  # type: ignore[misc]
    assert "1000000 is not in the vocabulary" in pod.finished.outcome.detail
    assert generated(run(executor, prompt)).completion_tokens == 40


def test_a_journal_is_put_together_from_what_was_said() -> None:
    journal = Journal()
    journal.add([1, 70000])
    first = journal.take()
    assert journal.take() == b"" and len(first) == 20
    journal.add([3])
    read = Journal(first + journal.take())
    assert (read.nonce, read.token_ids, read.seed) == (journal.nonce, [1, 70000, 3], journal.seed)
    assert read.call_id(1) == journal.call_id(1) != journal.call_id(0)
    read.add([4])
    assert read.take() == (4).to_bytes(4, "little")
