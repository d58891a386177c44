"""What the tests with OpenAI's client send, whoever serves it."""

from __future__ import annotations

from typing import Any

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]
PARAMETERS = {
    "type": "object",
    "properties": {"a": {"type": "integer", "minimum": -99, "maximum": 99}},
    "required": ["a"],
    "additionalProperties": False,
}
ADD: Any = {"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}
