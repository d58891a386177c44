"""A tokenizer pod and an engine pod, forked from their templates, with a random tiny model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest

from deepserve.errors import ModelError, ModelLoadError, PromptTooLongError
from deepserve.protocol.messages import CancelTask, TaskCredit, TaskFinished, TaskOutputs, Value
from deepserve.protocol.model_io import (
    ChatInput,
    CompletionInput,
    Generated,
    GeneratedDelta,
    GenerationParams,
    TokenizedPrompt,
)
from deepserve.protocol.specs import CodeRef, ModelSpec
from tests.integration.runtime.stand_in import Peer, StandIn, StandInPod, decode_exception, ready
from tests.stream_items import all_items

pytest.importorskip("torch")

T = TypeVar("T")
BUILTIN = CodeRef("builtin", "deepserve_runtime", "")
PARALLEL = """
import torch

def f(n):
    torch.set_num_threads(2)
    return float((torch.ones(n, n) @ torch.ones(n, n))[0, 0])
"""
GREEDY = GenerationParams(max_tokens=12, temperature=0.0)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_models import make_model

    return make_model(tmp_path_factory.mktemp("model"), "qwen3")


@pytest.fixture(scope="module")
def templates(controller: StandIn) -> Iterator[dict[str, Peer]]:
    started = {name: controller.start_template(name) for name in ("tokenizer", "flowserve")}
    for peer in started.values():
        ready(peer)
    yield started


@pytest.fixture(scope="module")
def tokenizer(controller: StandIn, templates: dict[str, Peer], model_folder: Path) -> Iterator[StandInPod]:
    pod = controller.fork_pod(templates["tokenizer"])
    pod.bind("", kind="tokenizer", code=BUILTIN, model=ModelSpec("tiny", str(model_folder)))
    yield pod
    pod.link.connection.close()
    pod.exited()


@pytest.fixture(scope="module")
def engine(controller: StandIn, templates: dict[str, Peer], model_folder: Path) -> Iterator[StandInPod]:
    pod = controller.fork_pod(templates["flowserve"])
    pod.bind("", kind="model", code=BUILTIN, model=ModelSpec("tiny", str(model_folder)))
    yield pod
    pod.link.connection.close()
    pod.exited()


def test_a_pod_takes_no_more_kv_than_it_is_told(
    controller: StandIn, templates: dict[str, Peer], model_folder: Path
) -> None:
    """One that loads for itself; and where that is too little for a sequence, it says what is needed."""
    pod = controller.fork_pod(templates["flowserve"])
    model = ModelSpec("tiny", str(model_folder))
    ready = pod.bind("", kind="model", code=BUILTIN, model=model, kv_bytes=1 << 20)
    assert ready.memory.least_kv_bytes <= ready.memory.kv_bytes <= 1 << 20
    pod.link.connection.close()
    pod.exited()
    pod = controller.fork_pod(templates["flowserve"])
    with pytest.raises(ModelLoadError, match="1 MiB are needed for the KV of one sequence, there are 0 MiB for it"):
        pod.bind("", kind="model", code=BUILTIN, model=model, kv_bytes=1)
    pod.link.connection.close()
    pod.exited()


def give(pod: StandInPod, message: msgspec.Struct, **fields: Any) -> str:
    data = msgspec.msgpack.encode(message)
    return pod.assign_value(Value("msgpack", len(data)), data, **fields)


def take(pod: StandInPod, kind: type[T]) -> T:
    finished, payload = pod.link.receive(TaskFinished)
    if finished.value.format == "exception":
        raise decode_exception(finished.value, payload)
    assert finished.outcome.is_ok, finished
    return msgspec.msgpack.decode(payload, type=kind)


def prompt_of(tokenizer: StandInPod, text: str, **params: Any) -> TokenizedPrompt:
    give(
        tokenizer,
        CompletionInput(text, GenerationParams(**{"max_tokens": 12, "temperature": 0.0, **params})),
        method="generate",
    )
    return take(tokenizer, TokenizedPrompt)


def test_a_chat_is_rendered_and_tokenised(tokenizer: StandInPod) -> None:
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
    message = {"role": "user", "content": "What is the weather like in Paris?"}
    give(tokenizer, ChatInput([message], GREEDY), method="chat")
    give(tokenizer, ChatInput([message], GREEDY, tools), method="chat")
    plain, with_tools = take(tokenizer, TokenizedPrompt), take(tokenizer, TokenizedPrompt)
    assert not plain.parse_tools and with_tools.parse_tools
    assert len(with_tools.token_ids) > len(plain.token_ids) > 5
    assert plain.params == GREEDY


@pytest.mark.parametrize(
    ("message", "method"),
    [
        (ChatInput([{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]), "chat"),
        (CompletionInput("no messages"), "chat"),
    ],
)
def test_a_chat_that_the_template_refuses_is_a_model_error(
    tokenizer: StandInPod, message: msgspec.Struct, method: str
) -> None:
    give(tokenizer, message, method=method)
    with pytest.raises(ModelError):
        take(tokenizer, TokenizedPrompt)


def test_a_generation_is_the_same_alone_in_a_stream_and_among_others(tokenizer: StandInPod, engine: StandInPod) -> None:
    prompt = prompt_of(tokenizer, "The quick brown fox")
    give(engine, prompt)
    alone = take(engine, Generated)
    assert alone.prompt_tokens == len(prompt.token_ids) and 1 <= alone.completion_tokens <= 12
    for _ in range(5):
        give(engine, prompt)
    give(engine, prompt, kind="stream", credit=100)
    assert [take(engine, Generated) for _ in range(6)] == [alone] * 6
    deltas = [data for _, _, data in all_items(engine.link.kept)]
    engine.link.kept.clear()
    assert "".join(msgspec.msgpack.decode(data, type=GeneratedDelta).text for data in deltas) == alone.text


def test_tokens_are_merged_while_the_reader_is_slow(tokenizer: StandInPod, engine: StandInPod) -> None:
    prompt = prompt_of(tokenizer, "The quick brown fox", max_tokens=30)
    give(engine, prompt)
    whole = take(engine, Generated)
    task_id = give(engine, prompt, kind="stream", credit=1)
    first = engine.link.receive(TaskOutputs)
    give(engine, prompt)
    assert take(engine, Generated) == whole  # meanwhile the stream has been generated, and waits
    assert not any(isinstance(frame.message, TaskOutputs) for frame in engine.link.kept)
    engine.link.send(TaskCredit(task_id, 1))
    rest = engine.link.receive(TaskOutputs)
    texts = [msgspec.msgpack.decode(data, type=GeneratedDelta).text for _, _, data in all_items([first, rest])]
    assert "".join(texts) == whole.text
    assert take(engine, Generated) == whole


def test_a_cancelled_generation_leaves_the_engine(tokenizer: StandInPod, engine: StandInPod) -> None:
    task_id = give(engine, prompt_of(tokenizer, "Grüße", max_tokens=400), kind="stream", credit=1)
    engine.link.receive(TaskOutputs)
    engine.link.send(CancelTask(task_id, 1, "cancelled"))
    assert engine.finished().outcome.kind == "cancelled"
    give(engine, prompt_of(tokenizer, "Grüße"))
    take(engine, Generated)


def test_bad_requests_are_errors_of_their_own_task(tokenizer: StandInPod, engine: StandInPod) -> None:
    good = prompt_of(tokenizer, "def square(x):")
    waiting = give(engine, good, kind="stream", credit=0)  # is in the pod all the while
    give(engine, TokenizedPrompt([1] * 600, GREEDY))
    with pytest.raises(PromptTooLongError, match="600"):
        take(engine, Generated)
    give(engine, TokenizedPrompt(good.token_ids, GenerationParams(json_schema={"type": "no such type"})))
    with pytest.raises(ModelError):
        take(engine, Generated)
    give(engine, TokenizedPrompt(good.token_ids, GenerationParams(temperature=-1.0)))
    with pytest.raises(ModelError, match="temperature"):
        take(engine, Generated)
    engine.link.send(TaskCredit(waiting, 100))
    take(engine, Generated)
    engine.link.kept.clear()


def test_output_follows_a_json_schema(tokenizer: StandInPod, engine: StandInPod) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    give(engine, prompt_of(tokenizer, "true or false?", json_schema=schema, max_tokens=60))
    assert set(msgspec.json.decode(take(engine, Generated).text)) == {"ok"}


def test_a_pod_may_run_parallel_operations(controller: StandIn, templates: dict[str, Peer]) -> None:
    """Which hang where the template has run one before the fork."""
    pod = controller.fork_pod(templates["flowserve"])
    pod.bind("f", files={"app.py": PARALLEL})
    assert pod.call(700) == 700.0
    pod.link.connection.close()
    pod.exited()


@pytest.mark.parametrize("kind", ["model", "tokenizer"])
def test_a_model_that_cannot_be_loaded_names_its_folder(
    controller: StandIn, templates: dict[str, Peer], kind: str
) -> None:
    pod = controller.fork_pod(templates["flowserve" if kind == "model" else "tokenizer"])
    with pytest.raises(ModelLoadError, match="/no/such/folder"):
        pod.bind("", kind=kind, code=BUILTIN, model=ModelSpec("gone", "/no/such/folder"))
    pod.link.connection.close()
    pod.exited()
