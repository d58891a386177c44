"""What a conversation must look like, whichever door it comes in by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

ROLES = ("system", "developer", "user", "assistant", "tool")
_TEXT_PARTS = ("text", "refusal")


class MessageProblem(NamedTuple):
    """field: of the message, "" for the message itself."""

    field: str
    words: str


def problem_of_message(message: Any) -> MessageProblem | None:
    """Why no template should see a message: many would make a prompt of it that lacks a part without a word."""
    if not isinstance(message, Mapping):
        return MessageProblem("", f"must be a dict with role and content, got a {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        return MessageProblem("role", f"must be one of {', '.join(ROLES)}, got {role!r}")
    if content is None and role != "assistant" and not message.get("tool_calls"):
        return MessageProblem("content", "is missing")
    if content is not None and not isinstance(content, str | list | tuple):
        return MessageProblem("content", f"must be a string or a list of parts, got a {type(content).__name__}")
    if isinstance(content, list | tuple):
        for index, part in enumerate(content):
            if words := _problem_of_part(part):
                return MessageProblem(f"content[{index}]", words)
    return None


def joined_content(content: str | Sequence[Mapping[str, Any]] | None) -> str | None:
    """Its parts as one text: templates that know strings alone would leave parts out."""
    if content is None or isinstance(content, str):
        return content
    return "\n".join(part[part["type"]] for part in content)


def _problem_of_part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if not isinstance(kind, str):
        return 'must be {"type": "text", "text": ...}'
    if kind not in _TEXT_PARTS:
        return f"must be text: a model for text takes no part of type {kind!r}"
    return "" if isinstance(part.get(kind), str) else 'must be {"type": "text", "text": ...}'


def template_role(role: str) -> str:
    """developer is OpenAI's newer word; templates know the older one."""
    return "system" if role == "developer" else role
