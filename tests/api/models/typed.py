"""What a type checker sees of models, tools and agents; checked by mypy --strict, never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, assert_type

import deepserve


@dataclass
class Person:
    name: str


@deepserve.tool
def add(a: int, b: int) -> int:
    return a + b


@deepserve.tool(name="times")
def mul(a: int, b: int) -> int:
    return a * b


async def check(llm: deepserve.Model) -> None:
    assert_type(llm.generate("x", max_tokens=3, temperature=0.5, stop=["\n"]), str)
    assert_type(await llm.generate.aio("x"), str)
    assert_type(llm.generate("x", n=2, seed=1), deepserve.GeneratedText)
    assert_type(await llm.generate.aio("x", logprobs=1), deepserve.GeneratedText)
    assert_type(llm.generate("x", n=2, logprobs=1).choices[1].finish_reason, str)
    assert_type(llm.chat("x").output, str)
    assert_type(llm.chat("x", output_type=Person, n=2).choices[1].output, Person)
    for token in llm.chat("x", logprobs=3).logprobs or ():
        assert_type(token.top_logprobs[0].logprob, float)
    assert_type(llm.chat([{"role": "user", "content": "x"}], tools=[add, mul]).text, str)
    assert_type(llm.chat("x", output_type=Person).output, Person)
    assert_type(llm.chat("x", output_type=list[str]).output, list[str])
    assert_type((await llm.chat.aio("x", output_type=Person)).output, Person)
    choice: Literal["a", "b"] | None = llm.chat("x", output_type=Literal["a", "b"] | None).output
    print(choice)
    assert_type(llm.embed(["a", "b"]), list[list[float]])
    assert_type(await llm.embed.aio("a"), list[list[float]])
    context = llm.cache("x", ttl=60, tools=[add])
    assert_type(context, deepserve.ContextId)
    assert_type(context.extend(60), deepserve.ContextInfo)
    assert_type(llm.cache.list(), list[deepserve.ContextInfo])
    assert_type(await llm.cache.list.aio(), list[deepserve.ContextInfo])
    with llm.cache("x", context=context) as longer:
        assert_type(longer, deepserve.ContextId)
    async with context:
        await context.delete.aio()
    assert_type(await llm.cache.aio([{"role": "user", "content": "x"}]), deepserve.ContextId)
    assert_type(llm.chat("x", context=context).output, str)
    assert_type(llm.chat("x", context="ctx-1", output_type=Person).output, Person)
    assert_type(deepserve.Model.from_name("tiny"), deepserve.Model)
    for piece in llm.stream("x", seed=1, context=context, logit_bias={3: -100.0}):
        assert_type(piece, str)
    async for piece in llm.stream.aio("x"):
        assert_type(piece, str)
    assert_type(add(1, b=2), int)
    assert_type(mul(1, 2), int)
    free = deepserve.Agent("free", model=llm, tools=[add, mul])
    assert_type(free.run("x").output, str)
    held = deepserve.Agent("held", model=llm, output_type=Person)
    assert_type(held.run("x").output, Person)
    assert_type((await held.run.aio("x")).output, Person)
    choosing = deepserve.Agent("choosing", model=llm, output_type=Literal["a", "b"])
    assert_type(choosing.run("x").output, Any)
    async for event in held.stream.aio("x"):
        print(event)
