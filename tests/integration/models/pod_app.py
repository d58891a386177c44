"""A script whose functions use a model and an agent inside their pods; run by test_in_pods.py.

Its model lies beside it and is named relative to this file: in a pod the file is a copy, the model is not copied.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import deepserve
from deepserve._agent_loop import CallTool

# A random model ends its free text nowhere but at the end of the context.
llm = deepserve.Model("beside", source="weights/tiny", max_model_len=360)
same = deepserve.Model("beside", source=Path(__file__).parent / "weights" / "tiny")


@deepserve.function
def double(number: int) -> int:
    """Double a number."""
    if number < 0:
        raise ValueError("only upwards")
    return 2 * number


@deepserve.tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


agent = deepserve.Agent("clerk", model=llm, tools=[add, double], output_type=Literal["yes", "no"])


@deepserve.function(timeout=120)
def ask(prompt: str) -> dict[str, Any]:
    """An agent of one's own: a function that asks the model."""
    answer = llm.chat(prompt, tools=[add, double], max_tokens=6, temperature=0)
    pieces = list(llm.stream(prompt, max_tokens=6, temperature=0))
    return {"text": answer.text, "stream": "".join(pieces), "source": llm.source, "same": same.source}


@deepserve.function(timeout=120)
async def ask_async(prompt: str) -> list[str]:
    results = await asyncio.gather(*(llm.chat.aio(prompt, output_type=bool, max_tokens=9) for _ in range(3)))
    return [str(result.output) for result in results]


@deepserve.function(timeout=120)
def run_agent(prompt: str) -> str:
    return agent.run(prompt).output


def called_as_tools() -> list[list[Any]]:
    """What an agent does with a turn of three calls, on both drivers."""
    calls = [CallTool("1", "double", {"number": 4}), CallTool("2", "double", {"number": -1}), CallTool("3", "add", {})]
    together = [list(agent._runner.run_together(calls)), asyncio.run(agent._runner.run_together_aio(calls))]
    return [sorted((tool.id, tool.text, tool.where.split("-")[0]) for tool in ran) for ran in together]


if __name__ == "__main__":
    captured = llm
    print(json.dumps(ask.remote("hi")))
    print(json.dumps(ask_async.remote("hi")))
    print(json.dumps([run_agent.remote("hi"), agent.run("hi").output]))
    print(json.dumps(deepserve.App("by-value").function(lambda: captured.generate("hi", max_tokens=2)).remote()))
    print(json.dumps(called_as_tools()))
