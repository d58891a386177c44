"""The official client against the controller's `/v1`: an embedded controller, real pods, a random tiny model."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import deepserve
from deepserve import _current_client
from deepserve.errors import MissingPackage
from tests.openai_values import ADD, HELLO, PARAMETERS
from tests.waiting import wait_for

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(llm: deepserve.Model) -> Iterator[Any]:
    with llm.openai(max_retries=0) as client:
        yield client


def test_the_model_is_listed_and_need_not_be_named(client: Any) -> None:
    assert "tiny" in [model.id for model in client.models.list()]
    assert client.models.retrieve("tiny").owned_by == "deepserve"
    assert client.chat.completions.create(messages=HELLO, max_tokens=2).model == "tiny"
    assert client.chat.completions.create(model="tiny", messages=HELLO, max_tokens=2).choices


def test_the_same_answer_as_through_the_sdk(client: Any, llm: deepserve.Model) -> None:
    mine = llm.chat(HELLO, max_tokens=12, temperature=0)
    whole = client.chat.completions.create(messages=HELLO, max_tokens=12, temperature=0)
    assert whole.choices[0].message.content == mine.text
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (
        mine.usage.prompt_tokens,
        mine.usage.completion_tokens,
    )
    text = llm.generate("Once upon", max_tokens=8, temperature=0)
    assert client.completions.create(prompt="Once upon", max_tokens=8, temperature=0).choices[0].text == text


def test_whole_and_streamed(client: Any) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "max_completion_tokens": 10, "seed": 1, "n": 2}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    streamed = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [c for chunk in streamed for c in chunk.choices if c.index == choice.index]
        assert "".join(c.delta.content or "" for c in mine) == choice.message.content
        assert [len(entry.top_logprobs) for entry in choice.logprobs.content] == [2] * 10
    assert streamed[-1].usage == whole.usage


def test_tools_and_schemas(client: Any) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "tools": [ADD], "max_tokens": 80, "seed": 2}
    whole = client.chat.completions.create(**asked, tool_choice="required", parallel_tool_calls=False)
    [call] = whole.choices[0].message.tool_calls
    assert call.function.name == "add" and json.loads(call.function.arguments)["a"] <= 99
    with client.chat.completions.stream(**asked, tool_choice="required", parallel_tool_calls=False) as stream:
        message = stream.get_final_completion().choices[0].message
    assert message.tool_calls[0].function.arguments == call.function.arguments
    schema = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": PARAMETERS}}
    answered = client.chat.completions.create(messages=HELLO, max_tokens=80, seed=5, response_format=schema)
    assert json.loads(answered.choices[0].message.content)["a"] <= 99


def test_asynchronously_and_many_at_once(llm: deepserve.Model) -> None:
    async def main() -> None:
        async with llm.openai.aio() as client:
            asked: dict[str, Any] = {"messages": HELLO, "max_tokens": 6, "temperature": 0}
            wholes = await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(40)))
            stream = await client.chat.completions.create(**asked, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            assert {whole.choices[0].message.content for whole in wholes} == {text}

    asyncio.run(main())


def test_errors(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="nobody-has-this", messages=HELLO)
    assert unknown.value.code == "model_not_found" and "tiny" in str(unknown.value)
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(messages=HELLO, temperature=-3)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(prompt="x " * 2000)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="sk-wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.post("/nowhere", cast_to=object)


def test_tokens(client: Any) -> None:
    found = client.post("/tokenize", body={"model": "tiny", "prompt": "The quick"}, cast_to=object)
    assert found["count"] == len(found["tokens"]) > 0 and found["max_model_len"] == 512
    back = client.post("/detokenize", body={"model": "tiny", "tokens": found["tokens"]}, cast_to=object)
    assert back == {"prompt": "The quick"}


def test_responses(client: Any) -> None:
    asked: dict[str, Any] = {"input": "Hello", "instructions": "Be brief.", "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**asked)
    messages = [{"role": "system", "content": "Be brief."}, *HELLO]
    chat = client.chat.completions.create(messages=messages, max_tokens=12, temperature=0)
    assert whole.output_text == chat.choices[0].message.content and whole.status == "incomplete"
    assert (whole.usage.input_tokens, whole.usage.output_tokens) == (chat.usage.prompt_tokens, 12)
    with client.responses.stream(**asked) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert "".join(deltas) == events[-1].response.output_text == whole.output_text
    assert events[-1].type == "response.incomplete"
    probable = client.responses.create(**asked, include=["message.output_text.logprobs"], top_logprobs=2)
    [text] = probable.output[0].content
    assert text.text == whole.output_text and [len(token.top_logprobs) for token in text.logprobs] == [2] * 12
    tool: Any = {"type": "function", "name": "add", "parameters": PARAMETERS, "strict": True}
    asked = {"input": "Hello", "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    called = client.responses.create(**asked, max_output_tokens=80)
    [call] = [item for item in called.output if item.type == "function_call"]
    assert call.name == "add" and json.loads(call.arguments)["a"] <= 99
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "4"}
    history = [*HELLO, call.model_dump(exclude_none=True), output]
    assert client.responses.create(input=history, max_output_tokens=2).usage.output_tokens > 0  # which may end it
    schema = {"format": {"type": "json_schema", "name": "n", "schema": PARAMETERS}}
    answered = client.responses.create(input="Hello", text=schema, max_output_tokens=80)
    assert json.loads(answered.output_text)["a"] <= 99
    for wrong, param in (
        ({"input": []}, "input"),
        ({"input": "x", "previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": [{"type": "computer_call"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 3}]}, "input[0].content"),
        ({"input": "x", "max_output_tokens": -1}, "max_output_tokens"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**wrong)
        assert (refused.value.param or "").startswith(param)


def test_embeddings(client: Any, llm: deepserve.Model) -> None:
    found = client.embeddings.create(input=["The quick", "brown fox"])
    assert [each.index for each in found.data] == [0, 1] and found.model == "tiny" and found.usage.prompt_tokens > 3
    one, two = llm.embed(["The quick", "brown fox"])
    for vector, expected in zip((each.embedding for each in found.data), (one, two), strict=True):
        assert vector == pytest.approx(expected, abs=1e-5)  # which travelled as base64 of float32
    plain = client.embeddings.create(input="The quick", encoding_format="float")
    assert plain.data[0].embedding == pytest.approx(one, abs=1e-5)
    for wrong, param in (
        ({"input": []}, "input"),
        ({"input": "x " * 2000}, "input"),
        ({"dimensions": 3}, "dimensions"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.embeddings.create(**{"input": "x", **wrong})
        assert refused.value.param == param


def test_a_stream_that_is_left_ends_its_request(client: Any) -> None:
    more = {"ignore_eos": True}
    stream = client.chat.completions.create(messages=HELLO, max_tokens=400, stream=True, extra_body=more)
    next(iter(stream))
    stream.close()
    controller = _current_client.current_client()

    def running() -> list[Any]:
        found = controller.query("requests", {"label": "models/tiny"})["requests"]
        return [each for each in found if each["state"] in ("running", "queued")]

    wait_for(lambda: not running())


def test_without_the_package(llm: deepserve.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingPackage, match=r"deepserve\[openai\]"):
        llm.openai()


def test_a_model_that_only_embeds(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    pooling = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (tmp_path / "modules.json").write_text(json.dumps(pooling))
    embedder = deepserve.Model("embedder", source=tmp_path)
    with embedder.openai(max_retries=0) as client:
        [found] = client.embeddings.create(input="The quick", encoding_format="float").data
        assert found.embedding == pytest.approx(embedder.embed("The quick")[0], abs=1e-5)
        with pytest.raises(openai.NotFoundError) as refused:
            client.chat.completions.create(messages=HELLO)
        assert refused.value.code == "model_has_no_such_task"
