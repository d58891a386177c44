"""A stream of the OpenAI API whose pod is lost behind any of its frames goes on with the very bytes that would have
come."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

from deepserve.protocol.messages import PrepareTask, TaskFinished, TaskOutputs, Value  # noqa: E402
from deepserve.protocol.openai_io import OpenAIPrompts, OpenAIUsage  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.unit.deepserve_runtime.fake_pod import FakePod  # noqa: E402
from tests.unit.deepserve_runtime.test_openai_executors import HELLO, Executors, result, written  # noqa: E402

NUMBER = re.compile(rb'"logprob":-?[0-9.e-]+')
OWN = re.compile(rb'"cached_tokens":[0-9]+')
"""Of an attempt alone: what it found in its own cache."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
FLAT_ADD = {"type": "function", "name": "add", "parameters": SCHEMA}
LOGPROBS = "message.output_text.logprobs"
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
RESPONSE = {"input": "hi", "temperature": 1, "stream": True}
METHODS = {
    "chat": ("openai.chat", {"messages": HELLO, "max_tokens": 30, "temperature": 0, **STREAM}),
    "no seed": ("openai.chat", {"messages": HELLO, "max_tokens": 30, "temperature": 1, "ignore_eos": True, **STREAM}),
    "call": ("openai.chat", {"messages": HELLO, "seed": 1, "tools": [ADD], "tool_choice": "required", **STREAM}),
    "response": ("openai.responses", {**RESPONSE, "max_output_tokens": 30}),
    "response, probable": ("openai.responses", {**RESPONSE, "max_output_tokens": 12, "include": [LOGPROBS]}),
    "response with a call": (
        "openai.responses",
        {"input": "hi", "temperature": 1, "tools": [FLAT_ADD], "tool_choice": "required", "stream": True},
    ),
    "completion": ("openai.completions", {"prompt": "Once upon", "max_tokens": 30, "seed": 2, "echo": True, **STREAM}),
}


@pytest.fixture(scope="module")
def executors(tmp_path_factory: pytest.TempPathFactory) -> Executors:
    return Executors(make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3"))


def same(data: bytes) -> bytes:
    """What every attempt tells. (Numbers are computed anew in steps of other sizes; other tests look at them.)"""
    return NUMBER.sub(b"", OWN.sub(b"", data))


def attempt(executors: Executors, method: str, prompts: OpenAIPrompts, **fields: Any) -> FakePod:
    """To its end; each item is a frame."""
    pod, task = executors.assign(
        executors.engine, method, prompts, kind="stream", credit=500, credit_bytes=1 << 22, replay="resume", **fields
    )
    assert task.outputs is not None
    while not pod.link.of(TaskFinished):
        task.outputs._sent_s = -1.0
        executors._inbox.get(timeout=60)()
    executors.check_nothing_left()
    return pod


@pytest.mark.parametrize("name", list(METHODS))
def test_a_stream_goes_on_behind_each_frame(executors: Executors, name: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.openai_generation.MAX_UNSAID", 3)
    monkeypatch.setattr("deepserve_runtime.outputs.FLUSH_S", 0.0)
    method, asked = METHODS[name]
    prompts = result(executors.prompts(method, {"model": "tiny", **asked}), OpenAIPrompts)
    drawn = (attempt(executors, method, prompts) for _ in range(9))  # without a seed, the first tokens may be the end
    whole = next(pod for pod in drawn if len(pod.link.of(TaskOutputs)) > 4)
    frames = whole.link.of(TaskOutputs)
    for cut in range(1, len(frames) + 1):
        lost = FakePod()
        lost.link.sent = list(frames[:cut])
        journal = b"".join(frame.journal for frame, _ in frames[:cut])
        offset = sum(len(frame.values) for frame, _ in frames[:cut])
        again = attempt(executors, method, prompts, journal=journal, resume_offset=offset)
        assert result(again, OpenAIUsage).completion_tokens == result(whole, OpenAIUsage).completion_tokens
        assert same(written(lost) + written(again)) == same(written(whole)), cut


SEVERAL = {"n": 3, "max_tokens": 14, "temperature": 1, "ignore_eos": True}
MANY: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("openai.chat", {"messages": HELLO, "logprobs": True, "top_logprobs": 2, **SEVERAL}),
    "chat that stops": ("openai.chat", {"messages": HELLO, "logprobs": True, "n": 3, "seed": 3, "stop": ["e"]}),
    "completions": ("openai.completions", {"prompt": ["Once", "upon a"], "echo": True, "logprobs": 2, **SEVERAL}),
    "one with logprobs": ("openai.completions", {"prompt": "Once", "logprobs": 0, **SEVERAL, "n": 1}),
    "half characters": ("openai.chat", {"messages": HELLO, "logprobs": True, "n": 2, "max_tokens": 20, "seed": 7}),
}


class Told:
    """What a client has read of one choice."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens: list[str] = []
        self.offsets: list[int] = []
        self.numbers: list[float] = []
        self.ends: list[str] = []

    def read(self, choice: dict[str, Any]) -> None:
        said = choice.get("delta") or choice.get("message") or choice
        self.text += said.get("text") or said.get("content") or ""
        logprobs = choice["logprobs"] or {}
        for entry in logprobs.get("content", ()):
            self.tokens += [entry["token"], *(each["token"] for each in entry["top_logprobs"])]
            self.numbers += [entry["logprob"], *(each["logprob"] for each in entry["top_logprobs"])]
        self.offsets += logprobs.get("text_offset", ())
        self.tokens += logprobs.get("tokens", ())
        for top in [{"none": 0.0} if top is None else top for top in logprobs.get("top_logprobs", ())]:
            self.tokens += top
            self.numbers += top.values()
        self.ends += [choice["finish_reason"]] if choice["finish_reason"] else []

    def check(self, other: Told) -> None:
        own, wanted = dict(vars(self)), dict(vars(other))
        # What is computed anew is computed in steps of other sizes.
        assert own.pop("numbers") == pytest.approx(wanted.pop("numbers"), abs=1e-3)
        assert own == wanted


def read(data: bytes, is_stream: bool) -> tuple[dict[int, Told], list[Any]]:
    """By index; and usage, ids, and how often the end was told."""
    bodies = [data]
    if is_stream:
        *events, last = data.split(b"\n\n")
        bodies = [event.removeprefix(b"data: ") for event in events if event != b"data: [DONE]"]
    told: dict[int, Told] = {}
    about: list[Any] = [data.count(b"data: [DONE]")]
    for body in map(json.loads, bodies):
        for choice in body["choices"]:
            told.setdefault(choice["index"], Told()).read(choice)
        about += [body["usage"]["completion_tokens"]] if body.get("usage") else []
        about += [(body["id"], body["created"])] if (body["id"], body["created"]) not in about else []
    return told, about


@pytest.mark.parametrize("is_stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("name", list(MANY))
def test_all_completions_and_their_logprobs_go_on_behind_each_frame(
    executors: Executors, name: str, is_stream: bool, monkeypatch: Any
) -> None:
    """Nothing is lost or doubled, also where some of them were over."""
    monkeypatch.setattr("deepserve_runtime.executors.openai_generation.MAX_UNSAID", 3)
    monkeypatch.setattr("deepserve_runtime.outputs.FLUSH_S", 0.0)
    method, asked = MANY[name]
    prompts = result(
        executors.prompts(method, {"model": "tiny", **asked, **(STREAM if is_stream else {})}), OpenAIPrompts
    )
    whole = attempt(executors, method, prompts)
    expected, about = read(written(whole), is_stream)
    frames = whole.link.of(TaskOutputs)
    assert len(frames) > 4 and len(expected) == asked["n"] * len(prompts.prompts)
    for cut in range(1, len(frames) + is_stream):
        lost = FakePod()
        lost.link.sent = list(frames[:cut])
        journal = b"".join(frame.journal for frame, _ in frames[:cut])
        offset = sum(len(frame.values) for frame, _ in frames[:cut])
        again = attempt(executors, method, prompts, journal=journal, resume_offset=offset)
        got, got_about = read(written(lost) + written(again), is_stream)
        assert got_about == about and got.keys() == expected.keys(), cut
        for index, told in got.items():
            told.check(expected[index])
        assert result(again, OpenAIUsage).completion_tokens == result(whole, OpenAIUsage).completion_tokens


def test_kept_log_probabilities_are_those_that_were_told(executors: Executors, monkeypatch: Any) -> None:
    """To the last digit, and not computed again."""
    monkeypatch.setattr("deepserve_runtime.executors.openai_generation.MAX_UNSAID", 4)
    method, asked = MANY["completions"]
    prompts = result(executors.prompts(method, {"model": "tiny", **asked}), OpenAIPrompts)
    whole = attempt(executors, method, prompts)
    journal = b"".join(frame.journal for frame, _ in whole.link.of(TaskOutputs)[:-1])
    again = attempt(executors, method, prompts, journal=journal)
    kept, told = (json.loads(written(pod))["choices"] for pod in (again, whole))
    for one, other in zip(kept, told, strict=True):
        count = len(other["logprobs"]["tokens"]) - 3
        assert one["logprobs"]["token_logprobs"][:count] == other["logprobs"]["token_logprobs"][:count]


def test_what_moves_is_prefilled_with_all_that_was_put_out(executors: Executors, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.openai_generation.MAX_UNSAID", 4)
    method, asked = MANY["completions"]
    body = {"model": "tiny", **asked, "cache_salt": "moves", "max_tokens": 90}
    prompts = result(executors.prompts(method, body), OpenAIPrompts)
    whole = attempt(executors, method, prompts)
    journal = b"".join(frame.journal for frame, _ in whole.link.of(TaskOutputs)[:-1])
    engine = executors.engine
    for sleeping in (engine._engine.sleep, engine._engine.wake):
        sleeping()  # forgets what is cached
    assert not engine._engine.stats().cached_blocks
    replies: list[Any] = []
    payload = msgspec.msgpack.encode(prompts)
    message = PrepareTask("t-moving", 1, method, Value("msgpack", len(payload)), journal)
    engine.prepare(message, payload, replies.append)
    executors.run()
    assert [(reply.task_id, reply.error) for reply in replies] == [("t-moving", "")]
    assert engine._engine.stats().cached_blocks >= 6 * 2, "each of the six has two whole blocks of 32 tokens"
    engine.prepare(msgspec.structs.replace(message, journal=journal + b"\xff\xff\xff\x7f"), payload, replies.append)
    executors.run()
    assert "not in the vocabulary" in replies[-1].error


@pytest.mark.parametrize("method", ["openai.chat", "openai.responses"])
def test_a_whole_body_goes_on_from_its_journal(executors: Executors, method: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.openai_generation.MAX_UNSAID", 4)
    said = (
        {"messages": HELLO, "max_tokens": 40} if method == "openai.chat" else {"input": "hi", "max_output_tokens": 40}
    )
    prompts = result(executors.prompts(method, {"model": "tiny", "temperature": 1, **said}), OpenAIPrompts)
    whole = attempt(executors, method, prompts)
    journal = b"".join(frame.journal for frame, _ in whole.link.of(TaskOutputs)[:3])
    again = attempt(executors, method, prompts, journal=journal)
    assert OWN.sub(b"", written(again)) == OWN.sub(b"", written(whole)) and b'"usage"' in written(again)
