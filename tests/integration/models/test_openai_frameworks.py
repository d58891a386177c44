"""Frameworks that speak OpenAI's API, against the controller's: nothing but an address and a key.

A random tiny model writes; what its answers mean is left to grammars (required tools, schemas).
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pydantic
import pytest

import deepserve

pytest.importorskip("openai")


class Verdict(pydantic.BaseModel):
    answer: Literal["yes", "no"]


@pytest.mark.parametrize("kind", ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"])
def test_the_openai_agents_sdk(llm: deepserve.Model, kind: str) -> None:
    agents = pytest.importorskip("agents", reason="pip install openai-agents")
    agents.set_tracing_disabled(True)
    called: list[str] = []

    @agents.function_tool  # type: ignore[untyped-decorator]
    def decide(answer: Literal["yes", "no"]) -> str:
        """Decide.

        Args:
            answer: What it is.
        """
        called.append(answer)
        return "noted"

    async def main() -> None:
        async with llm.openai.aio() as client:
            model = getattr(agents, kind)(model="tiny", openai_client=client)
            # It must end by itself, or the SDK takes it for broken: greedily it writes blanks for ever.
            settings = agents.ModelSettings(max_tokens=250, temperature=1.0)
            judge = agents.Agent(name="judge", model=model, output_type=Verdict, model_settings=settings)
            whole = await agents.Runner.run(judge, "Well?")
            assert whole.final_output.answer in ("yes", "no")
            stream = agents.Runner.run_streamed(judge, "Well?")
            deltas = [
                event.data.delta
                async for event in stream.stream_events()
                if event.type == "raw_response_event" and event.data.type == "response.output_text.delta"
            ]
            assert Verdict.model_validate_json("".join(deltas)) == stream.final_output
            forced = settings.resolve(agents.ModelSettings(tool_choice="required", parallel_tool_calls=False))
            clerk = agents.Agent(
                name="clerk",
                model=model,
                tools=[decide],
                model_settings=forced,
                tool_use_behavior="stop_on_first_tool",
            )
            assert (await agents.Runner.run(clerk, "Well?")).final_output == "noted"
            assert called and set(called) <= {"yes", "no"}

    asyncio.run(main())


def test_pydantic_ai(llm: deepserve.Model) -> None:
    pydantic_ai = pytest.importorskip("pydantic_ai", reason="pip install 'pydantic-ai-slim[openai]'")
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    async def main() -> None:
        async with llm.openai.aio() as client:
            model = OpenAIChatModel("tiny", provider=OpenAIProvider(openai_client=client))
            settings: Any = {"max_tokens": 250, "temperature": 0}
            plain = pydantic_ai.Agent(model, model_settings=settings)
            whole = await plain.run("Hello")
            assert whole.output and whole.usage.output_tokens > 0
            async with plain.run_stream("Hello") as stream:
                assert await stream.get_output() == whole.output
            judge = pydantic_ai.Agent(model, output_type=Verdict, model_settings={**settings, "temperature": 1})
            assert (await judge.run("Well?")).output.answer in ("yes", "no")

    asyncio.run(main())


def test_langchain(llm: deepserve.Model) -> None:
    langchain_openai = pytest.importorskip("langchain_openai", reason="pip install langchain-openai")
    client = llm.openai()
    place: dict[str, Any] = {"base_url": str(client.base_url), "api_key": client.api_key, "model": "tiny"}
    chat = langchain_openai.ChatOpenAI(**place, max_tokens=250, temperature=0)
    whole = chat.invoke("Hello")
    assert whole.content and whole.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream("Hello")) == whole.content
    assert asyncio.run(chat.ainvoke("Hello")).content == whole.content
    chat = langchain_openai.ChatOpenAI(**place, max_tokens=250, temperature=1)
    judged = chat.with_structured_output(Verdict, method="json_schema").invoke("Well?")
    assert judged.answer in ("yes", "no")
    called = chat.bind_tools([Verdict], tool_choice="Verdict").invoke("Well?").tool_calls
    assert {call["name"] for call in called} == {"Verdict"}
