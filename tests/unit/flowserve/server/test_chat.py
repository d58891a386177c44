"""POST /v1/chat/completions: answers, tools, formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from flowserve import Engine, EngineConfig
from flowserve.server.app import ServerConfig
from flowserve.server.generation_api import GenerationApi
from tests.unit.flowserve.server.streams import events, finish_reasons, joined_calls, joined_content

PATH = "/v1/chat/completions"
Client = Callable[..., TestClient]
HELLO = [{"role": "user", "content": "Hello"}]


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": list(parameters), "additionalProperties": False}
    return {"type": "function", "function": {"name": name, "description": f"Does {name}.", "parameters": schema}}


TOOLS = [tool("get_weather", city={"type": "string", "maxLength": 4}), tool("add", a={"type": "integer", "maximum": 9})]


@pytest.mark.parametrize("stream", [False, True])
def test_a_conversation_is_answered(client: Client, answer: Callable[..., str], stream: bool) -> None:
    asked = {"messages": HELLO, "max_tokens": 12, "temperature": 0, "stream": stream}
    response = client().post(PATH, json=asked)
    expected = answer(HELLO, max_tokens=12)
    if not stream:
        body = response.json()
        assert body["object"] == "chat.completion" and body["id"].startswith("chatcmpl-")
        message = {"role": "assistant", "content": expected, "refusal": None}
        assert body["choices"] == [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}]
        return
    chunks = events(response.text)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["delta"] == {} and finish_reasons(chunks) == ["length"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all("usage" not in chunk for chunk in chunks)
    assert joined_content(chunks) == expected


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_was_cut_off_may_stay_in_the_conversation(client: Client, stream: bool) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": [1, "two'}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": "And?"},
    ]
    running = client()
    response = running.post(PATH, json={"messages": messages, "max_tokens": 4, "stream": stream})
    assert response.status_code == 200 and '"error"' not in response.text
    tokens = running.post("/tokenize", json={"messages": messages}).json()["tokens"]
    assert "[1, " in running.post("/detokenize", json={"tokens": tokens}).json()["prompt"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("functions", [{"name": "add"}]), ("function_call", "auto"), ("function_call", {"name": "add"}),
        ("continue_final_message", True),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_and_is_not_done_is_refused(client: Client, field: str, value: Any) -> None:
    running = client()
    paths = [PATH, "/tokenize"] if field == "continue_final_message" else [PATH]
    for path in paths:
        error = running.post(path, json={"messages": HELLO, field: value}).json()["error"]
        assert error["param"] == field and f"{field} is not supported" in error["message"]
    for harmless in (None, False) if field == "continue_final_message" else (None,):
        asked = {"messages": HELLO, "max_tokens": 1, field: harmless}
        assert running.post(PATH, json=asked).status_code == 200


def test_an_answer_is_text_alone(client: Client) -> None:
    running, asked = client(), {"messages": HELLO, "max_tokens": 1}
    error = running.post(PATH, json={**asked, "modalities": ["text", "audio"]}).json()["error"]
    assert error["param"] == "modalities" and "'audio' is not supported" in error["message"]
    for harmless in (None, ["text"]):
        assert running.post(PATH, json={**asked, "modalities": harmless}).status_code == 200


def test_max_completion_tokens_is_max_tokens_newer_name(client: Client) -> None:
    asked = {"messages": HELLO, "max_completion_tokens": 3, "max_tokens": 9, "ignore_eos": True}
    assert client().post(PATH, json=asked).json()["usage"]["completion_tokens"] == 3


def test_without_a_limit_an_answer_may_fill_the_context(client: Client) -> None:
    body = client(engine={"max_model_len": 64}).post(PATH, json={"messages": HELLO, "ignore_eos": True}).json()
    assert body["usage"]["total_tokens"] == 64 and body["choices"][0]["finish_reason"] == "length"


def test_parts_and_the_developer_s_role_are_read(client: Client, answer: Callable[..., str]) -> None:
    parts = [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]
    asked = [{"role": "developer", "content": "Be short."}, {"role": "user", "content": parts}]
    plain = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hel\nlo"}]
    body = client().post(PATH, json={"messages": asked, "max_tokens": 6, "temperature": 0}).json()
    assert body["choices"][0]["message"]["content"] == answer(plain, max_tokens=6)


def test_earlier_calls_reach_the_template_as_objects(client: Client) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 3}'}}
    asked = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4"},
    ]
    running = client()
    tokens = running.post("/tokenize", json={"messages": asked, "tools": TOOLS}).json()["tokens"]
    text = running.post("/detokenize", json={"tokens": tokens}).json()["prompt"]
    assert '{"name": "add", "arguments": {"a": 3}}' in text and "<tool_response>\n4\n" in text
    assert "get_weather" in text
    assert running.post(PATH, json={"messages": asked, "tools": TOOLS, "max_tokens": 2}).status_code == 200


def test_logprobs_carry_texts_and_bytes(client: Client) -> None:
    running = client()
    asked = {"messages": HELLO, "max_tokens": 8, "seed": 4, "logprobs": True, "top_logprobs": 2, "ignore_eos": True}
    choice = running.post(PATH, json=asked).json()["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 8 and all(len(entry["top_logprobs"]) == 2 for entry in content)
    text = b"".join(bytes(entry["bytes"]) for entry in content).decode(errors="replace")
    assert text == choice["message"]["content"]
    chunks = events(running.post(PATH, json={**asked, "stream": True}).text)
    streamed = [c["logprobs"]["content"] for chunk in chunks for c in chunk["choices"] if c["logprobs"]]
    assert [entry for entries in streamed for entry in entries] == content
    without = {**asked, "top_logprobs": None}
    assert running.post(PATH, json=without).json()["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("parallel", [False, True])
def test_required_calls_follow_their_schemas(client: Client, stream: bool, parallel: bool) -> None:
    asked = {
        "messages": HELLO,
        "tools": TOOLS,
        "tool_choice": "required",
        "parallel_tool_calls": parallel,
        "max_tokens": 200,
        "seed": 3,
        "stream": stream,
    }
    response = client().post(PATH, json=asked)
    if stream:
        chunks = events(response.text)
        calls, reasons = joined_calls(chunks), finish_reasons(chunks)
    else:
        choice = response.json()["choices"][0]
        reasons = [choice["finish_reason"]]
        calls = [{"id": call["id"], **call["function"]} for call in choice["message"]["tool_calls"]]
    assert calls and (parallel or (len(calls) == 1 and reasons == ["tool_calls"]))
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls:
        arguments = json.loads(call["arguments"])
        if call["name"] == "add":
            assert arguments["a"] <= 9
        else:
            assert call["name"] == "get_weather" and len(arguments["city"]) <= 4


@pytest.mark.parametrize("form", ["mistral", "pythonic", "llama3_json"])
def test_calls_are_forced_in_the_model_s_own_format(client: Client, form: str) -> None:
    running = client(call_format=form)
    asked = {"messages": HELLO, "tools": TOOLS, "max_tokens": 120, "seed": 3, "parallel_tool_calls": False}
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        [answered] = running.post(PATH, json={**asked, "tool_choice": choice}).json()["choices"]
        [call] = [called["function"] for called in answered["message"]["tool_calls"]]
        assert answered["message"]["content"] is None
        assert call["name"] == "add" or (choice == "required" and call["name"] == "get_weather")
        assert set(json.loads(call["arguments"])) == ({"a"} if call["name"] == "add" else {"city"})
    logprobs = running.post(PATH, json={**asked, "tool_choice": "required", "logprobs": True}).json()
    text = "".join(entry["token"] for entry in logprobs["choices"][0]["logprobs"]["content"])
    assert text.startswith({"mistral": "[TOOL_CALLS]", "pythonic": "[", "llama3_json": '{"name": "'}[form])


@pytest.mark.parametrize("stream", [False, True])
def test_calls_of_strict_tools_follow_their_schemas_where_the_model_chose_to_call(stream: bool) -> None:
    """A function that the small model spells wrong when it is let."""
    folder = Path("examples/models/tiny-tools")
    api = GenerationApi(Engine.from_folder(folder, EngineConfig(num_threads=1)), folder, ServerConfig(names=("tiny",)))
    strict = tool("multiply_numbers", left_hand={"type": "integer"}, right_hand={"type": "integer"})
    strict["function"]["strict"] = True
    question = [{"role": "user", "content": "What is 17 times 23?"}]
    asked = {"messages": question, "tools": [strict, tool("other")], "temperature": 0, "stream": stream}
    with TestClient(api.asgi) as running:
        said = running.post(PATH, json=asked)
        chunks = events(said.text) if stream else []
        calls = (
            joined_calls(chunks)
            if stream
            else [c["function"] for c in said.json()["choices"][0]["message"]["tool_calls"]]
        )
        [call] = calls
        assert call["name"] == "multiply_numbers" and set(json.loads(call["arguments"])) == {"left_hand", "right_hand"}
        hello = running.post(PATH, json={**asked, "messages": HELLO, "stream": False}).json()["choices"][0]
        assert hello["message"]["content"] and "tool_calls" not in hello["message"]
        strict["function"]["parameters"]["properties"]["left_hand"] = {"type": "none"}
        assert running.post(PATH, json=asked).json()["error"]["param"] == "tools"


@pytest.mark.parametrize("stream", [False, True])
def test_a_named_call_streams_its_arguments(client: Client, stream: bool) -> None:
    choice = {"type": "function", "function": {"name": "add"}}
    asked = {"messages": HELLO, "tools": TOOLS, "tool_choice": choice, "max_tokens": 60, "seed": 3, "stream": stream}
    response = client().post(PATH, json=asked)
    if stream:
        chunks = events(response.text)
        [call] = joined_calls(chunks)
        assert finish_reasons(chunks) == ["stop"] and joined_content(chunks) == ""
        pieces = [d for c in chunks for d in c["choices"][0]["delta"].get("tool_calls", [])]
        assert len(pieces) > 1, "arguments come in pieces"
    else:
        answered = response.json()["choices"][0]
        assert answered["finish_reason"] == "stop" and answered["message"]["content"] is None
        [call] = [called["function"] for called in answered["message"]["tool_calls"]]
    assert call["name"] == "add" and json.loads(call["arguments"])["a"] <= 9


def test_with_none_the_prompt_does_not_tell_of_tools(client: Client, answer: Callable[..., str]) -> None:
    running = client()
    asked = {"messages": HELLO, "tools": TOOLS, "max_tokens": 6, "temperature": 0}
    silent = running.post(PATH, json={**asked, "tool_choice": "none"}).json()
    told = running.post(PATH, json={**asked, "tool_choice": "auto"}).json()
    assert silent["choices"][0]["message"]["content"] == answer(HELLO, max_tokens=6)
    assert told["usage"]["prompt_tokens"] > silent["usage"]["prompt_tokens"]
    assert told["choices"][0]["message"]["content"] == answer(HELLO, tools=TOOLS, max_tokens=6)


def test_response_formats_constrain_the_answer(client: Client) -> None:
    running = client()
    asked = {"messages": HELLO, "max_tokens": 120, "seed": 2, "temperature": 0.7}
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    named = {"name": "answer", "strict": True, "schema": {**schema, "additionalProperties": False}}
    body = running.post(PATH, json={**asked, "response_format": {"type": "json_schema", "json_schema": named}}).json()
    assert json.loads(body["choices"][0]["message"]["content"])["ok"] in (True, False)
    assert body["choices"][0]["finish_reason"] == "stop"
    body = running.post(PATH, json={**asked, "response_format": {"type": "json_object"}}).json()
    assert body["choices"][0]["message"]["content"].startswith("{")
    body = running.post(PATH, json={**asked, "response_format": {"type": "text"}}).json()
    assert body["choices"][0]["message"]["content"]


def test_a_tool_s_bad_schema_is_told_without_the_grammar_that_was_made_of_it(client: Client) -> None:
    asked = {"messages": HELLO, "tools": [tool("f", a={"type": "none"})], "tool_choice": "required"}
    error = client().post(PATH, json=asked).json()["error"]
    assert error["param"] == "tools"
    assert error["message"] == "the parameters of a tool are no JSON schema that can be compiled: Invalid type: none"


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def test_only_the_allowed_tools_are_shown_and_called(client: Client, answer: Callable[..., str]) -> None:
    running = client()
    asked = {"messages": HELLO, "tools": TOOLS, "max_tokens": 80, "seed": 2, "parallel_tool_calls": False}
    for tool in TOOLS:
        name = tool["function"]["name"]
        body = running.post(PATH, json={**asked, "tool_choice": allowed("required", name)}).json()
        assert [call["function"]["name"] for call in body["choices"][0]["message"]["tool_calls"]] == [name]
        asked_freely = {**asked, "tool_choice": allowed("auto", name), "temperature": 0, "max_tokens": 8}
        content = running.post(PATH, json=asked_freely).json()["choices"][0]["message"]["content"]
        assert content == answer(HELLO, tools=[tool], max_tokens=8)


BAD = [
    ({"messages": []}, "messages"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{}]}, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "user", "content": [3]}]}, "messages[0].content[0]"),
    ({"messages": [{"role": "assistant", "tool_calls": 3}]}, "messages[0].tool_calls"),
    ({"messages": [{"role": "assistant", "tool_calls": [{}]}]}, "messages[0].tool_calls[0]"),
    ({"tools": [{"type": "function"}]}, "tools[0].function"),
    ({"tools": [{"type": "retrieval"}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name"),
    ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": {"type": "any"}}, "tool_choice.type"),
    ({"tools": TOOLS, "tool_choice": allowed("auto", "other")}, "tool_choice"),
    ({"tools": TOOLS, "tool_choice": allowed("always")}, "tool_choice.allowed_tools.mode"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"guided_json": {"type": "integer"}}, "guided_json"),
    ({"allowed_token_ids": [3]}, "allowed_token_ids"),
    ({"use_beam_search": True}, "use_beam_search"),
    ({"chat_template": "{{ messages }}"}, "chat_template"),
    ({"add_generation_prompt": False}, "add_generation_prompt"),
    ({"web_search_options": {}}, "web_search_options"),
    ({"echo": True}, "echo"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
    ({"response_format": {"type": "xml"}}, "response_format.type"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_object"}, "structured_outputs": {"choice": ["a"]}}, "structured_outputs"),
    ({"messages": [*HELLO, {"role": "system", "content": "late"}]}, "messages"),
    ({"messages": [{"role": "user", "content": "x " * 600}]}, "messages"),
    ({"tools": [tool("f", a={"type": "none"})], "tool_choice": "required"}, "tools"),
    (
        {"tools": [tool("f", a={"type": "none"})], "tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tools",
    ),
    ({"tools": [{"function": {"name": "f", "parameters": {"type": "array"}}}]}, "tools[0].function.parameters.type"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "none"}}}}, "response_format"),
    ({"structured_outputs": {"regex": "("}}, "structured_outputs"),
    ({"max_tokens": -1}, "max_tokens"),
    ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens"),
]


@pytest.mark.parametrize(("asked", "param"), BAD)
def test_bad_requests_are_told_what_is_wrong(client: Client, asked: dict[str, Any], param: str | None) -> None:
    response = client().post(PATH, json={"messages": HELLO, **asked})
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param


@pytest.mark.parametrize(
    ("message", "param"),
    [({"role": "robot", "content": "hi"}, "role"), ({"content": "hi"}, "role"), ({"role": "user"}, "content"),
     ({"role": "user", "content": 5}, "content")],
)  # fmt: skip
def test_messages_that_no_template_should_see(client: Any, message: dict[str, Any], param: str) -> None:
    response = client().post(PATH, json={"messages": [message]})
    assert response.status_code == 400 and response.json()["error"]["param"] == f"messages[0].{param}"
