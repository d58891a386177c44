"""Reasoning and calls that the model itself wrote, whole and streamed: its text is scripted, all else is real."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from flowserve.server.generation_api import GenerationApi
from tests.unit.flowserve.server.streams import events, finish_reasons, joined_calls, joined_content

HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "get_weather")]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": "süß"}}\n</tool_call>'
OTHER = '<tool_call>\n{"name": "get_weather", "arguments": {}}\n</tool_call>'

Say = Callable[..., Any]


@pytest.fixture
def say(api: Callable[..., GenerationApi], monkeypatch: pytest.MonkeyPatch) -> Say:
    """`say(text, size, stream=..., **asked)`: the answer of a model that says `text`, `size` characters per token, and
    ends for that reason."""

    def say_it(
        text: str, size: int, *, config: dict[str, Any] | None = None, reason: str = "stop", **asked: Any
    ) -> Any:
        pieces = [text[i : i + size] for i in range(0, len(text), size)]
        running = api(**(config or {}))
        engine: Any = running.engine._engine
        step = engine.step

        def scripted() -> Any:
            outputs = step()
            ends = [output._replace(finish_reason=reason) if output.finished else output for output in outputs]
            return [output._replace(text=pieces[output.num_output_tokens - 1]) for output in ends]

        monkeypatch.setattr(engine, "step", scripted)
        body = {"messages": HELLO, "max_tokens": len(pieces), "ignore_eos": True, **asked}
        with TestClient(running.asgi) as client:
            response = client.post("/v1/chat/completions", json=body)
            assert response.status_code == 200, response.text
            return events(response.text) if asked.get("stream") else response.json()["choices"][0]

    return say_it


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_calls_of_the_model_s_own_are_found(say: Say, size: int) -> None:
    whole = say(f"Well. {CALL}\n{OTHER}", size, tools=TOOLS)
    assert whole["finish_reason"] == "tool_calls" and whole["message"]["content"] == "Well."
    calls = [(call["type"], *call["function"].values()) for call in whole["message"]["tool_calls"]]
    assert [(kind, name) for kind, name, _ in calls] == [("function", "add"), ("function", "get_weather")]
    assert json.loads(calls[0][2]) == {"a": "süß"}
    chunks = say(f"Well. {CALL}\n{OTHER}", size, tools=TOOLS, stream=True)
    assert joined_content(chunks) == "Well." and finish_reasons(chunks) == ["tool_calls"]
    streamed = joined_calls(chunks)
    assert [(call["name"], json.loads(call["arguments"])) for call in streamed] == [
        ("add", {"a": "süß"}),
        ("get_weather", {}),
    ]
    assert len({call["id"] for call in streamed}) == 2


def test_one_call_at_a_time_where_the_client_wants_that(say: Say) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "parallel_tool_calls": False}
    [call] = say(f"{CALL}\n{OTHER}", 5, **asked)["message"]["tool_calls"]
    assert call["function"]["name"] == "add"
    [call] = joined_calls(say(f"{CALL}\n{OTHER}", 5, stream=True, **asked))
    assert call["name"] == "add"


def test_without_tools_calls_are_text(say: Say) -> None:
    for asked in ({}, {"tools": TOOLS, "tool_choice": "none"}):
        answered = say(CALL, 4, **asked)
        assert answered["message"]["content"] == CALL and answered["finish_reason"] == "stop"


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_reasoning_has_a_field_of_its_own(say: Say, size: int) -> None:
    text = f"<think>\nHm, {CALL}?\n</think>\n\nHi. {OTHER}"
    config = {"reasoning": True}
    message = say(text, size, tools=TOOLS, config=config)["message"]
    assert (message["reasoning_content"], message["content"]) == (f"Hm, {CALL}?", "Hi.")
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["get_weather"]
    chunks = say(text, size, tools=TOOLS, config=config, stream=True)
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == f"Hm, {CALL}?"
    assert joined_content(chunks) == "Hi." and len(joined_calls(chunks)) == 1
    plain = say(text, size, config={"reasoning": False})["message"]
    assert plain["content"] == text and "reasoning_content" not in plain


def test_formats_by_name(say: Say) -> None:
    text = '[TOOL_CALLS] [{"name": "add", "arguments": {"a": 1}}]'
    [call] = say(text, 3, tools=TOOLS, config={"call_format": "mistral"})["message"]["tool_calls"]
    assert call["function"]["name"] == "add" and json.loads(call["function"]["arguments"]) == {"a": 1}


def test_a_name_with_half_a_character_does_not_break_the_answer(say: Say) -> None:
    text = '<tool_call>\n{"name": "a\\ud800", "arguments": {"b": "\\ud800"}}\n</tool_call>'
    [call] = say(text, 6, tools=TOOLS)["message"]["tool_calls"]
    assert call["function"]["name"].startswith("a")
    assert len(joined_calls(say(text, 6, tools=TOOLS, stream=True))) == 1


CUT_CALLS = {
    "hermes": '<tool_call>\n{"name": "add", "arguments": {"a": 12}}\n</tool_call>',
    "mistral": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 12}}]',
    "llama3_json": '{"name": "add", "parameters": {"a": 12}}',
    "pythonic": "[add(a=12)]",
}


@pytest.mark.parametrize("form", CUT_CALLS)
def test_an_answer_that_is_cut_off_inside_a_call_shows_no_markup(say: Say, form: str) -> None:
    """Wherever it is cut behind what could still be text: a call whose name was told has the arguments so far."""
    call = CUT_CALLS[form]
    for end in range(max(5, len(call) // 3), len(call), 7):
        asked: dict[str, Any] = {"tools": TOOLS, "config": {"call_format": form}, "reason": "length"}
        choice = say(call[:end], 6, **asked)
        calls = choice["message"].get("tool_calls") or []
        assert not choice["message"]["content"], call[:end]
        assert choice["finish_reason"] == "length" and len(calls) <= 1
        assert all(each["function"]["name"] == "add" for each in calls)
        chunks = say(call[:end], 6, stream=True, **asked)
        assert joined_content(chunks) == "" and finish_reasons(chunks) == ["length"]
        assert [each["arguments"] for each in joined_calls(chunks)] == [each["function"]["arguments"] for each in calls]


def test_what_the_model_itself_ended_is_shown_though_it_is_no_call(say: Say) -> None:
    for text in ('<tool_call>{"name": "add"', "<tool_call>oops</tool_call> and"):
        assert say(text, 6, tools=TOOLS)["message"]["content"] == text
        assert joined_content(say(text, 6, tools=TOOLS, stream=True)) == text


@pytest.mark.parametrize("max_tokens", range(1, 30, 7))
def test_a_required_call_that_is_cut_off(client: Callable[..., TestClient], max_tokens: int) -> None:
    """Of the real engine, whose grammar makes the random model call."""
    running = client()
    asked = {"messages": HELLO, "tools": TOOLS[:1], "tool_choice": "required", "seed": 1, "max_tokens": max_tokens}
    choice = running.post("/v1/chat/completions", json=asked).json()["choices"][0]
    assert choice["finish_reason"] in ("length", "tool_calls") and not choice["message"]["content"]
    calls = choice["message"].get("tool_calls") or []
    chunks = events(running.post("/v1/chat/completions", json={**asked, "stream": True}).text)
    assert joined_content(chunks) == "" and finish_reasons(chunks) == [choice["finish_reason"]]
    assert [each["arguments"] for each in joined_calls(chunks)] == [each["function"]["arguments"] for each in calls]
