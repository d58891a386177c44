"""Contexts over `/v1`: what is kept by id is continued by any OpenAI client, and by the SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import deepserve
from tests.waiting import wait_for

openai = pytest.importorskip("openai")

START: list[Any] = [
    {"role": "system", "content": "You answer questions about this text: " + "The quick brown fox. " * 8},
    {"role": "user", "content": "What does the fox do?"},
    {"role": "assistant", "content": "It jumps."},
]
MORE: list[Any] = [{"role": "user", "content": "Over what?"}]
TOOL: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
JSON = {"content-type": "application/json"}
GREEDY: dict[str, Any] = {"max_tokens": 10, "temperature": 0}


@pytest.fixture(scope="module")
def client(llm: deepserve.Model) -> Iterator[Any]:
    with llm.openai(max_retries=0) as client:
        yield client


def make(client: Any, **fields: Any) -> Any:
    asked = {"model": "tiny", "messages": START, "ttl": 60, **fields}
    return client.post("/contexts", body=asked, cast_to=object)


def ask(client: Any, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(messages=messages, **{**GREEDY, **options})


def test_a_chat_continues_a_context(client: Any, llm: deepserve.Model) -> None:
    made = make(client)
    assert (made["object"], made["model"], made["ttl"]) == ("context", "tiny", 60) and made["num_tokens"] > 40
    whole = ask(client, [*START, *MORE])
    named = {"context_id": made["id"]}
    for _ in range(2):
        continued = ask(client, MORE, extra_body=named)
        assert continued.choices[0].message.content == whole.choices[0].message.content
        assert continued.usage.prompt_tokens == whole.usage.prompt_tokens
    streamed = list(ask(client, MORE, extra_body=named, stream=True))
    pieces = [choice.delta.content or "" for chunk in streamed for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert llm.chat(MORE, context=made["id"], **GREEDY).text == whole.choices[0].message.content
    assert client.delete(f"/contexts/{made['id']}", cast_to=object)["deleted"] is True
    with pytest.raises(openai.NotFoundError, match="there is no context"):
        ask(client, MORE, extra_body=named)


def test_the_sdks_contexts_and_those_with_tools(client: Any, llm: deepserve.Model) -> None:
    whole = ask(client, [*START, *MORE], tools=[TOOL])
    for context in (make(client, tools=[TOOL])["id"], str(llm.cache(START, tools=[TOOL]))):
        continued = ask(client, MORE, extra_body={"context_id": context})
        assert continued.usage.prompt_tokens == whole.usage.prompt_tokens
        assert continued.choices[0].message.content == whole.choices[0].message.content
        with pytest.raises(openai.BadRequestError, match="give them to the context"):
            ask(client, MORE, extra_body={"context_id": context}, tools=[TOOL])


def test_messages_in_parts(client: Any, llm: deepserve.Model) -> None:
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Be brief."}]}, {"role": "assistant"}]
    made = make(client, messages=parts)
    whole = ask(client, [*parts, *MORE])
    continued = ask(client, MORE, extra_body={"context_id": made["id"]})
    assert continued.choices[0].message.content == whole.choices[0].message.content
    assert llm.chat(MORE, context=made["id"], **GREEDY).text == whole.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="no part of type 'image_url'"):
        make(client, messages=[{"role": "user", "content": [{"type": "image_url"}]}])


def test_listed_extended_and_continued(client: Any) -> None:
    made = make(client)
    listed = client.get("/contexts", cast_to=object)
    assert made["id"] in [each["id"] for each in listed["data"]]
    told = client.post(f"/contexts/{made['id']}", body={"ttl": 120}, cast_to=object)
    assert told["ttl"] == 120 and 100 < told["expires_in"] <= 120 and told["num_tokens"] == made["num_tokens"]
    assert client.get(f"/contexts/{made['id']}", cast_to=object)["ttl"] == 120
    longer = make(client, messages=MORE, context_id=made["id"])
    whole = ask(client, [*START, *MORE, *MORE])
    continued = ask(client, MORE, extra_body={"context_id": longer["id"]})
    assert continued.usage.prompt_tokens == whole.usage.prompt_tokens
    assert continued.choices[0].message.content == whole.choices[0].message.content
    for wrong in ({"ttl": 0}, {"ttl": "long"}, {}):
        with pytest.raises(openai.BadRequestError):
            client.post(f"/contexts/{made['id']}", body=wrong, cast_to=object)
    with pytest.raises(openai.NotFoundError) as caught:
        make(client, messages=MORE, context_id="ctx-never")
    assert caught.value.code == "context_not_found"
    with pytest.raises(openai.NotFoundError, match="ctx-never"):
        client.get("/contexts/ctx-never", cast_to=object)


def test_bad_contexts(client: Any) -> None:
    short = make(client, ttl=0.2)["id"]
    wait_for(lambda: short not in [each["id"] for each in client.get("/contexts", cast_to=object)["data"]])
    for context, code in (("ctx-never", "context_not_found"), (short, "context_expired")):
        with pytest.raises(openai.NotFoundError) as caught:
            ask(client, MORE, extra_body={"context_id": context})
        assert (caught.value.code, caught.value.param) == (code, "context_id")
    with pytest.raises(openai.BadRequestError, match="only chats"):
        client.completions.create(prompt="hi", extra_body={"context_id": short})
    with pytest.raises(openai.NotFoundError):
        client.delete("/contexts/ctx-never", cast_to=object)
    for wrong in ({"ttl": 0}, {"ttl": "long"}, {"messages": []}, {"messages": "hi"}, {"model": None}):
        with pytest.raises(openai.BadRequestError):
            make(client, **wrong)
    for content in ("half \ud800 character", 10**40):
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": content}]}).encode()
        with pytest.raises(openai.BadRequestError):
            client.post("/contexts", content=body, cast_to=object, options={"headers": JSON})
    with pytest.raises(openai.BadRequestError, match="tokens") as too_long:
        make(client, messages=[{"role": "user", "content": "word " * 2000}])
    assert (too_long.value.code, too_long.value.param) == ("context_length_exceeded", "messages")
    with pytest.raises(openai.NotFoundError, match="'other' does not exist"):
        make(client, model="other")
