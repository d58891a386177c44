"""A body through the tokenizer's executor and the engine's: what a client would be written."""

from __future__ import annotations

import json
import queue
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import msgspec
import pytest

pytest.importorskip("torch")

from deepserve.protocol.messages import EngineReport, TaskFinished, TaskOutputs  # noqa: E402
from deepserve.protocol.model_io import ChatInput, CompletionInput, ContextInput, TokenizedPrompt  # noqa: E402
from deepserve.protocol.openai_io import EncodedPrompt, OpenAIError, OpenAIPrompts, OpenAIRequest, OpenAIUsage  # noqa: E402
from deepserve.protocol.prompt_blocks import pack, unpack  # noqa: E402
from deepserve.protocol.specs import CodeRef, FunctionSpec, ModelSpec  # noqa: E402
from deepserve_runtime.executors.engine import EngineExecutor  # noqa: E402
from deepserve_runtime.executors.openai_generation import priority_of  # noqa: E402
from deepserve_runtime.executors.tokenizer import TokenizerExecutor  # noqa: E402
from deepserve_runtime.task import Task  # noqa: E402
from deepserve_runtime.task_threads import TaskThreads  # noqa: E402
from flowserve.rtc.index import block_hashes  # noqa: E402
from tests.tiny_models import make_model  # noqa: E402
from tests.unit.deepserve_runtime.fake_pod import FakeLink, FakePod  # noqa: E402

T = TypeVar("T")
CREDIT = {"credit": 64, "credit_bytes": 1 << 22}
HELLO = [{"role": "user", "content": "Hello"}]
IMAGE = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "x"}}]}
]
NO_IMAGE = "must be text: a model for text takes no part of type 'image_url'"


class Executors:
    """The pools of one model, each a pod in this thread."""

    def __init__(self, folder: Path) -> None:
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.link = FakeLink()
        """The pods', beside those of their tasks."""
        threads = cast(TaskThreads, SimpleNamespace(main=SimpleNamespace(inbox=self._inbox, link=self.link)))
        spec = FunctionSpec("models", "tiny", "model", CodeRef("builtin", "", ""), model=ModelSpec("tiny", str(folder)))
        self.tokenizer = TokenizerExecutor(spec, threads)
        self.engine = EngineExecutor(spec, threads)
        self.tokenizer.load()
        self.engine.load()
        self._number = 0

    def assign(self, executor: Any, method: str, message: msgspec.Struct, **fields: Any) -> tuple[FakePod, Task]:
        self._number += 1
        pod = FakePod()
        # Bytes stay bytes on their way.
        body = msgspec.to_builtins(message, builtin_types=(bytes,))
        task = pod.task(body, f"t-{self._number}", method=method, **fields)
        executor.assign(task)
        return pod, task

    def run(self) -> None:
        """What the pods' main threads would do, and what the tokenizer's other thread does."""
        self.run_main()
        if self.tokenizer._beside is not None:
            is_over = threading.Event()
            self.tokenizer._beside.inbox.put(is_over.set)
            assert is_over.wait(60)

    def run_main(self) -> None:
        while not self._inbox.empty() or self.engine._compiling:  # which another thread ends
            self._inbox.get(timeout=60)()

    def prompts(self, method: str, asked: dict[str, Any] | bytes) -> FakePod:
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        pod, _ = self.assign(self.tokenizer, method, OpenAIRequest(body))
        self.run()
        return pod

    def answer(self, method: str, **asked: Any) -> FakePod:
        prompts = self.prompts(method, {"model": "tiny", **asked})
        pod, _ = self.assign(self.engine, method, result(prompts, OpenAIPrompts), kind="stream", **CREDIT)
        self.run()
        return pod

    def check_nothing_left(self) -> None:
        self.engine._engine.check_invariants()
        assert not self.engine._engine.has_work and not self.engine._generations and not self.engine._compiling


@pytest.fixture(scope="module")
def executors(tmp_path_factory: pytest.TempPathFactory) -> Executors:
    return Executors(make_model(tmp_path_factory.mktemp("models") / "tiny", "qwen3"))


@pytest.fixture(autouse=True)
def nothing_left(executors: Executors) -> Any:
    yield
    executors.check_nothing_left()


def result(pod: FakePod, kind: type[T]) -> T:
    [(finished, payload)] = pod.link.of(TaskFinished)
    assert finished.outcome.is_ok, finished.outcome
    return msgspec.msgpack.decode(payload, type=kind)


def refusal(pod: FakePod) -> tuple[int, dict[str, Any]]:
    [(finished, payload)] = pod.link.of(TaskFinished)
    assert finished.outcome.kind == "error" and finished.value.format == "msgpack"
    error = msgspec.msgpack.decode(payload, type=OpenAIError)
    return error.status, json.loads(error.body)["error"]


def written(pod: FakePod) -> bytes:
    pieces = []
    for message, payload in pod.link.of(TaskOutputs):
        at = 0
        for value in message.values:
            pieces.append(msgspec.msgpack.decode(payload[at : at + value.size_bytes], type=bytes))
            at += value.size_bytes
    return b"".join(pieces)


def chunks(pod: FakePod) -> list[dict[str, Any]]:
    events = written(pod).decode().removesuffix("\n\n").split("\n\n")
    assert events.pop() == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_a_chat_whole_and_streamed(executors: Executors) -> None:
    asked: dict[str, Any] = {"messages": HELLO, "max_tokens": 8, "temperature": 0, "logprobs": True}
    pod = executors.answer("openai.chat", **asked)
    whole = json.loads(written(pod))
    assert whole["object"] == "chat.completion" and whole["model"] == "tiny"
    usage = result(pod, OpenAIUsage)
    assert usage.completion_tokens == whole["usage"]["completion_tokens"] == 8
    assert usage.prompt_tokens == whole["usage"]["prompt_tokens"] > 5
    assert len(whole["choices"][0]["logprobs"]["content"]) == 8
    streamed = chunks(executors.answer("openai.chat", **asked, stream=True, stream_options={"include_usage": True}))
    texts = [each["choices"][0]["delta"].get("content", "") for each in streamed if each["choices"]]
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    assert streamed[0]["choices"][0]["delta"]["role"] == "assistant" and streamed[-1]["usage"] == whole["usage"]


def test_completions_of_several_prompts(executors: Executors) -> None:
    pod = executors.answer("openai.completions", prompt=["The quick", [1, 2, 3]], n=2, max_tokens=4, echo=True, seed=1)
    whole = json.loads(written(pod))
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert [choice["text"].startswith("The quick") for choice in whole["choices"]] == [True, True, False, False]
    assert result(pod, OpenAIUsage).completion_tokens == whole["usage"]["completion_tokens"] == 16
    alone = executors.answer("openai.completions", prompt=[1, 2, 3], max_tokens=4, temperature=0)
    both = executors.answer("openai.completions", prompt=["x", [1, 2, 3]], max_tokens=4, temperature=0)
    texts = [json.loads(written(each))["choices"][-1]["text"] for each in (alone, both)]
    assert texts[0] == texts[1]


def test_tokens_that_were_in_the_cache_are_told(executors: Executors) -> None:
    asked: dict[str, Any] = {"prompt": [7] * 100, "max_tokens": 2, "n": 2, "cache_salt": "a tenant"}
    first, second = (result(executors.answer("openai.completions", **asked), OpenAIUsage) for _ in range(2))
    assert first.cached_tokens == 0 and 0 < second.cached_tokens < second.prompt_tokens == 100
    body = {"input": "Hello " * 30, "max_output_tokens": 2}
    details = [
        json.loads(written(executors.answer("openai.responses", **body)))["usage"]["input_tokens_details"]
        for _ in range(2)
    ]
    assert details[0]["cached_tokens"] < details[1]["cached_tokens"]


@pytest.mark.parametrize("salt", [None, "tenant"])
def test_the_tokenizer_names_beginnings_as_the_engine_reports_them(executors: Executors, salt: str | None) -> None:
    asked = {"model": "tiny", "prompt": f"{salt} " + "The quick brown fox jumps. " * 12, "max_tokens": 3}
    prompts = executors.prompts("openai.completions", asked if salt is None else {**asked, "cache_salt": salt})
    about = prompts.finished.prompt
    assert about is not None and len(about.beginnings()) == about.num_tokens // 32 > 1
    [prompt] = result(prompts, OpenAIPrompts).prompts
    assert (about.beginnings() == unpack(pack(block_hashes(prompt.token_ids, 32)))) == (salt is None)
    _, task = executors.assign(
        executors.engine, "openai.completions", result(prompts, OpenAIPrompts), kind="stream", **CREDIT
    )
    executors.link.sent.clear()
    executors.run()
    reports = [report for report, _ in executors.link.of(EngineReport)]
    assert set(about.beginnings()) <= {name for report in reports for name in unpack(report.on_device)}
    assert [report.began for report in reports if report.began] == [(task.key[0],)]
    assert sum(report.prompt_tokens for report in reports) == about.num_tokens


def test_a_required_tool_and_a_schema(executors: Executors) -> None:
    parameters = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "add", "parameters": parameters}}
    asked: dict[str, Any] = {"messages": HELLO, "tools": [tool], "max_tokens": 60, "seed": 3}
    whole = json.loads(written(executors.answer("openai.chat", **asked, tool_choice="required")))
    [call, *_] = whole["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "add" and json.loads(call["function"]["arguments"])["a"] in (1, 2)
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["yes", "no"]}}}
    whole = json.loads(written(executors.answer("openai.chat", messages=HELLO, response_format=schema, seed=1)))
    assert json.loads(whole["choices"][0]["message"]["content"]) in ("yes", "no")


def test_tokens_there_and_back(executors: Executors) -> None:
    pod, _ = executors.assign(
        executors.tokenizer,
        "openai.tokenize",
        OpenAIRequest(b'{"prompt": "The quick", "return_token_strs": true}'),
        kind="stream",
        **CREDIT,
    )
    executors.run()
    found = json.loads(written(pod))
    assert found["count"] == len(found["tokens"]) == len(found["token_strs"]) > 0 and found["max_model_len"] > 0
    back = json.dumps({"tokens": found["tokens"]}).encode()
    pod, _ = executors.assign(executors.tokenizer, "openai.detokenize", OpenAIRequest(back), kind="stream", **CREDIT)
    executors.run()
    assert json.loads(written(pod)) == {"prompt": "The quick"}


@pytest.mark.parametrize(
    ("method", "asked", "param"),
    [
        ("openai.chat", {"messages": []}, "messages"),
        ("openai.chat", {"messages": "hi"}, "messages"),
        ("openai.chat", {"messages": HELLO, "temperature": -1}, "temperature"),
        ("openai.chat", {"messages": HELLO, "n": 0}, "n"),
        ("openai.chat", {"messages": HELLO, "tool_choice": "required"}, "tool_choice"),
        ("openai.chat", {"messages": HELLO, "response_format": {"type": "yaml"}}, "response_format.type"),
        ("openai.completions", {"prompt": []}, "prompt"),
        ("openai.completions", {}, "prompt"),
        ("openai.completions", {"prompt": "x", "suffix": "y"}, "suffix"),
        ("openai.tokenize", {}, "prompt"),
        ("openai.detokenize", {"tokens": [1 << 40]}, "tokens"),
        ("openai.chat", b"{", None),
        ("openai.chat", b"[1]", None),
    ],
)
def test_a_bad_body_is_refused_before_an_engine_hears_of_it(
    executors: Executors, method: str, asked: Any, param: str | None
) -> None:
    status, error = refusal(executors.prompts(method, asked))
    assert (status, error["param"], error["type"]) == (400, param, "invalid_request_error")


def test_what_no_context_holds_is_refused_before_an_engine_hears_of_it(executors: Executors) -> None:
    most = executors.engine._engine.max_model_len
    [fits] = result(executors.prompts("openai.completions", {"prompt": [1] * (most - 1)}), OpenAIPrompts).prompts
    assert len(fits.token_ids) == most - 1
    text = "a b c d " * (most // 8)  # its length tells nothing: so many characters may be few tokens
    for method, asked, param in (
        ("openai.completions", {"prompt": [1] * most}, "prompt"),
        ("openai.completions", {"prompt": ["a", text * 4]}, "prompt"),
        ("openai.chat", {"messages": [{"role": "user", "content": text * 4}]}, "messages"),
        ("openai.responses", {"input": text * 4}, "input"),
    ):
        status, error = refusal(executors.prompts(method, asked))
        assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", param)
        assert f"tokens does not fit the context of {most} tokens with room for one more" in error["message"]
    pod, _ = executors.assign(executors.tokenizer, "generate", CompletionInput(text * 4))
    executors.run()
    assert pod.finished.prompt is None and "with room for one more" in pod.finished.outcome.detail


def test_a_prompt_that_is_too_long(executors: Executors) -> None:
    long = executors.prompts("openai.completions", {"prompt": [1] * 100_000})
    assert refusal(long)[1]["code"] == "context_length_exceeded" and refusal(long)[1]["param"] == "prompt"
    # An engine may have less room than the tokenizer knows of. One of two prompts: none of both may stay.
    prompts = OpenAIPrompts(b'{"prompt": ["a", "b"]}', [EncodedPrompt("a", [1, 2]), EncodedPrompt("b", [1] * 100_000)])
    both, _ = executors.assign(executors.engine, "openai.completions", prompts, kind="stream", **CREDIT)
    executors.run()
    assert refusal(both)[0] == 400 and not written(both)


@pytest.mark.parametrize("token_id", [-1, 1 << 32, 1 << 70])
def test_numbers_that_are_no_token_ids_are_refused_where_they_come(executors: Executors, token_id: int) -> None:
    pod = executors.prompts("openai.completions", {"model": "tiny", "prompt": [[1, 2], [token_id]]})
    status, error = refusal(pod)
    assert (status, error["param"]) == (400, "prompt") and "no token ids" in error["message"]


@pytest.mark.parametrize(
    ("asked", "param"), [({"prompt": [[1]] * 1025}, "prompt"), ({"prompt": [[1]] * 9, "n": 128}, "n")]
)
def test_a_request_does_not_fill_the_engine(executors: Executors, asked: dict[str, Any], param: str) -> None:
    pod = executors.prompts("openai.completions", {"model": "tiny", "temperature": 1, **asked})
    status, error = refusal(pod)
    assert (status, error["param"]) == (400, param) and "completions are more than the 1024" in error["message"]


def test_what_only_the_engine_can_refuse(executors: Executors) -> None:
    bad = executors.answer("openai.chat", messages=HELLO, structured_outputs={"grammar": "start: (("}, stream=True)
    status, error = refusal(bad)
    assert (status, error["param"]) == (400, "structured_outputs") and not written(bad)


def test_a_step_that_breaks_is_a_server_error(executors: Executors, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*arguments: Any) -> Any:
        raise RuntimeError("no kernel for this")

    with monkeypatch.context() as broken:
        broken.setattr(executors.engine._engine._worker._runner, "run", break_down)
        pod = executors.answer("openai.completions", prompt=["a", "b"], n=2)
    status, error = refusal(pod)
    assert (status, error["type"]) == (500, "server_error") and "no kernel" in error["message"]


@pytest.mark.parametrize("asked", [-(1 << 60), -1, 0, 7, 1 << 60])
def test_a_turn_comes_before_what_the_client_asks_for(
    executors: Executors, monkeypatch: pytest.MonkeyPatch, asked: int
) -> None:
    given: list[int] = []
    add = executors.engine._engine.add

    def note(*arguments: Any, **options: Any) -> None:
        given.append(options["priority"])
        add(*arguments, **options)

    monkeypatch.setattr(executors.engine._engine, "add", note)
    body = json.dumps({"prompt": "a", "max_tokens": 1, "priority": asked}).encode()
    for turn in (0, -1, -2):
        prompts, _ = executors.assign(executors.tokenizer, "openai.completions", OpenAIRequest(body, turn=turn))
        executors.run()
        message = result(prompts, OpenAIPrompts)
        executors.assign(executors.engine, "openai.completions", message, kind="stream", **CREDIT)
        executors.run()
    assert given == sorted(given, reverse=True) and len(set(given)) == 3
    most_urgent, least_urgent = priority_of(-1, -(1 << 60)), priority_of(-1, 1 << 60)
    assert given[2] < most_urgent <= given[1] <= least_urgent < given[0]
    assert priority_of(0, 7) == 7, "alone in its turn a priority is as the client says"


def test_a_cancelled_task_leaves_with_all_its_sequences(executors: Executors) -> None:
    prompts = executors.prompts("openai.completions", {"prompt": ["a", "b"], "n": 2, "max_tokens": 50})
    message = result(prompts, OpenAIPrompts)
    pod, task = executors.assign(executors.engine, "openai.completions", message, kind="stream", **CREDIT)
    engine, steps = executors.engine._engine, 0
    step = engine.step

    def count() -> Any:
        nonlocal steps
        steps += 1
        if steps == 3:
            task.cancel("cancelled")
        return step()

    engine.step = count  # type: ignore[method-assign]
    try:
        executors.run()
    finally:
        del engine.step  # type: ignore[attr-defined]
    assert pod.finished.outcome.kind == "cancelled" and steps < 10


def test_a_reader_without_room_gets_the_rest_in_one_piece(executors: Executors) -> None:
    asked = {"prompt": "The", "max_tokens": 20, "temperature": 0, "stream": True, "ignore_eos": True}
    message = result(executors.prompts("openai.completions", asked), OpenAIPrompts)
    fields = {"kind": "stream", "credit": 1, "credit_bytes": 1 << 22}
    pod, task = executors.assign(executors.engine, "openai.completions", message, **fields)
    executors.run()
    assert sum(len(message.values) for message, _ in pod.link.of(TaskOutputs)) == 1
    assert not pod.link.of(TaskFinished)
    task.grant(1, 1 << 20)
    executors.run()
    assert sum(len(message.values) for message, _ in pod.link.of(TaskOutputs)) == 2
    whole = executors.answer("openai.completions", **{**asked, "stream": False})
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks(pod))
    assert text == json.loads(written(whole))["choices"][0]["text"]


def test_a_long_prompt_is_read_beside_the_others(executors: Executors) -> None:
    def long_prompt() -> FakePod:
        body = json.dumps({"model": "tiny", "prompt": "word " * 20_000}).encode()
        return executors.assign(executors.tokenizer, "openai.completions", OpenAIRequest(body))[0]

    first = long_prompt()
    beside = executors.tokenizer._beside
    assert beside is not None and executors._inbox.empty()
    may_go_on = threading.Event()
    beside.inbox.put(lambda: may_go_on.wait(60) and None)
    second = long_prompt()
    short, _ = executors.assign(executors.tokenizer, "openai.completions", OpenAIRequest(b'{"prompt": "word"}'))
    executors.run_main()
    assert len(result(short, OpenAIPrompts).prompts) == 1 and not second.link.of(TaskFinished)
    may_go_on.set()
    executors.run()
    for pod in (first, second):
        status, error = refusal(pod)
        assert status == 400 and error["code"] == "context_length_exceeded" and error["param"] == "prompt"
        assert error["message"].startswith("prompt of 100000 characters does not fit the context of")


@pytest.mark.parametrize(
    ("method", "asked", "words"),
    [
        ("chat", ChatInput([{"role": "king", "content": "x"}]), "messages[0].role must be one of system, developer,"),
        ("chat", ChatInput([*HELLO, {"role": "user"}]), "messages[1].content is missing"),
        (
            "cache",
            ContextInput("ctx-1", [{"role": "king", "content": "x"}], ttl_s=9),
            "messages[0].role must be one of",
        ),
        ("chat", ChatInput(IMAGE), f"messages[0].content[1] {NO_IMAGE}"),
        ("cache", ContextInput("ctx-1", IMAGE, ttl_s=9), f"messages[0].content[1] {NO_IMAGE}"),
        ("chat", ChatInput([{"role": "user", "content": ["a"]}]), 'messages[0].content[0] must be {"type": "text",'),
        ("generate", CompletionInput("word " * 5000), "prompt of 25000 characters does not fit the context of"),
    ],
)
def test_what_no_template_may_see_is_named(executors: Executors, method: str, asked: Any, words: str) -> None:
    pod, _ = executors.assign(executors.tokenizer, method, asked)
    executors.run()
    assert f"tiny: {words}" in pod.finished.outcome.detail


def test_an_image_is_refused_in_the_same_words_by_both_ways(executors: Executors) -> None:
    status, error = refusal(executors.prompts("openai.chat", {"messages": IMAGE}))
    assert (status, error["message"]) == (400, f"messages[0].content[1] {NO_IMAGE}")


def test_texts_in_parts_are_the_same_prompt_by_both_ways(executors: Executors) -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hel"}, {"type": "text", "text": "lo"}]}]
    [prompt] = result(executors.prompts("openai.chat", {"messages": parts}), OpenAIPrompts).prompts
    for messages in (parts, [{"role": "user", "content": "Hel\nlo"}]):
        pod, _ = executors.assign(executors.tokenizer, "chat", ChatInput(messages))
        executors.run()
        assert result(pod, TokenizedPrompt).token_ids == prompt.token_ids


def test_a_developer_is_the_system_of_templates(executors: Executors) -> None:
    asked = [ChatInput([{"role": role, "content": "Be brief."}, *HELLO]) for role in ("developer", "system")]
    pods = [executors.assign(executors.tokenizer, "chat", each)[0] for each in asked]
    executors.run()
    one, two = (pod.link.of(TaskFinished)[0] for pod in pods)
    assert one[0].outcome.is_ok and one[1] == two[1]
