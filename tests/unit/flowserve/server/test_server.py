"""What is around generation: models, tokens, keys, limits, metrics, health."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from flowserve.chat_template import ChatTemplate
from flowserve.outputs import SequenceOutput
from flowserve.server import beside_loop
from flowserve.server.metrics import Metrics
from flowserve.server.requests import ChatRequest, CompletionRequest, TokenizeRequest
from flowserve.tokenizer import Tokenizer

Client = Callable[..., TestClient]
COMPLETIONS = "/v1/completions"


def test_the_model_is_listed(client: Client) -> None:
    running = client()
    listed = running.get("/v1/models").json()
    assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["tiny"]
    assert running.get("/v1/models/tiny").json() == listed["data"][0]
    assert listed["data"][0]["max_model_len"] == 512


@pytest.mark.parametrize("path", [COMPLETIONS, "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_another_model_is_not_found(client: Client, path: str) -> None:
    asked = {"model": "gpt-4", "prompt": "a", "messages": [{"role": "user", "content": "a"}], "tokens": [1]}
    response = client().post(path, json=asked)
    assert response.status_code == 404
    error = response.json()["error"]
    assert (error["code"], error["param"], error["type"]) == ("model_not_found", "model", "not_found_error")
    assert "tiny" in error["message"]


def test_text_goes_to_tokens_and_back(client: Client) -> None:
    running = client()
    text = "Grüße aus München 🙂 <|im_end|>"
    answer = running.post("/tokenize", json={"prompt": text, "return_token_strs": True}).json()
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"]) and answer["max_model_len"] == 512
    assert answer["token_strs"][-1] == "<|im_end|>"
    assert running.post("/detokenize", json={"tokens": answer["tokens"]}).json() == {"prompt": text}
    assert running.post("/detokenize", json={"tokens": [10**9]}).status_code == 400
    assert running.post("/tokenize", json={}).status_code == 400
    assert running.post("/tokenize", json={"prompt": "a", "messages": []}).status_code == 400


def test_the_tokens_of_a_book_are_counted_and_those_of_a_library_are_not(client: Client) -> None:
    book, library = (
        client().post("/tokenize", json={"prompt": "a long text. " * times}) for times in (10_000, 100_000)
    )
    assert book.json()["count"] > 10_000
    assert library.status_code == 400
    assert "1300000 characters is more than is read at a time" in library.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/detokenize", {"tokens": [5] * 513}),
        (COMPLETIONS, {"prompt": [5] * 513, "echo": True}),
        (COMPLETIONS, {"prompt": [[5], [5] * 513]}),
    ],
)
def test_more_tokens_than_the_context_are_refused_before_they_are_looked_at(
    client: Client, path: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    running = client()
    monkeypatch.setattr(Tokenizer, "decode", None)
    monkeypatch.setattr(Tokenizer, "token", None)
    response = running.post(path, json=asked)
    assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
    assert "513 tokens does not fit the context of 512" in response.json()["error"]["message"]


LONG_TEXT = "a long text. " * 2000


@pytest.mark.parametrize(
    ("part", "path", "asked"),
    [
        ("decode", "/detokenize", {"tokens": [5] * 300}),
        ("decode", COMPLETIONS, {"prompt": [5] * 300, "echo": True, "max_tokens": 1}),
        ("render", "/v1/chat/completions", {"messages": [{"role": "user", "content": LONG_TEXT}]}),
        ("render", "/tokenize", {"messages": [{"role": "user", "content": LONG_TEXT}]}),
        ("encode", "/tokenize", {"prompt": LONG_TEXT}),
    ],
)
def test_what_reads_much_does_not_hold_up_the_event_loop(
    client: Client, part: str, path: str, asked: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    running, threads = client(), set()
    monkeypatch.setattr(beside_loop, "MUCH", 256)
    kind: Any = ChatTemplate if part == "render" else Tokenizer
    work = getattr(kind, part)

    def noting(*given: Any, **named: Any) -> Any:
        threads.add(threading.get_ident())
        return work(*given, **named)

    monkeypatch.setattr(kind, part, noting)
    running.post(path, json=asked)
    assert threads and running.portal.call(threading.get_ident) not in threads


@pytest.mark.parametrize("given", ["from-the-client-7", None, "", "a b", "x" * 201])
def test_every_answer_has_an_id(client: Client, given: str | None) -> None:
    running = client(api_key="sesame")
    headers = {} if given is None else {"x-request-id": given}
    found = [running.get(path, headers=headers) for path in ("/health", "/nowhere", "/v1/models")]
    assert [response.status_code for response in found] == [200, 401, 401]
    ids = [response.headers["x-request-id"] for response in found]
    if given == "from-the-client-7":
        assert ids == [given] * 3
    else:
        assert len(set(ids)) == 3 and all(len(each) == 32 for each in ids)


def test_a_key_is_asked_for_where_one_is_set(client: Client) -> None:
    running = client(api_key="sesame")
    for path in ("/health", "/version", "/metrics"):
        assert running.get(path).status_code == 200
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sesame"}, {"authorization": "Bearer é"}):
        response = running.get("/v1/models", headers={k: v.encode() for k, v in headers.items()})
        assert response.status_code == 401 and response.json()["error"]["code"] == "invalid_api_key"
    assert running.get("/v1/models", headers={"authorization": "Bearer sesame"}).status_code == 200


def test_what_is_not_json_is_refused_as_such(client: Client) -> None:
    running = client()
    bodies = [b"", b"{", b"[]", b"3", b"null", b'"text"', b'{"prompt": "\xff"}', b'{"prompt": "\\ud800"}', b"{'a': 1}"]
    for body in [*bodies, b"[" * 100_000, b'{"prompt":' * 50_000, b'{"prompt": 1e999}', b'{"prompt": NaN}']:
        for path in (COMPLETIONS, "/v1/chat/completions", "/tokenize", "/detokenize"):
            response = running.post(path, content=body)
            assert response.status_code == 400, (path, body[:30], response.text)
            assert response.json()["error"]["type"] == "invalid_request_error"


def test_deep_nesting_is_refused_wherever_it_is(client: Client) -> None:
    running = client()
    hello = [{"role": "user", "content": "hi"}]
    for depth in (100, 400, 900, 5000):
        deep = b'{"a":' * depth + b"1" + b"}" * depth
        for place in (
            b'"x": %b',
            b'"tools": [{"function": {"name": "f", "parameters": %b}}]',
            b'"structured_outputs": {"json": %b}',
            b'"chat_template_kwargs": {"x": %b}',
            b'"messages": [{"role": "user", "content": "a", "x": %b}]',
        ):
            body = b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 2, ' + place % deep + b"}"
            assert running.post("/v1/chat/completions", content=body).status_code in (200, 400), (depth, place)
    assert running.post("/v1/chat/completions", json={"messages": hello, "max_tokens": 1}).status_code == 200


def test_large_bodies_are_refused_with_and_without_an_announced_length(client: Client) -> None:
    running = client(max_body_bytes=1000)
    for content in (b" " * 1001, iter([b" " * 400] * 3)):
        response = running.post(COMPLETIONS, content=content)
        assert response.status_code == 413 and response.json()["error"]["code"] == "request_too_large"
    assert running.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 1}).status_code == 200


def test_unknown_fields_are_ignored(client: Client) -> None:
    asked = {"prompt": "a", "max_tokens": 1, "user": "u", "store": True, "whatever": {"a": [1]}}
    assert client().post(COMPLETIONS, json=asked).status_code == 200


@pytest.mark.parametrize(
    "path, kind, needed",
    [
        (COMPLETIONS, CompletionRequest, {"prompt": "a"}),
        ("/v1/chat/completions", ChatRequest, {"messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", TokenizeRequest, {"prompt": "a"}),
    ],
)
def test_null_means_not_given(client: Client, path: str, kind: type[msgspec.Struct], needed: dict[str, Any]) -> None:
    asked = {**dict.fromkeys(kind.__struct_fields__), **needed}
    if path != "/tokenize":
        asked |= {"max_tokens": 1, "stream": True, "stream_options": {"include_usage": None}}
    response = client().post(path, json=asked)
    assert response.status_code == 200 and "error" not in response.text, response.text


def test_unknown_paths_and_methods_have_openai_s_shape(client: Client) -> None:
    running = client()
    for response, status in ((running.get("/nowhere"), 404), (running.get(COMPLETIONS), 405)):
        assert response.status_code == status and set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert "POST" in running.get(COMPLETIONS).headers["allow"]


def test_more_than_could_ever_wait_is_the_request_s_fault(client: Client) -> None:
    running = client(engine={"max_num_sequences": 2}, max_queue=1)
    response = running.post(COMPLETIONS, json={"prompt": ["a"] * 4, "max_tokens": 1})
    error = response.json()["error"]
    assert response.status_code == 400 and "4 completions" in error["message"] and error["param"] == "prompt"
    assert running.post(COMPLETIONS, json={"prompt": "a", "n": 4}).json()["error"]["param"] == "n"
    assert running.post(COMPLETIONS, json={"prompt": ["a"] * 3, "max_tokens": 1}).status_code == 200


def test_health_and_version(client: Client) -> None:
    running = client()
    assert running.get("/health").status_code == 200
    assert running.get("/version").json()["version"]


def metrics(running: TestClient) -> dict[tuple[str, str | None], float]:
    """Values by sample name and the reason, path or bucket that tells samples of a name apart."""
    found = {}
    for family in text_string_to_metric_families(running.get("/metrics").text):
        for sample in family.samples:
            assert sample.labels["model_name"] == "tiny" and sample.labels["engine"] == "0"
            told = [sample.labels[n] for n in ("finished_reason", "le", "path") if n in sample.labels]
            found[sample.name, told[0] if told else None] = sample.value
    return found


def test_metrics_count_under_vllm_s_names(client: Client) -> None:
    running = client()
    before = metrics(running)
    assert before["vllm:num_requests_running", None] == before["vllm:num_requests_waiting", None] == 0
    prompt = list(range(3, 43))
    for _ in range(2):
        asked = {"prompt": prompt, "n": 2, "max_tokens": 5, "ignore_eos": True, "seed": 1}
        assert running.post(COMPLETIONS, json=asked).status_code == 200
    running.post(COMPLETIONS, json={"prompt": "a", "structured_outputs": {"choice": ["x"]}})
    running.post(COMPLETIONS, json={"prompt": [10**9]})
    after = metrics(running)
    assert after["vllm:prompt_tokens_total", None] == 4 * 40 + 1
    generated = after["vllm:generation_tokens_total", None]
    assert 4 * 5 + 1 <= generated <= 4 * 5 + 2  # the choice may take its end token
    assert after["vllm:request_success_total", "length"] == 4
    assert after["vllm:request_success_total", "stop"] == 1
    assert after["vllm:request_success_total", "abort"] == 0
    assert after["vllm:time_to_first_token_seconds_count", None] == 5
    assert after["vllm:e2e_request_latency_seconds_count", None] == 5
    assert after["vllm:inter_token_latency_seconds_count", None] == generated - 5
    assert after["vllm:prefix_cache_hits_total", None] >= 32
    assert after["vllm:prefix_cache_queries_total", None] == 4 * 40 + 1
    assert after["vllm:kv_cache_usage_perc", None] == 0
    assert after["vllm:num_preemptions_total", None] == 0
    assert after["flowserve:http_responses_total", COMPLETIONS] >= 1


def test_an_end_without_a_token_is_no_first_token() -> None:
    counted = Metrics("tiny", 64)
    counted.output(SequenceOutput("a", (), "", True, "deadline", 5, 0), 1.0, None, 2.0)
    counted.output(SequenceOutput("b", (0,), "", True, "abort", 5, 1, error="no token"), 1.0, None, 2.0)
    text = counted.text().decode()
    for name in ("time_to_first_token_seconds_count", "prompt_tokens_total", "inter_token_latency_seconds_count"):
        assert f'vllm:{name}{{engine="0",model_name="tiny"}} 0.0' in text
    assert 'vllm:request_success_total{engine="0",finished_reason="deadline",model_name="tiny"} 1.0' in text


def test_tenants_do_not_hit_each_other_s_prefixes(client: Client) -> None:
    running = client()

    def hits(salt: str | None) -> float:
        before = metrics(running)["vllm:prefix_cache_hits_total", None]
        asked = {"prompt": list(range(3, 43)), "max_tokens": 1, "cache_salt": salt}
        assert running.post(COMPLETIONS, json=asked).status_code == 200
        return metrics(running)["vllm:prefix_cache_hits_total", None] - before

    assert [hits(salt) > 0 for salt in ("a", "a", "b", None, "b", None)] == [False, True, False, False, True, True]


def test_two_servers_in_a_process_do_not_share_counts(client: Client) -> None:
    one, other = client(), client()
    one.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 2})
    assert metrics(one)["vllm:generation_tokens_total", None] == 2
    assert metrics(other)["vllm:generation_tokens_total", None] == 0
