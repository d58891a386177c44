"""Tool calls in what a model writes: each family of models has a format of its own, read as its text comes."""

from .events import (
    AnswerEvent,
    ArgumentsDelta,
    CallEnd,
    CallStart,
    MalformedCall,
    ReasoningDelta,
    TextDelta,
)
from .formats import FORMATS, CallParser, format_of_template, make_parser

__all__ = [
    "FORMATS",
    "AnswerEvent",
    "ArgumentsDelta",
    "CallEnd",
    "CallParser",
    "CallStart",
    "MalformedCall",
    "ReasoningDelta",
    "TextDelta",
    "format_of_template",
    "make_parser",
]
