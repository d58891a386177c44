"""The real `openai` package against a real server process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.flowserve.conftest import ServeProcess
from tests.openai_values import ADD, HELLO, PARAMETERS

openai = pytest.importorskip("openai")


@pytest.fixture(scope="module")
def client(server: Any) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_models(client: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "flowserve"


def test_completions_whole_and_streamed(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "Hello", "max_tokens": 12, "seed": 1, "n": 2, "logprobs": 1}
    whole = client.completions.create(**asked)
    streamed = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    for choice in whole.choices:
        mine = [c for chunk in streamed for c in chunk.choices if c.index == choice.index]
        assert "".join(c.text for c in mine) == choice.text and len(choice.logprobs.tokens) == 12
        assert mine[-1].finish_reason == choice.finish_reason == "length"
    assert streamed[-1].usage == whole.usage and whole.usage.completion_tokens == 24


def test_chat_whole_and_streamed(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 10, "temperature": 0}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    streamed = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in streamed) == whole.choices[0].message.content
    assert streamed[0].choices[0].delta.role == "assistant"
    assert [len(entry.top_logprobs) for entry in whole.choices[0].logprobs.content] == [2] * 10


def test_tools_whole_and_streamed(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "tools": [ADD], "max_tokens": 80, "seed": 2}
    for choice in ("required", {"type": "function", "function": {"name": "add"}}):
        whole = client.chat.completions.create(**asked, tool_choice=choice, parallel_tool_calls=False)
        [call] = whole.choices[0].message.tool_calls
        assert call.function.name == "add" and json.loads(call.function.arguments)["a"] <= 99
        with client.chat.completions.stream(**asked, tool_choice=choice, parallel_tool_calls=False) as stream:
            message = stream.get_final_completion().choices[0].message
        assert message.tool_calls[0].function.arguments == call.function.arguments
    history = [*HELLO, whole.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "4"}]
    assert client.chat.completions.create(**{**asked, "messages": history, "max_tokens": 2}).choices


def test_response_format(client: Any) -> None:
    schema = {"name": "number", "strict": True, "schema": PARAMETERS}
    answered = client.chat.completions.create(
        model="tiny",
        messages=HELLO,
        max_tokens=80,
        seed=5,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert json.loads(answered.choices[0].message.content)["a"] <= 99


def test_extensions_go_in_the_extra_body(client: Any) -> None:
    asked: dict[str, Any] = {"model": "tiny", "prompt": "Hello", "max_tokens": 8}
    greedy = client.completions.create(**asked, temperature=0).choices[0].text
    assert client.completions.create(**asked, extra_body={"top_k": 1}).choices[0].text == greedy
    chosen = client.completions.create(**asked, extra_body={"structured_outputs": {"choice": ["yes"]}})
    assert chosen.choices[0].text == "yes"


def test_errors_have_the_package_s_types(client: Any) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-4", messages=HELLO)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.completions.create(model="tiny", prompt="a", temperature=-1)
    assert bad.value.param == "temperature"


async def ask_async(url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        asked: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_tokens": 8, "temperature": 0}
        whole = await client.chat.completions.create(**asked)
        stream = await client.chat.completions.create(**asked, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == whole.choices[0].message.content


def test_the_async_client(server: Any) -> None:
    import asyncio

    asyncio.run(ask_async(server.url))


def test_embeddings(tmp_path: Path) -> None:
    """The package asks for base64 unless told otherwise, and gives floats either way."""
    from flowserve import EmbeddingModel
    from tests.unit.flowserve.test_embedding_model import write_encoder

    write_encoder(tmp_path / "encoder")
    running = ServeProcess(tmp_path / "encoder")
    try:
        with openai.OpenAI(base_url=f"{running.url}/v1", api_key="none", max_retries=0) as client:
            texts = ["The fox", "Grüße"]
            expected = EmbeddingModel(tmp_path / "encoder", num_threads=1).embed(texts)
            for asked in ({}, {"encoding_format": "float"}):
                answer = client.embeddings.create(model="encoder", input=texts, **asked)
                for item, vector in zip(answer.data, expected, strict=True):
                    assert item.embedding == pytest.approx(vector, abs=1e-6)
            with pytest.raises(openai.BadRequestError):
                client.embeddings.create(model="encoder", input="a", dimensions=3)
        assert running.end() == (0, "")
    finally:
        running.process.kill()


def test_a_key_is_asked_for(serve: Any) -> None:
    guarded = serve("--api-key", "sesame", "--served-model-name", "mine", "--served-model-name", "also")
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
    with openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="sesame", max_retries=0) as known:
        assert [model.id for model in known.models.list()] == ["mine", "also"]
        assert known.completions.create(model="also", prompt="a", max_tokens=1).model == "also"
