"""What an agent's run tells, in order; also the record of one tool call."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class ModelDelta:
    """The next piece of the model's answer. turn counts from 1; the text of the last turn is the answer."""

    text: str
    turn: int = 1


@dataclass(frozen=True)
class ToolCalled:
    """The model asked for a tool, with the arguments as it wrote them."""

    name: str
    arguments: dict[str, Any]
    id: str


@dataclass(frozen=True)
class ToolReturned:
    """A tool's call ended.

    result: what the tool returned; None where it failed. text: what the model reads of it, `error: ...` where it
    failed. ms: the call took, milliseconds. where: the pod that ran it, or `here` for the process of the loop.
    """

    name: str
    result: Any
    id: str
    ms: float = 0.0
    arguments: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    failed: bool = False
    where: str = "here"


@dataclass(frozen=True)
class AgentResult(Generic[T]):
    """What an agent's run gave.

    output: the answer in the agent's output_type, the text without one. text: the answer as the model wrote it.
    messages: the whole dialogue in OpenAI's shape; with a further user message it goes on in the next run. turns: how
    often the model was asked. tool_calls: each with its duration and where it ran. finish_reason: of the last turn;
    `length` means that the text was cut off. prompt_tokens, completion_tokens: over all turns.
    """

    output: T
    text: str
    messages: list[dict[str, Any]]
    turns: int
    tool_calls: list[ToolReturned]
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tool_errors(self) -> int:
        """How many tool calls failed and were answered to the model with an error."""
        return sum(call.failed for call in self.tool_calls)


@dataclass(frozen=True)
class AgentFinished(Generic[T]):
    """The last event of every run that does not raise."""

    result: AgentResult[T]


AgentEvent = ModelDelta | ToolCalled | ToolReturned | AgentFinished[T]
