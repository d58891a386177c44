"""An agent: a model that calls tools until it has an answer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

from deepserve._agent_events import AgentEvent, AgentFinished, AgentResult
from deepserve._agent_loop import AgentLoop
from deepserve._agent_run import AgentRun
from deepserve._agent_tools import ToolRunner
from deepserve._model_request import messages_of
from deepserve._output import OutputType
from deepserve._tool import Tool, as_tool
from deepserve.errors import AgentError, InvalidOption

if TYPE_CHECKING:
    from deepserve._model import Model

T = TypeVar("T")
Prompt = str | Sequence[dict[str, Any]]


class Agent(Generic[T]):
    """A model with instructions and tools.

        agent = deepserve.Agent("clerk", model=llm, instructions="You pay invoices.", tools=[pay, fetch])
        agent.run("Pay 20 euros to Ada").output

    name: for people and logs. instructions: the system message, unless the messages bring their own. tools: of
    `@deepserve.tool` or plain functions, which run in the process that runs the agent (several of one turn side by
    side), and `@deepserve.function`s, which run in their own pods. output_type: what the answer is (a pydantic model,
    dataclass, TypedDict, `list[str]`, Literal, Enum, union, number), text without one. Tool turns are free; an answer
    that is no such value is asked again, held to the type. max_turns: how often the model may be asked before it
    answers (that last, constrained turn not counted).

    The loop runs where it is called, in the script or in a pod, where its calls are children of the caller's request.
    Inside, an agent may itself be called by tools. What a tool raises, and calls of unknown tools or with wrong
    arguments, are told to the model, which may mend them.
    """

    @overload
    def __init__(
        self: Agent[str],
        name: str,
        *,
        model: Model,
        instructions: str = "",
        tools: Sequence[Callable[..., Any]] = (),
        output_type: None = None,
        max_turns: int = 8,
    ) -> None: ...
    @overload
    def __init__(
        self,
        name: str,
        *,
        model: Model,
        instructions: str = "",
        tools: Sequence[Callable[..., Any]] = (),
        output_type: type[T],
        max_turns: int = 8,
    ) -> None: ...
    @overload
    def __init__(  # Literal and unions are values, not types, to a type checker
        self: Agent[Any],
        name: str,
        *,
        model: Model,
        instructions: str = "",
        tools: Sequence[Callable[..., Any]] = (),
        output_type: Any,
        max_turns: int = 8,
    ) -> None: ...
    def __init__(
        self,
        name: str,
        *,
        model: Model,
        instructions: str = "",
        tools: Sequence[Callable[..., Any]] = (),
        output_type: Any = None,
        max_turns: int = 8,
    ) -> None:
        if not isinstance(max_turns, int) or isinstance(max_turns, bool) or max_turns < 1:
            raise InvalidOption(f"agent {name!r}: max_turns={max_turns!r} must be a positive whole number")
        if not hasattr(type(model), "requests"):  # of the class: its own value is looked up at first use
            raise InvalidOption(f"agent {name!r}: model={model!r} must be a deepserve.Model")
        self.name = name
        self.model = model
        self.instructions = instructions
        self.tools: list[Tool[..., Any]] = [as_tool(tool) for tool in tools]
        self.output_type = output_type
        self.max_turns = max_turns
        self._runner = ToolRunner(self.tools)
        self._output: OutputType[T] | None = None
        if output_type is not None and output_type is not str:
            self._output = OutputType(output_type)

    def __repr__(self) -> str:
        return f"<deepserve.Agent {self.name} on {self.model!r}>"

    @property
    def run(self) -> AgentRunVerb[T]:
        """`agent.run(prompt | messages) -> AgentResult`; `await agent.run.aio(...)` on an event loop.

        Raises MaxTurnsExceeded (its `messages` are the dialogue so far), OutputTruncated and InvalidOutput for an
        answer that is no `output_type`, and the errors of the model's requests.
        """
        return AgentRunVerb(self)

    @property
    def stream(self) -> AgentStreamVerb[T]:
        """The same as `run`, told as it happens: ModelDelta, ToolCalled, ToolReturned, and at last AgentFinished with
        the result. `async for event in agent.stream.aio(...)` on an event loop. Leaving early cancels what is under
        way, but for tools that run in this process already.
        """
        return AgentStreamVerb(self)

    def begin(self, prompt: Prompt, verb: str, *, streams: bool) -> AgentRun:
        """A run that has not asked the model yet. Raises TypeError for what are no messages."""
        messages = messages_of(prompt)
        if self.instructions and messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": self.instructions})
        loop = AgentLoop(messages, max_turns=self.max_turns, output=self._output, has_tools=bool(self.tools))
        definitions = [tool.definition for tool in self.tools]
        return AgentRun(loop, self._runner, definitions, self.model.requests, f"{self.name}.{verb}", streams)


class AgentRunVerb(Generic[T]):
    def __init__(self, agent: Agent[T]) -> None:
        self._agent = agent

    def __call__(self, prompt: Prompt) -> AgentResult[T]:
        for event in self._agent.begin(prompt, "run", streams=False).events():
            if isinstance(event, AgentFinished):
                return cast("AgentResult[T]", event.result)
        raise AgentError(f"agent {self._agent.name!r} ended without a result")

    async def aio(self, prompt: Prompt) -> AgentResult[T]:
        async for event in self._agent.begin(prompt, "run", streams=False).events_aio():
            if isinstance(event, AgentFinished):
                return cast("AgentResult[T]", event.result)
        raise AgentError(f"agent {self._agent.name!r} ended without a result")


class AgentStreamVerb(Generic[T]):
    def __init__(self, agent: Agent[T]) -> None:
        self._agent = agent

    def __call__(self, prompt: Prompt) -> Iterator[AgentEvent[T]]:
        return self._agent.begin(prompt, "stream", streams=True).events()

    def aio(self, prompt: Prompt) -> AsyncIterator[AgentEvent[T]]:
        return self._agent.begin(prompt, "stream", streams=True).events_aio()
