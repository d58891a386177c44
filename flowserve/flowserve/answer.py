"""AnswerStream: a model's text as reasoning, tool calls and answer, by what its chat template says of each.

format = AnswerFormat.of_template(template_text(folder))
stream = format.stream(prompt_text, has_tools=True)
for text in ...: stream.feed(text)      # ReasoningDelta, TextDelta, CallStart, ArgumentsDelta, CallEnd, MalformedCall
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import InvalidConfigError
from .reasoning import CLOSE_TAG, OPEN_TAG, ReasoningSplitter
from .tool_calls.events import AnswerEvent, TextDelta, joined
from .tool_calls.formats import FORMATS, CallParser, format_of_template, make_parser
from .tool_calls.writing import TokenId

DEFAULT_CALL_FORMAT = "hermes"


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """calls: a name of `tool_calls.FORMATS`.  has_reasoning: the model may think between tags before it answers."""

    calls: str = DEFAULT_CALL_FORMAT
    has_reasoning: bool = False

    def __post_init__(self) -> None:
        if self.calls not in FORMATS:
            raise InvalidConfigError(f"no tool call format {self.calls!r}; there are {', '.join(FORMATS)}")

    @classmethod
    def of_template(cls, source: str) -> AnswerFormat:
        """By the signs in a chat template; most models whose template shows none have learned the format of Hermes."""
        return cls(format_of_template(source) or DEFAULT_CALL_FORMAT, CLOSE_TAG in source)

    @property
    def needs_special_tokens(self) -> bool:
        """Whether calls can be told only where special tokens stay in the text (`skip_special_tokens=False`)."""
        return FORMATS[self.calls].special_tokens

    def forced_calls(self, functions: Sequence[dict[str, Any]], max_calls: int | None, token_id: TokenId) -> str:
        """The grammar of an output that is calls of these functions and nothing else, as `CallWriting.grammar`."""
        return FORMATS[self.calls].writing(token_id).grammar(functions, max_calls, token_id)

    def strict_calls(self, functions: Sequence[dict[str, Any]], max_calls: int | None, token_id: TokenId) -> str | None:
        """The grammar of any text in which calls are those of these functions, as `CallWriting.grammar_within_text`."""
        asides = (OPEN_TAG, CLOSE_TAG) if self.has_reasoning else ()
        return FORMATS[self.calls].writing(token_id).grammar_within_text(functions, max_calls, token_id, asides)

    def stream(self, prompt: str = "", has_tools: bool = False) -> AnswerStream:
        """For one answer to a rendered prompt."""
        reasoning = ReasoningSplitter(prompt.rstrip().endswith(OPEN_TAG)) if self.has_reasoning else None
        return AnswerStream(reasoning, make_parser(self.calls) if has_tools else None)


class AnswerStream:
    """Feed text as it comes; the events do not depend on where it was cut. Reasoning is not searched for calls."""

    def __init__(self, reasoning: ReasoningSplitter | None = None, calls: CallParser | None = None) -> None:
        self._reasoning = reasoning
        self._calls = calls

    def feed(self, text: str) -> list[AnswerEvent]:
        """The events that became certain."""
        return joined(self._with_calls(self._reasoning.feed(text) if self._reasoning else [TextDelta(text)]))

    def finish(self) -> list[AnswerEvent]:
        """The text is over: what waited is decided."""
        events = self._with_calls(self._reasoning.finish() if self._reasoning else [])
        return joined(events + (self._calls.finish() if self._calls else []))

    def _with_calls(self, events: list[AnswerEvent]) -> list[AnswerEvent]:
        if self._calls is None:
            return events
        found: list[AnswerEvent] = []
        for event in events:
            found += self._calls.feed(event.text) if isinstance(event, TextDelta) else [event]
        return found
