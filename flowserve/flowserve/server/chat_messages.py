"""Messages and tools of a chat request, checked and spelled as chat templates expect them."""

from __future__ import annotations

import json
from typing import Any

from ..messages import joined_content, problem_of_message, template_role
from .api_error import invalid

MAX_TOOLS = 512


def template_messages(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Texts as strings, arguments of earlier calls as objects, unless they are no JSON. Raises ApiError that names the
    place."""
    if not messages:
        raise invalid("messages is empty", "messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def functions_of(tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The functions of `tools`, each with a name. Raises ApiError."""
    if len(tools) > MAX_TOOLS:
        raise invalid(f"{len(tools)} tools are more than {MAX_TOOLS}", "tools")
    return [_function(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _message(message: dict[str, Any], place: str) -> dict[str, Any]:
    if (problem := problem_of_message(message)) is not None:
        where = f"{place}.{problem.field}" if problem.field else place
        raise invalid(f"{where} {problem.words}", where)
    plain = dict(message)
    plain["role"] = template_role(message["role"])
    calls = _calls(message.get("tool_calls"), f"{place}.tool_calls")
    plain["content"] = joined_content(message.get("content")) or ""
    if calls:
        plain["tool_calls"] = calls
    else:
        plain.pop("tool_calls", None)
    return plain


def _calls(calls: Any, place: str) -> list[dict[str, Any]]:
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise invalid(f"{place} must be a list", place)
    return [_call(call, f"{place}[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, place: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise invalid(f"{place}.function.name must be a string", place)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError):  # cut off by max_tokens, most likely: the template gets the text
            return {**call, "function": {**function, "arguments": arguments}}
    if not isinstance(arguments, dict | None):
        raise invalid(f"{place}.function.arguments must be an object as JSON", place)
    return {**call, "function": {**function, "arguments": arguments or {}}}


def _function(tool: dict[str, Any], place: str) -> dict[str, Any]:
    if tool.get("type", "function") != "function":
        raise invalid(f"{place}.type must be 'function', got {tool['type']!r}", f"{place}.type")
    function = tool.get("function")
    if not isinstance(function, dict):
        raise invalid(f"{place}.function must be an object", f"{place}.function")
    if not isinstance(function.get("name"), str) or not function["name"]:
        raise invalid(f"{place}.function.name must be a string", f"{place}.function.name")
    if not isinstance(function.get("parameters"), dict | None):
        raise invalid(f"{place}.function.parameters must be a JSON schema", f"{place}.function.parameters")
    if (kind := (function.get("parameters") or {}).get("type", "object")) != "object":
        text = f"{place}.function.parameters.type must be 'object', got {kind!r}"
        raise invalid(text, f"{place}.function.parameters.type")
    return function
