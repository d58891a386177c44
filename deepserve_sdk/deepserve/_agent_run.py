"""Drives an agent's loop where it is called: asks the model, runs the tools, tells what happens.

The two drivers carry out the same actions; only they would change if the loop moved into a pod.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Iterator
from typing import Any, NamedTuple

from deepserve._agent_events import AgentEvent, AgentFinished, ModelDelta, ToolCalled
from deepserve._agent_loop import Action, AgentLoop, AskModel, CallTool, FailRun, FinishRun, ModelAnswered
from deepserve._agent_tools import ToolRunner
from deepserve._model_request import ModelRequests
from deepserve.errors import ModelError
from deepserve.protocol.model_io import ChatInput, Generated, GenerationParams


class AgentRun(NamedTuple):
    """One run: its loop, its tools and the model it asks. streams: the model's answers are told piece by piece."""

    loop: AgentLoop
    tools: ToolRunner
    definitions: list[dict[str, Any]]
    requests: ModelRequests
    verb: str
    streams: bool

    def events(self) -> Iterator[AgentEvent[Any]]:
        actions = self.loop.start()
        while True:
            match actions:
                case [AskModel() as ask]:
                    generated = yield from self._turn(ask)
                    actions = self.loop.handle(ModelAnswered(generated))
                case [CallTool(), *_]:
                    calls = _calls(actions)
                    yield from map(_told, calls)
                    for returned in self.tools.run_together(calls):
                        actions = self.loop.handle(returned)
                        yield returned
                case _:
                    yield _finished(actions)
                    return

    async def events_aio(self) -> AsyncIterator[AgentEvent[Any]]:
        actions = self.loop.start()
        while True:
            match actions:
                case [AskModel() as ask] if self.streams:
                    stream = self.requests.stream_aio(self._input(ask), self.verb)
                    try:
                        async for delta in stream:
                            if delta.text:
                                yield ModelDelta(delta.text, self.loop.turns)
                    finally:
                        await stream.aclose()
                    actions = self.loop.handle(ModelAnswered(_whole(stream.generated)))
                case [AskModel() as ask]:
                    generated = await self.requests.ask_aio(self._input(ask), self.verb)
                    actions = self.loop.handle(ModelAnswered(generated))
                case [CallTool(), *_]:
                    calls = _calls(actions)
                    for call in calls:
                        yield _told(call)
                    for returned in await self.tools.run_together_aio(calls):
                        actions = self.loop.handle(returned)
                        yield returned
                case _:
                    yield _finished(actions)
                    return

    def _turn(self, ask: AskModel) -> Generator[ModelDelta, None, Generated]:
        if not self.streams:
            return self.requests.ask(self._input(ask), self.verb)
        stream = self.requests.stream(self._input(ask), self.verb)
        try:
            for delta in stream:
                if delta.text:
                    yield ModelDelta(delta.text, self.loop.turns)
        finally:
            stream.close()
        return _whole(stream.generated)

    def _input(self, ask: AskModel) -> ChatInput:
        return ChatInput(ask.messages, GenerationParams(json_schema=ask.json_schema), self.definitions)


def _calls(actions: list[Action]) -> list[CallTool]:
    return [action for action in actions if isinstance(action, CallTool)]


def _told(call: CallTool) -> ToolCalled:
    return ToolCalled(call.name, call.arguments, call.id)


def _finished(actions: list[Action]) -> AgentFinished[Any]:
    match actions:
        case [FinishRun(result)]:
            return AgentFinished(result)
        case [FailRun(error)]:
            raise error
    raise AssertionError(f"the loop stands still: {actions}")


def _whole(generated: Generated | None) -> Generated:
    if generated is None:
        raise ModelError("the model's stream ended without a result")
    return generated
