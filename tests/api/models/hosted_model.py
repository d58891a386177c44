"""api.md, section 2: generate, chat, stream and output_type of a hosted model."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Literal

import deepserve

llm = deepserve.Model(
    "tiny",
    source=os.environ["MODEL"],  # a hub id or a folder in Hugging Face layout
    accelerator=["npu", "gpu", "cpu"],
    tensor_parallel=1,
    dtype="auto",
    quantization=None,
    min_pods=0,
    max_pods=8,
    scaledown_window=300,
)


@dataclass
class Person:
    role: Literal["author", "actor"]
    alive: bool


async def main() -> None:
    text = await llm.generate.aio("Once upon", max_tokens=8, temperature=0)
    print("aio", text == llm_text)
    hello = [{"role": "user", "content": "hi"}]
    pieces = [piece async for piece in llm.stream.aio(hello, max_tokens=4, temperature=0)]
    print("aio stream", len(pieces) > 0)
    print("aio embed", len(await llm.embed.aio(["a"])) == 1)
    context = await llm.cache.aio(hello, ttl=60)
    print("aio context", isinstance((await llm.chat.aio("more", context=context, max_tokens=4)).text, str))
    print("aio chat", (await llm.chat.aio("Is he?", output_type=bool)).output in (True, False))


if __name__ == "__main__":
    llm_text = llm.generate("Once upon", max_tokens=8, temperature=0)  # raw completion of a prompt: str
    print("generate", isinstance(llm.generate("Once upon", max_tokens=64, temperature=0.7, seed=1), str))
    print("chat", isinstance(llm.chat([{"role": "user", "content": "hi"}]).text, str))
    print("chat text", llm.chat("hi", max_tokens=4).usage.completion_tokens <= 4)
    two = llm.chat("hi", n=2, logprobs=1, max_tokens=4, temperature=1, ignore_eos=True)
    print("choices", len(two.choices) == 2 and two.usage.completion_tokens == 8 and two.choices[0] is two)
    print("logprobs", all(len(choice.logprobs or ()) == 4 for choice in two.choices))
    texts = llm.generate("Once upon", n=2, logprobs=0, max_tokens=4, temperature=1).choices
    print("texts", len(texts) == 2 and isinstance(texts[0], str) and len(texts[0].logprobs or ()) > 0)
    print("stream", end=" ")
    for piece in llm.stream([{"role": "user", "content": "hi"}], max_tokens=4, temperature=0):
        print(len(piece) > 0, end=" ", flush=True)
    print()
    person = llm.chat("Who wrote Faust?", output_type=Person).output
    print("output", type(person).__name__, person.role in ("author", "actor"), person.alive in (True, False))
    print("union", llm.chat("Well?", output_type=Literal["yes", "no"] | None).output in ("yes", "no", None))
    try:
        llm.chat("Who wrote Faust?", output_type=Person, max_tokens=2)
    except deepserve.OutputTruncated as error:
        print("truncated", error.text.startswith("{"))
    vectors = llm.embed(["a", "b"])
    print("embed", len(vectors) == 2 and len(vectors[0]) == len(vectors[1]))
    context = llm.cache([{"role": "system", "content": "You are brief."}], ttl=60)
    answer = llm.chat("hi", context=context, max_tokens=4)
    print("context", answer.usage.prompt_tokens > context.num_tokens > 0)
    client = llm.openai()  # an openai.OpenAI client bound to this model
    hello = [{"role": "user", "content": "hi"}]
    said = client.chat.completions.create(model=llm.name, messages=hello, max_tokens=4)  # type: ignore[arg-type]
    print("openai", said.usage.completion_tokens <= 4)
    asyncio.run(main())
