"""Reading server-sent events in tests."""

from __future__ import annotations

import json
from typing import Any


def events(text: str) -> list[dict[str, Any]]:
    """The JSON of each event; the stream must end with [DONE]."""
    blocks = text.split("\n\n")
    assert blocks[-1] == "" and blocks[-2] == "data: [DONE]", blocks[-2:]
    assert all(block.startswith("data: ") for block in blocks[:-1])
    return [json.loads(block.removeprefix("data: ")) for block in blocks[:-2]]


def joined_text(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """Of a streamed completion."""
    return "".join(c["text"] for chunk in chunks for c in chunk["choices"] if c["index"] == index)


def joined_content(chunks: list[dict[str, Any]], index: int = 0) -> str:
    """Of a streamed chat."""
    deltas = [c["delta"] for chunk in chunks for c in chunk["choices"] if c["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


def joined_calls(chunks: list[dict[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    """The tool calls of a streamed chat, put together as clients do."""
    calls: list[dict[str, Any]] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            for delta in choice["delta"].get("tool_calls", []) if choice["index"] == index else []:
                if "id" in delta:
                    assert delta["index"] == len(calls) and delta["type"] == "function"
                    calls.append({"id": delta["id"], **delta["function"]})
                else:
                    calls[delta["index"]]["arguments"] += delta["function"]["arguments"]
    return calls


def finish_reasons(chunks: list[dict[str, Any]]) -> list[str]:
    return [c["finish_reason"] for chunk in chunks for c in chunk["choices"] if c["finish_reason"] is not None]
