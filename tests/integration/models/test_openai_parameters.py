"""Every parameter of generation with the official client: the same answer in four ways of asking, and its effect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

import deepserve
from tests.openai_values import ADD, HELLO, PARAMETERS

openai = pytest.importorskip("openai")

GREEDY: dict[str, Any] = {"max_tokens": 12, "temperature": 0, "extra_body": {"ignore_eos": True}}
PARAMETERS_OF_BOTH: dict[str, dict[str, Any]] = {
    "max_tokens": {"max_tokens": 5, "temperature": 0},
    "temperature, seed": {"max_tokens": 12, "temperature": 1.3, "seed": 7},
    "top_p": {"max_tokens": 12, "top_p": 0.5, "seed": 7},
    "stop": {**GREEDY, "stop": ["e", "o"]},
    "n": {"max_tokens": 6, "n": 3, "seed": 1},
    "penalties": {**GREEDY, "presence_penalty": -2, "frequency_penalty": -2},
    "logit_bias": {**GREEDY, "logit_bias": {"40": 100}},
    "user": {**GREEDY, "user": "ada"},
    "extensions": {
        **GREEDY,
        "extra_body": {"top_k": 5, "min_p": 0.1, "repetition_penalty": 0.01, "priority": -1, "cache_salt": "s"},
    },
}
OF_CHATS: dict[str, dict[str, Any]] = {
    "max_completion_tokens": {"max_completion_tokens": 5, "temperature": 0},
    "json_object": {"max_tokens": 40, "seed": 1, "response_format": {"type": "json_object"}},
    "json_schema": {
        "max_tokens": 80,
        "seed": 5,
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": PARAMETERS}},
    },
    "logprobs": {**GREEDY, "logprobs": True, "top_logprobs": 3},
    "tools": {"max_tokens": 80, "seed": 2, "tools": [ADD], "tool_choice": "required", "parallel_tool_calls": False},
    "metadata, store": {**GREEDY, "metadata": {"a": "b"}, "store": False},
    "reasoning_effort": {**GREEDY, "reasoning_effort": "low"},
}
OF_COMPLETIONS: dict[str, dict[str, Any]] = {
    "logprobs": {**GREEDY, "logprobs": 2},
    "echo": {**GREEDY, "echo": True},
    "prompts": {**GREEDY, "prompt": ["one", "two"]},
    "token ids": {**GREEDY, "prompt": [40, 41, 42]},
}
USAGE: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


class Answered:
    """Whole, or put together from a stream's chunks: by choice its text, calls, log probabilities and end."""

    def __init__(self, parts: list[Any]) -> None:
        self.texts: dict[int, str] = {}
        self.arguments: dict[int, str] = {}
        self.tokens: dict[int, list[str]] = {}
        self.ends: dict[int, str] = {}
        for part in parts:
            self.usage = part.usage
            for choice in part.choices:
                self._read(choice)

    def _read(self, choice: Any) -> None:
        said = getattr(choice, "delta", None) or getattr(choice, "message", None)
        text = choice.text if said is None else said.content
        self.texts[choice.index] = self.texts.get(choice.index, "") + (text or "")
        for call in getattr(said, "tool_calls", None) or ():
            self.arguments[choice.index] = self.arguments.get(choice.index, "") + call.function.arguments
        if choice.logprobs:
            tokens = choice.logprobs.tokens if said is None else [each.token for each in choice.logprobs.content]
            self.tokens.setdefault(choice.index, []).extend(tokens)
        if choice.finish_reason:
            self.ends[choice.index] = choice.finish_reason

    @property
    def told(self) -> tuple[Any, ...]:
        used = (self.usage.prompt_tokens, self.usage.completion_tokens, self.usage.total_tokens)
        return self.texts, self.arguments, self.tokens, self.ends, used


class Clients:
    """The two official ones, of which the asynchronous keeps one event loop."""

    def __init__(self, llm: deepserve.Model, runner: asyncio.Runner) -> None:
        self.client = llm.openai(max_retries=0)
        self._runner = runner
        self._asynchronous = llm.openai.aio(max_retries=0)
        greedy = {"chat": {"messages": HELLO, **GREEDY}, "completion": {"prompt": "Once upon", **GREEDY}}
        self.plain = {kind: self.ask(kind, asked) for kind, asked in greedy.items()}
        """Greedy answers."""

    def ask(self, kind: str, asked: dict[str, Any]) -> Answered:
        """In four ways."""
        whole = Answered([self._create(self.client, kind)(**asked)])
        streamed = Answered(list(self._create(self.client, kind)(**asked, **USAGE)))
        for other in (streamed, *self._runner.run(self._ask_aio(kind, asked))):
            assert other.told == whole.told
        return whole

    async def _ask_aio(self, kind: str, asked: dict[str, Any]) -> list[Answered]:
        create = self._create(self._asynchronous, kind)
        stream = await create(**asked, **USAGE)
        return [Answered([await create(**asked)]), Answered([chunk async for chunk in stream])]

    @staticmethod
    def _create(client: Any, kind: str) -> Any:
        return client.chat.completions.create if kind == "chat" else client.completions.create

    def close(self) -> None:
        self.client.close()
        self._runner.run(self._asynchronous.close())


@pytest.fixture(scope="module")
def clients(llm: deepserve.Model) -> Iterator[Clients]:
    with asyncio.Runner() as runner:
        clients = Clients(llm, runner)
        yield clients
        clients.close()


@pytest.mark.parametrize("name", [*PARAMETERS_OF_BOTH, *OF_CHATS])
def test_chats(clients: Clients, name: str) -> None:
    asked = {"messages": HELLO, **{**PARAMETERS_OF_BOTH, **OF_CHATS}[name]}
    check(name, clients.ask("chat", asked), clients.plain["chat"])


@pytest.mark.parametrize("name", [*PARAMETERS_OF_BOTH, *OF_COMPLETIONS])
def test_completions(clients: Clients, name: str) -> None:
    asked = {"prompt": "Once upon", **{**PARAMETERS_OF_BOTH, **OF_COMPLETIONS}[name]}
    check(name, clients.ask("completion", asked), clients.plain["completion"])


def check(name: str, got: Answered, plain: Answered) -> None:
    """What the parameter is for."""
    match name:
        case "max_tokens" | "max_completion_tokens":
            assert got.usage.completion_tokens <= 5 and plain.texts[0].startswith(got.texts[0])
        case "stop":
            first = min(plain.texts[0].find(stop) for stop in "eo" if stop in plain.texts[0])
            assert got.texts[0] == plain.texts[0][:first] and got.ends == {0: "stop"}
        case "n":
            assert len(set(got.texts.values())) == 3 and got.usage.completion_tokens > 6
        case "penalties" | "logit_bias" | "temperature, seed" | "extensions":
            assert got.texts != plain.texts
        case "user" | "metadata, store" | "reasoning_effort":
            assert got.texts == plain.texts
        case "json_object" | "json_schema":
            assert got.texts[0].startswith("{") and (got.ends[0] == "length" or json.loads(got.texts[0]) is not None)
        case "tools":
            assert json.loads(got.arguments[0])["a"] <= 99 and got.ends == {0: "tool_calls"}
        case "logprobs":
            assert len(got.tokens[0]) == 12 and got.texts == plain.texts
        case "echo":
            assert got.texts[0] == "Once upon" + plain.texts[0]
        case "prompts":
            assert len(got.texts) == 2
    assert got.usage.total_tokens == got.usage.prompt_tokens + got.usage.completion_tokens


def test_a_stream_tells_its_usage_only_where_it_is_asked(clients: Clients) -> None:
    for options in ({}, {"stream_options": {"include_usage": False}}):
        chunks = list(clients.client.chat.completions.create(messages=HELLO, **GREEDY, stream=True, **options))
        assert all(chunk.usage is None and chunk.choices for chunk in chunks)


def test_one_seed_one_answer(clients: Clients) -> None:
    def text(seed: int | None) -> str:
        asked = {"messages": HELLO, "max_tokens": 30, "temperature": 1, **({} if seed is None else {"seed": seed})}
        return str(clients.client.chat.completions.create(**asked).choices[0].message.content)

    assert text(1) == text(1) != text(2)
    assert len({text(None) for _ in range(3)}) > 1


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"n": 0}, "n"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 2}, "top_p"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"logit_bias": {"40": 900}}, "logit_bias"),
        ({"logit_bias": {"40000": 1}}, "logit_bias"),
        ({"presence_penalty": 9}, "presence_penalty"),
        ({"seed": "x"}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"extra_body": {"priority": "high"}}, "priority"),
        ({"stream_options": {"include_usage": "yes"}}, "stream_options.include_usage"),
    ],
)
def test_what_is_wrong_is_named(clients: Clients, wrong: dict[str, Any], param: str) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as refused:
            clients.client.chat.completions.create(**{"messages": HELLO, "max_tokens": 3, "stream": stream, **wrong})
        assert refused.value.param == param
