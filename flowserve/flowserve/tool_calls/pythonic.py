"""Calls written as Python, by Llama 3.2 and 4: [get_weather(city="Paris"), add(a=1, b=2)]"""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from .events import AnswerEvent, MalformedCall, TextDelta, joined
from .json_call import whole_call
from .writing import CallWriting

PYTHONIC_WRITING = CallWriting(
    firsts=("[",), before="", middle="(", behind=")", between=", ", last="]", has_json_name=False, has_keywords=True
)

_BEGIN = re.compile(r"\s*(\[\s*([A-Za-z_][\w.]*\s*(\(|$)|$)|$)")
"""What the start of a list of calls looks like, however little of it has come."""
_JSON_NAMES = {"true": True, "false": False, "null": None}


class PythonicCalls:
    """An answer is a list of calls or it is text; a list leaves when it is complete."""

    def __init__(self) -> None:
        self._text = ""
        self._is_text = False

    def feed(self, text: str) -> list[AnswerEvent]:
        self._text += text
        self._is_text = self._is_text or not _BEGIN.match(self._text)
        if self._is_text:
            shown, self._text = self._text, ""
            return joined([TextDelta(shown)])
        return []

    def finish(self) -> list[AnswerEvent]:
        text, self._text = self._text, ""
        if not text.strip():
            return joined([TextDelta(text)])
        calls = read_python_calls(text.strip())
        if not calls:
            return [MalformedCall(text, "no list of calls with named arguments")]
        return [event for index, call in enumerate(calls) for event in whole_call(index, *call)]


def read_python_calls(text: str) -> list[tuple[str, str]] | None:
    """Names and arguments (JSON text) of one call or of a list of calls; None for what is neither."""
    try:
        tree = ast.parse(text, mode="eval").body
        nodes = tree.elts if isinstance(tree, ast.List) else [tree]
        return [_read_node(node) for node in nodes]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # TypeError: a list as a key
        return None


def _read_node(node: ast.expr) -> tuple[str, str]:
    """Raises ValueError for what is no call with named, literal arguments."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call with named arguments")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("** in a call")
        arguments[keyword.arg] = _literal(keyword.value)
    try:
        plain = json.loads(json.dumps(arguments, allow_nan=False))  # with both halves of an escaped character joined
        return ast.unparse(node.func), json.dumps(plain, ensure_ascii=False)
    except TypeError as error:
        raise ValueError(str(error)) from error


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_literal(element) for element in node.elts]
    if isinstance(node, ast.Dict):
        if any(key is None for key in node.keys):
            raise ValueError("** in a dictionary")
        return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
    return ast.literal_eval(node)
