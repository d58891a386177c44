"""POST /v1/completions against the engine alone."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from flowserve import LLM, SamplingParams
from tests.unit.flowserve.server.streams import events, finish_reasons, joined_text

PATH = "/v1/completions"
Client = Callable[..., TestClient]
NAMES = ("text_offset", "token_logprobs", "tokens", "top_logprobs")


def test_a_text_is_completed(client: Client, generate: Callable[..., str]) -> None:
    asked = {"model": "tiny", "prompt": "The quick brown", "max_tokens": 12, "temperature": 0}
    response = client().post(PATH, json=asked)
    body = response.json()
    assert response.status_code == 200 and response.headers["content-type"] == "application/json"
    assert body["object"] == "text_completion" and body["model"] == "tiny" and body["id"].startswith("cmpl-")
    text = generate("The quick brown", max_tokens=12)
    assert body["choices"] == [{"index": 0, "text": text, "logprobs": None, "finish_reason": "length"}]
    assert body["usage"]["completion_tokens"] == 12
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + 12


def test_sixteen_tokens_are_the_default(client: Client) -> None:
    body = client().post(PATH, json={"prompt": "a", "ignore_eos": True}).json()
    assert body["usage"]["completion_tokens"] == 16


@pytest.mark.parametrize("stream", [False, True])
def test_prompts_come_in_four_forms(client: Client, generate: Callable[..., str], stream: bool) -> None:
    running = client()
    ids = running.post("/tokenize", json={"prompt": "Grüße"}).json()["tokens"]
    text = generate("Grüße", max_tokens=4)
    for prompt, num in (("Grüße", 1), (["Grüße", "Grüße"], 2), (ids, 1), ([ids, ids, ids], 3)):
        asked = {"prompt": prompt, "max_tokens": 4, "temperature": 0, "stream": stream}
        response = running.post(PATH, json=asked)
        if stream:
            chunks = events(response.text)
            assert [joined_text(chunks, index) for index in range(num)] == [text] * num
            assert len(finish_reasons(chunks)) == num
        else:
            assert [choice["text"] for choice in response.json()["choices"]] == [text] * num
            assert response.json()["usage"]["prompt_tokens"] == len(ids) * num


def test_a_stream_says_what_a_whole_answer_says(client: Client) -> None:
    running = client()
    asked = {"prompt": ["Hello", "What is"], "n": 2, "seed": 5, "temperature": 0.9, "max_tokens": 20, "logprobs": 1}
    whole = running.post(PATH, json=asked).json()
    response = running.post(PATH, json={**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert response.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(response.text)
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert all(chunk["usage"] is None for chunk in chunks)
    assert {chunk["id"] for chunk in chunks} == {last["id"]}
    for choice in whole["choices"]:
        mine = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert [c["finish_reason"] for c in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        for name, values in choice["logprobs"].items():
            assert [value for c in mine for value in (c["logprobs"] or {}).get(name, [])] == values


def test_choices_are_the_engine_s_n_completions(client: Client, models: Callable[..., Any]) -> None:
    running = client()
    asked = {"prompt": "Hello", "n": 4, "seed": 11, "max_tokens": 8}
    first, again = (running.post(PATH, json=asked).json() for _ in range(2))
    texts = [choice["text"] for choice in first["choices"]]
    assert texts == [choice["text"] for choice in again["choices"]]
    assert len(set(texts)) == 4
    assert [choice["index"] for choice in first["choices"]] == [0, 1, 2, 3]
    [alone] = LLM(models("qwen3"), num_threads=1).generate("Hello", SamplingParams(n=4, seed=11, max_tokens=8))
    assert texts == [output.text for output in alone.outputs]


def test_usage_counts_a_prompt_once_for_all_its_choices(client: Client) -> None:
    asked = {"prompt": [[5, 6, 7], [8, 9]], "n": 3, "max_tokens": 2, "ignore_eos": True}
    assert client().post(PATH, json=asked).json()["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 12,
        "total_tokens": 17,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions"])
def test_usage_says_how_much_of_the_prompts_was_cached(client: Client, path: str) -> None:
    running = client(engine={"block_size": 4})
    messages = [{"role": "user", "content": "What is seventeen times twenty-three?"}]
    prompts = [list(range(5, 26)), list(range(40, 50))]
    asked = {"prompt": prompts, "messages": messages, "n": 2, "max_tokens": 3, "ignore_eos": True}
    first, second = (running.post(path, json=asked).json()["usage"] for _ in range(2))
    assert first["prompt_tokens_details"] == {"cached_tokens": 0}, "what its own completions share does not count"
    num_tokens = second["prompt_tokens"]
    expected = 20 + 8 if path == PATH else (num_tokens - 1) // 4 * 4
    assert second["prompt_tokens_details"] == {"cached_tokens": expected}
    streamed = running.post(path, json={**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert events(streamed.text)[-1]["usage"] == second


@pytest.mark.parametrize("stream", [False, True])
def test_echo_repeats_the_prompt(client: Client, generate: Callable[..., str], stream: bool) -> None:
    running = client()
    expected = "What is" + generate("What is", max_tokens=5)
    for prompt in ("What is", running.post("/tokenize", json={"prompt": "What is"}).json()["tokens"]):
        asked = {"prompt": prompt, "echo": True, "max_tokens": 5, "temperature": 0, "stream": stream}
        response = running.post(PATH, json=asked)
        text = joined_text(events(response.text)) if stream else response.json()["choices"][0]["text"]
        assert text == expected


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_without_an_answer_scores_a_prompt(client: Client, stream: bool) -> None:
    """As evaluation harnesses ask OpenAI's API and vLLM."""
    running = client()
    asked = {"prompt": ["What is the", "Hello"], "echo": True, "max_tokens": 0, "logprobs": 1, "stream": stream}
    response = running.post(PATH, json={**asked, "stream_options": {"include_usage": True}} if stream else asked)
    longer = running.post(PATH, json={**asked, "max_tokens": 1, "stream": False}).json()["choices"]
    chunks = events(response.text) if stream else [response.json()]
    choices = sorted((c for chunk in chunks for c in chunk["choices"]), key=lambda choice: choice["index"])
    assert [choice["text"] for choice in choices] == ["What is the", "Hello"]
    for choice, other in zip(choices, longer, strict=True):
        assert choice["finish_reason"] == "length" and len(choice["logprobs"]["tokens"]) > 1
        assert choice["logprobs"] == {name: values[:-1] for name, values in other["logprobs"].items()}
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == 0 and usage["total_tokens"] == usage["prompt_tokens"] > 2


@pytest.mark.parametrize("stream", [False, True])
def test_offsets_of_tokens_are_places_in_the_text(client: Client, stream: bool) -> None:
    """A character of several tokens is one of the text."""
    asked = {"prompt": "a\U0001f642bc", "echo": True, "max_tokens": 20, "logprobs": 0, "seed": 5, "ignore_eos": True}
    response = client().post(PATH, json={**asked, "temperature": 1, "stream": stream})
    choices = [c for e in events(response.text) for c in e["choices"]] if stream else response.json()["choices"]
    text = "".join(choice["text"] for choice in choices)
    told = [choice["logprobs"] for choice in choices if choice["logprobs"]]
    tokens, offsets = ([value for each in told for value in each[name]] for name in ("tokens", "text_offset"))
    assert offsets[:2] == [0, 1] and text[offsets[tokens.index("b")]] == "b" and tokens.index("b") > 2
    for token, offset in zip(tokens, offsets, strict=True):
        assert token.startswith("bytes:") or text[offset:].startswith(token)


def test_a_response_format_constrains_a_completion(client: Client) -> None:
    running = client()
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "integer", "minimum": 10}}}
    asked = {"prompt": "a", "max_tokens": 30, "seed": 1, "response_format": schema}
    assert int(running.post(PATH, json=asked).json()["choices"][0]["text"]) >= 10
    error = running.post(PATH, json={**asked, "response_format": {"type": "xml"}}).json()["error"]
    assert error["param"] == "response_format.type"
    error = running.post(PATH, json={**asked, "structured_outputs": {"choice": ["a"]}}).json()["error"]
    assert "contradict" in error["message"] and error["param"] == "structured_outputs"


def test_stop_strings_end_a_completion(client: Client, generate: Callable[..., str]) -> None:
    text = generate("Hello", max_tokens=24)
    stop = text[6:8]
    asked = {"prompt": "Hello", "max_tokens": 24, "temperature": 0}
    body = client().post(PATH, json={**asked, "stop": stop}).json()
    assert body["choices"][0]["text"] == text[: text.find(stop)]
    assert body["choices"][0]["finish_reason"] == "stop"


def test_logprobs_have_an_entry_per_token(client: Client) -> None:
    body = (
        client().post(PATH, json={"prompt": "a", "max_tokens": 6, "seed": 3, "logprobs": 3, "ignore_eos": True}).json()
    )
    logprobs, text = body["choices"][0]["logprobs"], body["choices"][0]["text"]
    assert {len(values) for values in logprobs.values()} == {6}
    assert logprobs["text_offset"][0] == 0 and logprobs["text_offset"] == sorted(logprobs["text_offset"])
    for token, logprob, top in zip(*(logprobs[n] for n in ("tokens", "token_logprobs", "top_logprobs")), strict=True):
        assert logprob <= 0 and top[token] == pytest.approx(logprob) and len(top) in (3, 4)
        assert sum(map(math.exp, top.values())) <= 1 + 1e-4
    if "\ufffd" not in text:
        assert "".join(logprobs["tokens"]) == text


def test_tokens_that_are_no_text_alone_are_told_apart_by_their_bytes(client: Client) -> None:
    """All would be U+FFFD, and of one key only one probability is left."""
    asked = {"prompt": "a", "max_tokens": 4, "seed": 3, "logprobs": 100, "ignore_eos": True}
    logprobs = client().post(PATH, json=asked).json()["choices"][0]["logprobs"]
    for top in logprobs["top_logprobs"]:
        assert len(top) in (100, 101) and "\ufffd" not in top
        assert any(re.fullmatch(r"bytes:(\\x[89a-f][0-9a-f])+", name) for name in top)


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_s_logprobs_are_those_of_the_prompt(client: Client, stream: bool) -> None:
    """What evaluation harnesses score texts with."""
    running = client()
    ids = running.post("/tokenize", json={"prompt": "What is the"}).json()["tokens"]
    asked = {"prompt": ["What is the", "Hello"], "echo": True, "logprobs": 2, "max_tokens": 3, "temperature": 0.5}
    asked = {**asked, "n": 2, "seed": 1, "ignore_eos": True, "stream": stream}
    response = running.post(PATH, json=asked)
    if stream:
        chunks = events(response.text)
        texts = [joined_text(chunks, index) for index in range(4)]
        told = [[c["logprobs"] for e in chunks for c in e["choices"] if c["index"] == index] for index in range(4)]
        logprobs = [{name: [v for each in mine if each for v in each[name]] for name in NAMES} for mine in told]
    else:
        texts = [choice["text"] for choice in response.json()["choices"]]
        logprobs = [choice["logprobs"] for choice in response.json()["choices"]]
    for index in (0, 1):
        mine = logprobs[index]
        assert {len(values) for values in mine.values()} == {len(ids) + 3}
        assert mine["token_logprobs"][0] is None and mine["top_logprobs"][0] is None
        assert "".join(mine["tokens"][: len(ids)]) == "What is the"
        assert mine["text_offset"][: len(ids)] == [len("".join(mine["tokens"][:i])) for i in range(len(ids))]
        assert mine["token_logprobs"][: len(ids)] == logprobs[0]["token_logprobs"][: len(ids)]
    assert all(text.startswith(prompt) for text, prompt in zip(texts, ["What is the"] * 2 + ["Hello"] * 2, strict=True))
    # The engine's own probability of the prompt's last token, made to come after the others.
    asked = {"prompt": ids[:-1], "logprobs": 0, "max_tokens": 1, "temperature": 0, "logit_bias": {str(ids[-1]): 100}}
    [forced] = running.post(PATH, json=asked).json()["choices"]
    assert forced["logprobs"]["tokens"] == mine["tokens"][len(ids) - 1 : len(ids)]
    expected = pytest.approx(mine["token_logprobs"][len(ids) - 1], rel=1e-3)
    assert forced["logprobs"]["token_logprobs"][0] == expected


def test_vllm_s_extensions_reach_the_engine(client: Client, generate: Callable[..., str]) -> None:
    running = client()
    greedy = generate("Hello", max_tokens=8)

    def ask(**more: Any) -> Any:
        asked = {"prompt": "Hello", "max_tokens": 8, "temperature": 1, "seed": 1, **more}
        return running.post(PATH, json=asked).json()["choices"][0]

    assert ask(top_k=1)["text"] == greedy
    assert ask(min_p=1.0)["text"] == greedy
    assert ask(top_p=1e-9)["text"] == greedy
    assert ask(temperature=0, repetition_penalty=1.8)["text"] == generate("Hello", max_tokens=8, repetition_penalty=1.8)
    chosen = ask(structured_outputs={"choice": ["sunny"]})
    assert (chosen["text"], chosen["finish_reason"]) == ("sunny", "stop")
    [token] = running.post("/tokenize", json={"prompt": "A"}).json()["tokens"]
    assert ask(logit_bias={str(token): 100}, max_tokens=3)["text"] == "AAA"
    assert ask(logit_bias={str(token): 100}, stop="AA", include_stop_str_in_output=True)["text"] == "AA"
    assert ask(structured_outputs={"regex": "[0-9]{3}x"})["text"][3:] == "x"


def test_the_model_s_own_sampling_defaults_apply(models: Callable[..., Any], tmp_path: Any) -> None:
    """generation_config.json says greedily; a request may say otherwise."""
    import json
    import shutil

    from flowserve import Engine, EngineConfig
    from flowserve.server.generation_api import GenerationApi

    folder = tmp_path / "greedy"
    shutil.copytree(models("qwen3"), folder)
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False}))
    api = GenerationApi(Engine.from_folder(folder, EngineConfig(num_threads=1)), folder)
    with TestClient(api.asgi) as running:
        asked = {"model": "greedy", "prompt": "Hello", "max_tokens": 10}
        texts = {running.post(PATH, json=asked).json()["choices"][0]["text"] for _ in range(3)}
        assert len(texts) == 1
        hot = running.post(PATH, json={**asked, "temperature": 2.0, "seed": 1}).json()["choices"][0]["text"]
        assert hot not in texts
        refused = running.post(PATH, json={**asked, "n": 2}).json()["error"]
        assert refused["param"] == "n" and "this model's default (generation_config.json)" in refused["message"]
        own = running.post(PATH, json={**asked, "n": 2, "temperature": 0}).json()["error"]
        assert "generation_config" not in own["message"]


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 3]}, "prompt"),
        ({"prompt": [3, -1]}, "prompt"),
        ({"prompt": [10**9]}, "prompt"),
        ({"prompt": [2**70], "echo": True}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "a", "n": 0}, "n"),
        ({"prompt": "a", "n": 2, "temperature": 0}, "n"),
        ({"prompt": "a", "logit_bias": {"x": 1}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"3": 101}}, "logit_bias"),
        ({"prompt": "a", "logit_bias": {"100000": 1}}, "logit_bias"),
        ({"prompt": "a", "n": 129}, "n"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "a", "max_tokens": "many"}, "max_tokens"),
        ({"prompt": "a", "temperature": -0.1}, "temperature"),
        ({"prompt": "a", "temperature": True}, "temperature"),
        ({"prompt": "a", "top_p": 0}, "top_p"),
        ({"prompt": "a", "logprobs": -1}, "logprobs"),
        ({"prompt": "a", "priority": 1.5}, "priority"),
        ({"prompt": "a", "cache_salt": 3}, "cache_salt"),
        ({"prompt": "a", "cache_salt": ""}, "cache_salt"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "guided_choice": ["a"]}, "guided_choice"),
        ({"prompt": "a", "prompt_logprobs": 1}, "prompt_logprobs"),
        ({"prompt": "a", "truncate_prompt_tokens": 3}, "truncate_prompt_tokens"),
        ({"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
        ({"prompt": "a", "best_of": 3}, "best_of"),
        ({"prompt": "a", "stop": [""]}, "stop"),
        ({"prompt": "a", "stop": [1]}, "stop[0]"),
        ({"prompt": "a", "stream_options": 3}, "stream_options"),
        ({"prompt": "a", "structured_outputs": {}}, "structured_outputs"),
        ({"prompt": "a", "structured_outputs": {"regex": "("}}, "structured_outputs"),
        ({"prompt": "a", "structured_outputs": {"json": {"type": "nonsense"}}}, "structured_outputs"),
        ({"prompt": "a", "structured_outputs": {"grammar": "start: nowhere"}}, "structured_outputs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_bad_requests_are_told_what_is_wrong(
    client: Client, asked: dict[str, Any], param: str | None, stream: bool
) -> None:
    response = client().post(PATH, json={**asked, "stream": stream})
    error = response.json()["error"]
    assert response.status_code == 400, response.text
    assert error["type"] == "invalid_request_error" and error["message"] and error["param"] == param


def test_a_prompt_over_the_limit_has_openai_s_code(client: Client) -> None:
    response = client(engine={"max_model_len": 32}).post(PATH, json={"prompt": list(range(40))})
    error = response.json()["error"]
    assert response.status_code == 400 and (error["code"], error["param"]) == ("context_length_exceeded", "prompt")


def test_one_bad_prompt_refuses_all_and_the_others_of_the_server_go_on(client: Client) -> None:
    running = client()
    assert running.post(PATH, json={"prompt": [[1, 2], [10**6]]}).status_code == 400
    body = running.post(PATH, json={"prompt": [1, 2], "max_tokens": 3, "ignore_eos": True}).json()
    assert body["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_constraints_that_forbid_every_token_are_the_request_s_fault(client: Client, stream: bool) -> None:
    asked = {"prompt": "a", "structured_outputs": {"regex": "7+"}, "bad_words": ["7"], "stream": stream}
    response = client().post(PATH, json=asked)
    error = (
        response.json()["error"] if not stream or response.status_code != 200 else events(response.text)[-1]["error"]
    )
    assert stream or response.status_code == 400, response.text
    assert error["type"] == "invalid_request_error" and "no token may come next" in error["message"]
    assert error["param"] == "structured_outputs"
