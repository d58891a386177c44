"""A stream of the OpenAI API whose pod is lost behind any of its frames goes on with the very bytes that would have
come."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("torch")

from deepserve.protocol.messages import TaskFinished, TaskOutputs  # noqa: E402
from deepserve.protocol.openai_io import OpenAIPrompts, OpenAIUsage  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.unit.deepserve_runtime.fake_pod import FakePod  # noqa: E402
from tests.unit.deepserve_runtime.test_openai_executors import HELLO, Executors, result, written  # noqa: E402

OWN = re.compile(rb'call_[0-9a-f]+|"cached_tokens":[0-9]+')
"""Of an attempt alone: the id of a call that has not begun, and what it found in its own cache."""
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
ADD = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
STREAM: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
METHODS = {
    "chat": ("openai.chat", {"messages": HELLO, "max_tokens": 30, "temperature": 0, **STREAM}),
    "no seed": ("openai.chat", {"messages": HELLO, "max_tokens": 30, "temperature": 1, "ignore_eos": True, **STREAM}),
    "call": ("openai.chat", {"messages": HELLO, "seed": 1, "tools": [ADD], "tool_choice": "required", **STREAM}),
    "completion": ("openai.completions", {"prompt": "Once upon", "max_tokens": 30, "seed": 2, "echo": True, **STREAM}),
}


@pytest.fixture(scope="module")
def executors(tmp_path_factory: pytest.TempPathFactory) -> Executors:
    return Executors(make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3"))


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
    whole = attempt(executors, method, prompts)
    frames = whole.link.of(TaskOutputs)
    assert len(frames) > 4
    for cut in range(1, len(frames) + 1):
        lost = FakePod()
        lost.link.sent = list(frames[:cut])
        journal = b"".join(frame.journal for frame, _ in frames[:cut])
        offset = sum(len(frame.values) for frame, _ in frames[:cut])
        again = attempt(executors, method, prompts, journal=journal, resume_offset=offset)
        told = json.loads(written(again).split(b"data: ")[-2]) if cut < len(frames) else {}
        assert not told or told["usage"]["completion_tokens"] == result(whole, OpenAIUsage).completion_tokens
        assert OWN.sub(b"", written(lost) + written(again)) == OWN.sub(b"", written(whole)), cut


def test_a_whole_body_goes_on_from_its_journal(executors: Executors, monkeypatch: Any) -> None:
    monkeypatch.setattr("deepserve_runtime.executors.openai_generation.MAX_UNSAID", 4)
    asked = {"model": "tiny", "messages": HELLO, "max_tokens": 40, "temperature": 1}
    prompts = result(executors.prompts("openai.chat", asked), OpenAIPrompts)
    whole = attempt(executors, "openai.chat", prompts)
    journal = b"".join(frame.journal for frame, _ in whole.link.of(TaskOutputs)[:3])
    again = attempt(executors, "openai.chat", prompts, journal=journal)
    assert OWN.sub(b"", written(again)) == OWN.sub(b"", written(whole)) and b'"usage"' in written(again)


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("openai.chat", {"messages": HELLO, "n": 2, "stream": True}),
        ("openai.chat", {"messages": HELLO, "logprobs": True}),
        ("openai.responses", {"input": "hi", "stream": True}),
    ],
)
def test_what_cannot_be_resumed_has_no_journal(executors: Executors, method: str, asked: dict[str, Any]) -> None:
    """So that nobody tries."""
    limit = "max_output_tokens" if method == "openai.responses" else "max_tokens"
    prompts = result(executors.prompts(method, {"model": "tiny", limit: 50, **asked}), OpenAIPrompts)
    whole = attempt(executors, method, prompts)
    assert not any(frame.journal for frame, _ in whole.link.of(TaskOutputs))
