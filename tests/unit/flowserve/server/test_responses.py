"""/v1/responses of one server: items whole and streamed, and how input becomes a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from flowserve.server.answer_ids import AnswerIds
from flowserve.server.api_error import ApiError
from flowserve.server.chat import Chat
from flowserve.server.generation_api import GenerationApi
from flowserve.server.requests import ChatRequest
from flowserve.server.response_items import ResponseItems
from flowserve.server.response_request import ResponseRequest
from flowserve.server.responses import ModelResponse
from flowserve.server.truncation import shortened
from flowserve.tool_calls.events import ArgumentsDelta, CallEnd, CallStart, ReasoningDelta, TextDelta

ADD = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    return {"type": "allowed_tools", "mode": mode, "tools": [{"type": "function", "name": name} for name in names]}


def events_of(written: str) -> list[dict[str, Any]]:
    found = []
    for block in written.removesuffix("\n\n").split("\n\n"):
        kind, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert kind == f"event: {found[-1]['type']}"
    return found


def test_whole_and_streamed(client: Callable[..., TestClient]) -> None:
    running = client()
    asked = {"input": "Hello", "max_output_tokens": 8, "temperature": 0}
    whole = running.post("/v1/responses", json=asked).json()
    events = events_of(running.post("/v1/responses", json={**asked, "stream": True}).text)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    last = events[-1]["response"]
    assert events[-1]["type"] == "response.incomplete" and last["incomplete_details"] == {"reason": "max_output_tokens"}
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert text == last["output"][0]["content"][0]["text"] == whole["output"][0]["content"][0]["text"]
    assert whole["usage"]["output_tokens"] == last["usage"]["output_tokens"] == 8


def test_log_probabilities_of_the_text_are_those_of_a_chat(client: Callable[..., TestClient]) -> None:
    running = client()
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8, "temperature": 0}
    told = running.post("/v1/chat/completions", json={**chat, "logprobs": True, "top_logprobs": 2}).json()
    expected = told["choices"][0]["logprobs"]["content"]
    asked = {"input": "Hello", "max_output_tokens": 8, "temperature": 0, "top_logprobs": 2}
    included = {**asked, "include": ["message.output_text.logprobs"]}
    whole = running.post("/v1/responses", json=included).json()
    assert whole["output"][0]["content"][0]["logprobs"] == expected and whole["top_logprobs"] == 2
    events = events_of(running.post("/v1/responses", json={**included, "stream": True}).text)
    deltas = [entry for event in events if event["type"].endswith("text.delta") for entry in event["logprobs"]]
    [done] = [event["logprobs"] for event in events if event["type"] == "response.output_text.done"]
    assert deltas == expected[: len(deltas)] and done == expected
    assert events[-1]["response"]["output"][0]["content"][0]["logprobs"] == expected
    assert running.post("/v1/responses", json=asked).json()["output"][0]["content"][0]["logprobs"] == []
    wrong = running.post("/v1/responses", json={**included, "top_logprobs": 99})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "top_logprobs")


def test_items_are_told_one_after_the_other() -> None:
    items = ResponseItems(AnswerIds())
    for event in (
        ReasoningDelta("hm"),
        TextDelta("I "),
        TextDelta("add"),
        CallStart(0, "add"),
        ArgumentsDelta(0, '{"a": '),
        ArgumentsDelta(0, "1}"),
        CallEnd(0),
        CallStart(1, "add"),
        ArgumentsDelta(1, "{"),
    ):
        items.add(event)
    items.finish(is_whole=False)
    events = events_of(items.take().decode())
    kinds = [item["type"] for item in items.items]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    assert items.items[1]["content"][0]["text"] == "I add" and items.items[2]["arguments"] == '{"a": 1}'
    assert [item["status"] for item in items.items] == ["completed"] * 3 + ["incomplete"]
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert done == items.items and not items.take()
    opened = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    assert opened == [item["id"] for item in items.items]


def test_input_items_become_messages() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "add", "arguments": "{}"}
    request = ResponseRequest(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
            {"type": "reasoning", "summary": []},
            call,
            {**call, "call_id": "c2"},
            {"type": "function_call_output", "call_id": "c1", "output": "3"},
        ],
        tools=[ADD],
    )
    chat = request.chat()
    assert [message["role"] for message in chat.messages] == ["system", "user", "assistant", "tool"]
    assert [each["id"] for each in chat.messages[2]["tool_calls"]] == ["c1", "c2"]
    assert chat.tools == [{"type": "function", "function": {"name": "add", "parameters": ADD["parameters"]}}]


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"input": []}, "input"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ],
)
def test_what_is_not_supported_is_refused(changes: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as refused:
        ResponseRequest(**{"input": "x", **changes}).chat()
    assert refused.value.param == param


def test_errors_name_the_fields_of_this_api(client: Callable[..., TestClient]) -> None:
    running = client()
    for asked, param in (
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": 3}], "instructions": "x"}, "input[0].content"),
        ({"input": [{"type": "function_call", "name": "add"}, {"type": "function_call"}]}, "input[1].name"),
        ({"input": [{"type": "function_call", "name": "add", "arguments": 3}]}, "input[0].arguments"),
        ({"input": [{"type": "function_call_output", "output": [3]}]}, "input[0].output[0]"),
        ({"input": "x", "tools": [{"type": "function", "name": ""}]}, "tools[0].name"),
        ({"input": "x", "tools": [{**ADD, "parameters": 3}]}, "tools[0].parameters"),
        ({"input": "x", "tools": [ADD], "tool_choice": allowed("auto", "other")}, "tool_choice"),
        ({"input": "x", "max_output_tokens": -1}, "max_output_tokens"),
        ({"input": "x", "tool_choice": "required"}, "tool_choice"),
        ({"input": "x", "text": {"format": {"type": "yaml"}}}, "text.format.type"),
        ({"input": 3}, "input"),
    ):
        answer = running.post("/v1/responses", json=asked)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


@pytest.mark.parametrize("kind", [ResponseRequest, ChatRequest])
def test_an_error_in_a_stream_is_an_event_as_the_others(api: Callable[..., GenerationApi], kind: type) -> None:
    model = api().model
    error = ApiError(503, "the server stops", code="stopped")
    if kind is ChatRequest:
        chat = Chat(ChatRequest(messages=[{"role": "user", "content": "Hello"}], stream=True), model)
        data, done = chat.error_events(error).removesuffix(b"\n\n").split(b"\n\n")
        assert json.loads(data.removeprefix(b"data: "))["error"]["code"] == "stopped" and done == b"data: [DONE]"
        return
    answer = ModelResponse(ResponseRequest(input="Hello", stream=True), model)
    [*begun, last] = events_of((answer.first_events() + answer.error_events(error)).decode())
    assert (last["type"], last["sequence_number"]) == ("error", len(begun))
    assert (last["message"], last["code"], last["param"]) == ("the server stops", "stopped", None)
    assert last["error"] == {
        "message": "the server stops",
        "type": "overloaded_error",
        "code": "stopped",
        "param": None,
    }


def test_only_allowed_tools_are_called(client: Callable[..., TestClient]) -> None:
    running = client()
    asked = {"input": [{"type": None, "role": "user", "content": "Hello"}], "tools": [ADD, {**ADD, "name": "other"}]}
    for name in ("add", "other"):
        choice = allowed("required", name)
        said = running.post("/v1/responses", json={**asked, "tool_choice": choice, "parallel_tool_calls": False}).json()
        assert [item["name"] for item in said["output"]] == [name] and said["tool_choice"] == choice


def test_a_conversation_that_is_too_long_loses_its_oldest_turns_where_that_is_asked_for(
    client: Callable[..., TestClient],
) -> None:
    running = client()
    asked = {"instructions": "Be nice.", "max_output_tokens": 4, "temperature": 0}
    turns = [{"role": role, "content": f"{n} " * 20} for n in range(20) for role in ("user", "assistant")]
    items = [*turns, {"role": "user", "content": "Hello"}]
    for how in ({}, {"truncation": "disabled"}):
        error = running.post("/v1/responses", json={**asked, **how, "input": items}).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "input")
    short = running.post("/v1/responses", json={**asked, "truncation": "auto", "input": items}).json()
    assert short["truncation"] == "auto" and 400 < short["usage"]["input_tokens"] <= 508
    kept = next(
        items[n:]
        for n in range(0, len(items), 2)
        if running.post("/v1/responses", json={**asked, "input": items[n:]}).status_code == 200
    )
    assert (
        short["output"][0]["content"]
        == (running.post("/v1/responses", json={**asked, "input": kept}).json()["output"][0]["content"])
    )
    one = [{"role": "user", "content": "word " * 2000}]
    refused = running.post("/v1/responses", json={**asked, "truncation": "auto", "input": one}).json()["error"]
    assert refused["code"] == "context_length_exceeded"


def test_the_oldest_calls_of_a_single_question_go_with_what_came_of_them() -> None:
    def said(*roles: str) -> list[dict[str, Any]]:
        return [{"role": role, "content": str(n)} for n, role in enumerate(roles)]

    messages = said("system", "user", "assistant", "tool", "tool", "assistant", "tool", "assistant", "tool")
    for num_kept, left in ((9, "012345678"), (8, "015678"), (6, "015678"), (5, "0178"), (1, "0178")):
        shorter = shortened(messages, lambda given, most=num_kept: len(given) <= most)
        assert "".join(message["content"] for message in shorter) == left
    asked = 0

    def never(given: list[dict[str, Any]]) -> bool:
        nonlocal asked
        asked += 1
        return False

    assert shortened(said(*["user", "assistant"] * 5000, "user"), never) == [{"role": "user", "content": "10000"}]
    assert asked < 20


@pytest.mark.parametrize("wrong", [{"truncation": "some"}, {"prompt": {"id": "pmpt_1"}}])
def test_what_is_not_done_is_refused(client: Callable[..., TestClient], wrong: dict[str, Any]) -> None:
    error = client().post("/v1/responses", json={"input": "Hello", **wrong}).json()["error"]
    assert [error["param"]] == list(wrong)
