"""Tool calls in what a model writes: each family of models has a format of its own.

Streams of events, call by call and fragment by fragment, for servers: `FORMATS` and `CallParser`. Whole calls in the
format of Hermes and Qwen, with reports of those that are malformed, for agents: `ToolCallStream`, `parse_tool_calls`.
"""

from .events import (
    AnswerEvent,
    ArgumentsDelta,
    CallEnd,
    CallStart,
    ReasoningDelta,
    TextDelta,
)
from .formats import FORMATS, CallParser, format_of_template, make_parser
from .whole_calls import (
    ContentDelta,
    MalformedToolCall,
    ParsedText,
    ToolCall,
    ToolCallEvent,
    ToolCallStream,
    parse_tool_calls,
)

__all__ = [
    "FORMATS",
    "AnswerEvent",
    "ArgumentsDelta",
    "CallEnd",
    "CallParser",
    "CallStart",
    "ContentDelta",
    "MalformedToolCall",
    "ParsedText",
    "ReasoningDelta",
    "TextDelta",
    "ToolCall",
    "ToolCallEvent",
    "ToolCallStream",
    "format_of_template",
    "make_parser",
    "parse_tool_calls",
]
