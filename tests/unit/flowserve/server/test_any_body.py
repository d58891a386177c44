"""Whatever the body: an answer or an error that blames the request, never the server's own fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from flowserve import Engine, EngineConfig
from flowserve.server.generation_api import GenerationApi
from flowserve.server.requests import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from flowserve.server.response_request import ResponseRequest

PATHS: dict[str, tuple[Any, dict[str, Any]]] = {
    "/v1/completions": (CompletionRequest, {"prompt": "a", "max_tokens": 2}),
    "/v1/chat/completions": (ChatRequest, {"messages": [{"role": "user", "content": "a"}], "max_tokens": 2}),
    "/v1/responses": (ResponseRequest, {"input": "a", "max_output_tokens": 16}),
    "/v1/embeddings": (EmbeddingRequest, {"input": "a"}),
    "/tokenize": (TokenizeRequest, {"prompt": "a"}),
    "/detokenize": (DetokenizeRequest, {"tokens": [5]}),
}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(
        ["auto", "required", "json_object", "text", "user", "assistant", "tool", "function", "{", "a" * 99]
    )
    | st.text(max_size=8)
)
names = st.sampled_from(
    ["role", "content", "type", "text", "function", "name", "arguments", "parameters", "json", "regex", "tool_calls"]
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names | st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def client(models: Callable[..., Path]) -> Iterator[TestClient]:
    folder = models("qwen3")
    engine = Engine.from_folder(folder, EngineConfig(num_threads=1, max_model_len=64))
    with TestClient(GenerationApi(engine, folder).asgi, raise_server_exceptions=False) as running:
        yield running
        assert running.post("/v1/completions", json={"prompt": "a", "max_tokens": 1}).status_code == 200
    engine.check_invariants()
    assert not engine.has_work and engine.stats().free_blocks == engine.stats().total_blocks


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A body that is right but for up to three fields."""
    path = draw(st.sampled_from(sorted(PATHS)))
    kind, right = PATHS[path]
    fields = draw(st.dictionaries(st.sampled_from(sorted(kind.__struct_fields__)), values, max_size=3))
    return path, {**right, **fields}


@settings(max_examples=100)
@given(asked=bodies())
def test_wrong_values_in_any_field(client: TestClient, asked: tuple[str, dict[str, Any]]) -> None:
    path, body = asked
    response = client.post(path, content=json.dumps(body))
    assert response.status_code in (200, 400, 404), (body, response.text)
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    elif body.get("stream") is True and path.startswith("/v1/"):
        assert response.text.endswith("data: [DONE]\n\n") and '"error"' not in response.text
    else:
        response.json()


WRONG: list[Any] = [{}, [], "x", -1, 1.5, True, {"a": [None]}, [[[]]], "\ud800"]


@pytest.mark.parametrize("path", sorted(PATHS))
def test_a_wrong_type_in_each_field(client: TestClient, path: str) -> None:
    """One after the other: what cannot be meant is refused, and the refusal says where."""
    kind, right = PATHS[path]
    refused = set()
    for field in kind.__struct_fields__:
        for value in WRONG:
            response = client.post(path, content=json.dumps({**right, field: value}))
            assert response.status_code in (200, 400, 404), (field, value, response.text)
            if response.status_code != 200:
                error = response.json()["error"]
                assert error["message"] and set(error) == {"message", "type", "param", "code"}
                refused.add(field)
    assert refused == set(kind.__struct_fields__)


@settings(max_examples=40)
@given(path=st.sampled_from(sorted(PATHS)), body=st.binary(max_size=40) | values.map(lambda v: json.dumps(v).encode()))
def test_any_bytes(client: TestClient, path: str, body: bytes) -> None:
    assert client.post(path, content=body).status_code in (200, 400, 404)
