"""CallWriting: how a format's calls are written, as a grammar of calls of given functions, alone or within any text.

The text is what the model learned to write and what the format's parser reads: a grammar of another shape would make a
model go on where it has never been.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidGrammarError
from .arguments import json_rules, keyword_rules

_BARE_NAME = re.compile(r"[\w.-]+")

TokenId = Callable[[str], int | None]
"""The id of the token with exactly this text, None where the vocabulary has none."""


@dataclass(frozen=True, slots=True)
class CallWriting:
    """An output is one of `firsts`, at least one call with `between` between them, `last`. A call is `before`, the
    name, `middle`, the arguments, `behind`.

    marks: parts of these texts that are a token of their own where the tokenizer has one.
    needs: a mark without which this is not how the model writes.
    has_json_name: else the name stands bare.  has_keywords: arguments as in Python, else they are a JSON object.
    """

    before: str
    middle: str
    behind: str
    between: str
    firsts: tuple[str, ...] = ("",)
    last: str = ""
    marks: tuple[str, ...] = ()
    needs: str | None = None
    has_json_name: bool = True
    has_keywords: bool = False

    def grammar(self, functions: Sequence[dict[str, Any]], max_calls: int | None, token_id: TokenId) -> str:
        """In Lark's syntax as llguidance reads it. functions: each with `name` and maybe `parameters`, a JSON schema.
        max_calls: 1, or None for as many as the model likes. Raises InvalidGrammarError for a function that cannot be
        called this way."""
        rules = [f"start: {self._calls(max_calls, token_id)}"]
        return "\n".join(rules + self._call_rules(functions, token_id))

    def grammar_within_text(
        self, functions: Sequence[dict[str, Any]], max_calls: int | None, token_id: TokenId, asides: Sequence[str] = ()
    ) -> str | None:
        """As `grammar`, but for a model that may write any text beside the calls, or none of them; None where only what
        follows would tell a call from text, for it does not begin with a token of its own.

        asides: other tokens of their own that the text may hold.
        """
        begin = self.firsts[0] or self.before
        mark = next((mark for mark in self.marks if begin.startswith(mark) and token_id(mark) is not None), None)
        if mark is None:
            return None
        tokens = [f"<[{token}]>" for text in asides if (token := token_id(text)) is not None]
        no_mark = re.escape(mark).replace("/", "\\/")
        return "\n".join(
            [
                f"start: text {self._calls_within(max_calls, token_id)}",
                "text: TEXT?" + (f" (({' | '.join(tokens)}) TEXT?)*" if tokens else ""),
                f"TEXT: /(?s:.+)/ & ~/(?s:.*){no_mark}(?s:.*)/",
                *self._call_rules(functions, token_id),
            ]
        )

    def _calls(self, max_calls: int | None, token_id: TokenId) -> str:
        first = " | ".join(self._terms(text, token_id) for text in self.firsts)
        calls = f"call ({self._terms(self.between, token_id)} call)*" if max_calls is None else "call"
        return f"{f'({first})' if first else ''} {calls} {self._terms(self.last, token_id)}"

    def _calls_within(self, max_calls: int | None, token_id: TokenId) -> str:
        """Where a call has an end of its own, with text behind and between them."""
        if any(self.behind.endswith(mark) for mark in self.marks):
            return "(call text)" + ("*" if max_calls is None else "?")
        return f"({self._calls(max_calls, token_id)})?"

    def _call_rules(self, functions: Sequence[dict[str, Any]], token_id: TokenId) -> list[str]:
        rules = ["call: " + " | ".join(f"call_{index}" for index in range(len(functions)))]
        for index, function in enumerate(functions):
            before = self._terms(self.before + self._name(function["name"]) + self.middle, token_id)
            arguments = f"arguments_{index}"
            rules.append(f"call_{index}: {before} {arguments} {self._terms(self.behind, token_id)}")
            rules += (keyword_rules if self.has_keywords else json_rules)(arguments, function)
        return rules

    def _name(self, name: str) -> str:
        if self.has_json_name:
            return _json(name)
        if _BARE_NAME.fullmatch(name) is None:
            raise InvalidGrammarError(
                f"the model writes names of functions bare, and {name!r} has more than [A-Za-z0-9_.-]"
            )
        return name

    def _terms(self, text: str, token_id: TokenId) -> str:
        """The text as terms of a rule; nothing for none."""
        parts = re.split(f"({'|'.join(map(re.escape, self.marks))})", text) if self.marks else [text]
        found = [token_id(part) if part in self.marks else None for part in parts]
        terms = [_json(part) if token is None else f"<[{token}]>" for part, token in zip(parts, found, strict=True)]
        return " ".join(term for term, part in zip(terms, parts, strict=True) if part)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
