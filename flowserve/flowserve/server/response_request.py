"""What clients of /v1/responses may send, and the chat that it means."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from ..messages import problem_of_message
from .api_error import ApiError, invalid
from .requests import (
    AllowedFunctions,
    AllowedTools,
    ChatRequest,
    NamedFunction,
    NamedTool,
    ResponseFormat,
    StreamOptions,
)

LOGPROBS = "message.output_text.logprobs"
"""What `include` names to get them; other names are of things that are not here."""
_NOT_KEPT = "this server keeps no responses: send the whole conversation as input"


class TextFormat(msgspec.Struct):
    type: str
    name: str | None = None
    schema: dict[str, Any] | None = None


class TextOptions(msgspec.Struct):
    format: TextFormat | None = None


class Reasoning(msgspec.Struct):
    effort: str | None = None


class NamedChoice(msgspec.Struct, tag_field="type", tag="function"):
    name: str

    def tool(self) -> NamedTool:
        """As a chat spells it."""
        return NamedTool(NamedFunction(self.name))


class AllowedChoice(msgspec.Struct, tag_field="type", tag="allowed_tools"):
    mode: Literal["auto", "required"]
    tools: list[NamedChoice]


class ResponseRequest(msgspec.Struct, kw_only=True):
    """Fields that are not listed are ignored, as by OpenAI's clients' other servers."""

    input: str | list[dict[str, Any]]
    model: str | None = None
    instructions: str | None = None
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | NamedChoice | AllowedChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None
    reasoning: Reasoning | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    truncation: Literal["auto", "disabled"] | None = None
    background: bool | None = None
    include: list[str] | None = None
    top_logprobs: int | None = None
    priority: int | None = None
    cache_salt: str | None = None

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ())

    def chat(self) -> ChatRequest:
        """Raises ApiError."""
        if self.previous_response_id is not None or self.conversation is not None:
            raise invalid(_NOT_KEPT, "conversation" if self.previous_response_id is None else "previous_response_id")
        if self.prompt is not None:
            raise invalid("prompt is not supported: this server keeps no templates of prompts", "prompt")
        if self.background:
            raise invalid("background responses are not supported", "background")
        return ChatRequest(
            messages=self._messages(),
            model=self.model,
            max_completion_tokens=self.max_output_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            tools=[_tool(tool, f"tools[{index}]") for index, tool in enumerate(self.tools or [])] or None,
            tool_choice=self._choice(),
            parallel_tool_calls=self.parallel_tool_calls,
            response_format=self._format(),
            reasoning_effort=self.reasoning.effort if self.reasoning is not None else None,
            logprobs=self.wants_logprobs,
            top_logprobs=self.top_logprobs if self.wants_logprobs else None,
            stream=self.stream,
            stream_options=StreamOptions(),
            priority=self.priority,
            cache_salt=self.cache_salt,
        )

    def _messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = []
        if self.instructions:
            messages.append({"role": "system", "content": self.instructions})
        if isinstance(self.input, str):
            return [*messages, {"role": "user", "content": self.input}]
        if not self.input:
            raise invalid("input is an empty list", "input")
        for index, item in enumerate(self.input):
            _add(messages, item, f"input[{index}]")
        return messages

    def _choice(self) -> str | NamedTool | AllowedTools | None:
        choice = self.tool_choice
        if isinstance(choice, AllowedChoice):
            return AllowedTools(AllowedFunctions(choice.mode, [named.tool() for named in choice.tools]))
        return choice.tool() if isinstance(choice, NamedChoice) else choice

    def _format(self) -> ResponseFormat | None:
        given = self.text.format if self.text is not None else None
        if given is None or given.type == "text":
            return None
        if given.type not in ("json_object", "json_schema"):
            text = f"text.format.type must be text, json_object or json_schema, got {given.type!r}"
            raise invalid(text, "text.format.type")
        if given.type == "json_schema" and given.schema is None:
            raise invalid("text.format.schema must be a JSON schema", "text.format.schema")
        return ResponseFormat(given.type, {"name": given.name, "schema": given.schema})


def _add(messages: list[dict[str, Any]], item: dict[str, Any], place: str) -> None:
    """One item of the input, as a message; calls join those of the answer that they belong to. Raises ApiError."""
    match item.get("type") or "message":
        case "message":
            messages.append(_checked({"role": item.get("role"), "content": _content(item.get("content"))}, place))
        case "function_call":
            name, arguments = item.get("name"), item.get("arguments")
            if not isinstance(name, str):
                raise invalid(f"{place}.name must be a string", f"{place}.name")
            if not isinstance(arguments, str | dict | None):
                raise invalid(f"{place}.arguments must be an object as JSON", f"{place}.arguments")
            function = {"name": name, "arguments": arguments}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            if not messages or messages[-1].get("role") != "assistant":
                messages.append({"role": "assistant", "content": None})
            messages[-1].setdefault("tool_calls", []).append(call)
        case "function_call_output":
            message = {"role": "tool", "tool_call_id": item.get("call_id"), "content": _content(item.get("output"))}
            messages.append(_checked(message, place, "output"))
        case "reasoning":  # of an earlier answer: templates leave it out
            pass
        case kind:
            raise invalid(f"{place}: a model for text takes no item of type {kind!r}", place)


def _checked(message: dict[str, Any], place: str, content: str = "content") -> dict[str, Any]:
    """content: what its item calls it. Raises ApiError that names the item, whose number is not the message's."""
    if (problem := problem_of_message(message)) is not None:
        where = f"{place}.{problem.field.replace('content', content, 1)}" if problem.field else place
        raise invalid(f"{where} {problem.words}", where)
    return message


def _content(content: Any) -> Any:
    """Parts as a chat spells them."""
    if not isinstance(content, list):
        return content
    parts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        is_text = kind in ("input_text", "output_text", "text")
        parts.append({"type": "text", "text": part.get("text")} if is_text else part)
    return parts


def _tool(tool: dict[str, Any], place: str) -> dict[str, Any]:
    """Responses spell functions flat."""
    if tool.get("type") != "function":
        raise invalid(f"{place}.type must be 'function', got {tool.get('type')!r}", f"{place}.type")
    function = {name: tool[name] for name in ("name", "description", "parameters", "strict") if tool.get(name)}
    return {"type": "function", "function": function}


def renamed(error: ApiError) -> ApiError:
    """An error about the chat, about the field that it came from."""
    param, message = error.param or "", error.message
    for chats, own in (("messages", "input"), ("response_format", "text.format")):
        if param.startswith(chats):
            param, message = param.replace(chats, own, 1), message.replace(chats, own, 1)
    if param.startswith("tools["):  # functions stand flat here
        param, message = (text.replace(".function.", ".", 1) for text in (param, message))
    return ApiError(error.status, message, param=param or None, code=error.code, headers=error.headers)
