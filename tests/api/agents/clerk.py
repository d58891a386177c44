"""api.md, section 3: tools and agents, nothing durable; also an agent written as a plain function."""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

import deepserve

llm = deepserve.Model("tiny", source=os.environ["MODEL"], max_model_len=int(os.environ.get("CONTEXT", 0)) or None)


@deepserve.tool  # JSON schema from type hints and docstring
def pay(amount: float, to: str) -> str:
    """Pay an invoice.

    Args:
        amount: Euros.
        to: Who is paid.
    """
    return "paid"


@deepserve.function(timeout=30)
def fetch(url: str) -> str:
    """Fetch a page."""
    return f"page of {url}"


agent = deepserve.Agent(
    "clerk",
    model=llm,
    instructions="You pay invoices.",
    tools=[pay, fetch],
    output_type=Literal["paid", "refused"],
    max_turns=8,
)


@deepserve.function(timeout=120)
def own_agent(question: str) -> str:
    """The same loop, by hand, in a pod."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": question}]
    for _ in range(4):
        answer = llm.chat(messages, tools=[pay], max_tokens=40)
        messages.append(answer.message)
        for call in answer.tool_calls:
            result = pay(**pay.checked_arguments(call.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        if not answer.tool_calls:
            break
    return messages[-1]["content"]


if __name__ == "__main__":
    print("run", agent.run("Pay 20 euros to Ada").output in ("paid", "refused"))
    for event in agent.stream("Pay 20 euros to Ada"):
        kind = type(event).__name__
        if kind == "AgentFinished":
            print("stream", event.result.output in ("paid", "refused"), event.result.turns >= 1)
        else:
            print(kind, event, file=sys.stderr)
    print("function", isinstance(own_agent.remote("Pay 20 euros to Ada"), str))
    try:
        deepserve.tool(needs_approval=lambda args: args["amount"] > 100)(pay.function)
    except deepserve.InvalidOption as error:
        print("approval", "durable workflows" in str(error))
