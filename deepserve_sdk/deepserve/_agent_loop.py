"""The decisions of an agent's run: what the model said and the tools returned in, what to do next out.

    asking ──(tool calls)──> running ──(all returned)──> asking
       │ └─(free answer, output type)──> constrained ──> done
       └───(answer)──> done

No I/O, clock or thread: a driver carries out the actions (`_agent_run.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from deepserve._agent_events import AgentResult, ToolReturned
from deepserve._model_result import assistant_message
from deepserve._output import OutputType
from deepserve.errors import DeepServeError, MaxTurnsExceeded, ModelError
from deepserve.protocol.model_io import Generated, ToolCall

Message = dict[str, Any]


@dataclass(frozen=True)
class ModelAnswered:
    """A turn ended."""

    generated: Generated


@dataclass(frozen=True)
class AskModel:
    """Take the next turn; `json_schema` holds it to the output type."""

    messages: list[Message]
    json_schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class CallTool:
    """Run a tool; those of one turn may run together."""

    id: str
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class FinishRun:
    result: AgentResult[Any]


@dataclass(frozen=True)
class FailRun:
    error: DeepServeError


Event = ModelAnswered | ToolReturned
Action = AskModel | CallTool | FinishRun | FailRun


class AgentLoop:
    """One run. `start()` gives the first action, `handle(event)` the next ones.

    max_turns bounds the free turns; the constrained one that follows a free answer is not counted against it. A call
    that the last turn asks for is not run: nobody would read its result.
    """

    def __init__(
        self, messages: list[Message], *, max_turns: int, output: OutputType[Any] | None = None, has_tools: bool = True
    ) -> None:
        self.messages = list(messages)
        self.state: Literal["new", "asking", "constrained", "running", "done"] = "new"
        self.turns = 0
        self.tool_calls: list[ToolReturned] = []
        self._max_turns = max_turns
        self._output = output
        self._has_tools = has_tools
        self._waiting: dict[str, ToolReturned | None] = {}  # the turn's calls in order, and what came back so far
        self._malformed: list[str] = []
        self._ids = {call.get("id") for message in messages for call in message.get("tool_calls") or ()}
        self._prompt_tokens = 0
        self._completion_tokens = 0

    def start(self) -> list[Action]:
        if self._output is not None and not self._has_tools:
            return self._ask_constrained()
        return self._ask()

    def handle(self, event: Event) -> list[Action]:
        if isinstance(event, ToolReturned):
            return self._on_tool(event)
        generated = event.generated
        self._prompt_tokens += generated.prompt_tokens
        self._completion_tokens += generated.completion_tokens
        if self.state == "constrained":
            return self._finish(generated)
        if generated.tool_calls or generated.malformed_calls:
            return self._on_calls(generated)
        if self._output is None or self._output.accepts(generated.text):
            return self._finish(generated)
        # The free answer is dropped and the same prompt asked again under the grammar: its cached prefix is reused,
        # and no chat template has to bear two answers in a row.
        return self._ask_constrained()

    def check_invariants(self) -> None:
        assert (self.state == "running") == bool(self._waiting), (self.state, self._waiting)
        assert self.turns <= self._max_turns + 1, self.turns
        called = [call["id"] for m in self.messages if m["role"] == "assistant" for call in m.get("tool_calls", ())]
        answered = [message["tool_call_id"] for message in self.messages if message["role"] == "tool"]
        if self.state in ("asking", "constrained"):
            assert sorted(called) == sorted(answered), (called, answered)

    def _ask(self) -> list[Action]:
        if self.turns >= self._max_turns:
            return self._give_up()
        self.state = "asking"
        self.turns += 1
        return [AskModel(list(self.messages))]

    def _ask_constrained(self) -> list[Action]:
        assert self._output is not None
        self.state = "constrained"
        self.turns += 1
        return [AskModel(list(self.messages), self._output.schema)]

    def _on_calls(self, generated: Generated) -> list[Action]:
        calls = [self._with_own_id(call) for call in generated.tool_calls]
        self.messages.append(assistant_message(generated, calls))
        self._malformed = list(generated.malformed_calls)
        if self.turns >= self._max_turns:
            return self._give_up()
        if not calls:
            return self._answer_turn()
        self.state = "running"
        self._waiting = {call.id: None for call in calls}
        return [CallTool(call.id, call.name, call.arguments) for call in calls]

    def _with_own_id(self, call: ToolCall) -> ToolCall:
        """A result finds its call by id, so an id that is missing or given twice is replaced."""
        number = len(self._ids)
        while not call.id or call.id in self._ids:
            number += 1
            call = ToolCall(id=f"call-{number}", name=call.name, arguments=call.arguments)
        self._ids.add(call.id)
        return call

    def _on_tool(self, returned: ToolReturned) -> list[Action]:
        if self._waiting.get(returned.id, returned) is not None:
            raise ValueError(f"no call {returned.id!r} is waited for")
        self._waiting[returned.id] = returned
        if any(answer is None for answer in self._waiting.values()):
            return []
        return self._answer_turn()

    def _answer_turn(self) -> list[Action]:
        """Tells the model what its calls gave, in the order in which it made them."""
        for answer in self._waiting.values():
            assert answer is not None
            self.tool_calls.append(answer)
            self.messages.append({"role": "tool", "tool_call_id": answer.id, "content": answer.text})
        # A malformed call has no id that a tool message could answer.
        self.messages += [{"role": "user", "content": _malformed_text(text)} for text in self._malformed]
        self._waiting, self._malformed = {}, []
        return self._ask()

    def _finish(self, generated: Generated) -> list[Action]:
        self.state = "done"
        try:
            output = self._output.parse(generated.text, generated.finish_reason) if self._output else generated.text
        except ModelError as error:
            return [FailRun(error)]
        self.messages.append({"role": "assistant", "content": generated.text})
        return [
            FinishRun(
                AgentResult(
                    output=output,
                    text=generated.text,
                    messages=self.messages,
                    turns=self.turns,
                    tool_calls=self.tool_calls,
                    finish_reason=generated.finish_reason,
                    prompt_tokens=self._prompt_tokens,
                    completion_tokens=self._completion_tokens,
                )
            )
        ]

    def _give_up(self) -> list[Action]:
        self.state = "done"
        text = f"no answer within max_turns={self.turns}, after {len(self.tool_calls)} tool calls"
        return [FailRun(MaxTurnsExceeded(text, messages=self.messages, tool_calls=self.tool_calls))]


def _malformed_text(text: str) -> str:
    return f"error: this is not a valid tool call: {text.strip()}\nIt must be a JSON object with name and arguments."
