"""ToolChoice: what a chat's `tools` and `tool_choice` mean for its prompt, its grammar and how its text is read."""

from __future__ import annotations

from typing import Any

from ..answer import AnswerFormat
from ..sampling_params import StructuredOutputsParams
from ..tool_calls.writing import TokenId
from .answer_readers import AnswerReader, FirstCallReader, ForcedCallsReader
from .api_error import invalid
from .chat_messages import functions_of
from .requests import AllowedTools, NamedTool

_ANY = {"type": "object", "additionalProperties": True}


class ToolChoice:
    """shown: the tools that the prompt tells of.  named: the one function that must be called.  forces: calls must
    come, be it of this one."""

    def __init__(
        self, tools: list[dict[str, Any]], choice: str | NamedTool | AllowedTools | None, parallel: bool
    ) -> None:
        """Raises ApiError for tools that are none and choices among tools that are not there."""
        functions = functions_of(tools)
        if isinstance(choice, AllowedTools):
            names = [tool.function.name for tool in choice.allowed_tools.tools]
            for name in names:
                _check_is_there(name, functions)
            tools = [tool for tool in tools if tool["function"]["name"] in names]
            functions = functions_of(tools)
            choice = choice.allowed_tools.mode
        self._choice = choice if choice is not None else "auto" if tools else "none"
        self.named = choice.function.name if isinstance(choice, NamedTool) else None
        if self._choice not in ("auto", "none", "required") and self.named is None:
            raise invalid(f"tool_choice must be auto, none, required or a function, got {choice!r}", "tool_choice")
        if not tools and self._choice not in ("none", "auto"):
            raise invalid("tool_choice needs tools", "tool_choice")
        self.shown = tools if tools and self._choice != "none" else None
        self.forces = self._choice == "required" or self.named is not None
        self._max_calls = None if parallel and self.named is None else 1
        self._functions = [_check_is_there(self.named, functions)] if self.named is not None else functions

    def constraint(self, form: AnswerFormat, token_id: TokenId) -> StructuredOutputsParams:
        """What forces the calls, in the format in which the model writes them. Raises InvalidGrammarError."""
        return StructuredOutputsParams(grammar=form.forced_calls(self._functions, self._max_calls, token_id))

    def strictness(self, form: AnswerFormat, token_id: TokenId) -> StructuredOutputsParams | None:
        """What holds calls that the model is free to make to the schemas of functions with `strict`, the others to some
        object; None where none is strict, or the model's format shows too late that a call has begun.
        Raises InvalidGrammarError."""
        if self._choice != "auto" or not any(each.get("strict") is True for each in self._functions):
            return None
        functions = [each if each.get("strict") is True else {**each, "parameters": _ANY} for each in self._functions]
        grammar = form.strict_calls(functions, self._max_calls, token_id)
        return StructuredOutputsParams(grammar=grammar) if grammar is not None else None

    def needs_special_tokens(self, form: AnswerFormat) -> bool:
        """Whether the text must keep them for calls to be found in it."""
        return self.shown is not None and form.needs_special_tokens

    def reader(self, form: AnswerFormat, prompt: str) -> AnswerReader:
        """For one answer to a rendered prompt."""
        stream = form.stream(prompt, has_tools=self.shown is not None)
        if self.forces:
            return ForcedCallsReader(stream)  # as many as the grammar lets come
        return stream if self._max_calls is None else FirstCallReader(stream)


def _check_is_there(name: str, functions: list[dict[str, Any]]) -> dict[str, Any]:
    """The function of this name. Raises ApiError."""
    found = next((function for function in functions if function["name"] == name), None)
    if found is None:
        raise invalid(f"tool_choice names {name!r}, which is not among the tools", "tool_choice")
    return found
