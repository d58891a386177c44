"""The arguments of a call in a grammar, held to the JSON schema of its function: as JSON, or as keywords of Python."""

from __future__ import annotations

import json
import keyword
from typing import Any

from ..errors import InvalidGrammarError
from ..json_layout import JSON_LAYOUT

_ELSEWHERE = ("allOf", "anyOf", "oneOf", "not", "if", "$ref", "patternProperties", "propertyNames", "dependentSchemas")
"""What may speak of fields that `properties` does not name."""
_SHARED = ("$defs", "definitions")


def arguments_schema(function: dict[str, Any]) -> dict[str, Any]:
    """An object also where the schema forgets to say so, of the fields that it names unless it allows others: what a
    weak model adds no function takes."""
    given = dict(function.get("parameters") or {})
    is_whole = not any(name in given for name in _ELSEWHERE)
    closed = {"additionalProperties": False} if is_whole and ("properties" in given or not given) else {}
    return {"type": "object", **closed, **given}


def json_rules(rule: str, function: dict[str, Any]) -> list[str]:
    """Rules in Lark's syntax, the first for all arguments: {"city": "Paris", "days": 2}"""
    return [_value_rule(rule, arguments_schema(function))]


def keyword_rules(rule: str, function: dict[str, Any]) -> list[str]:
    """Rules in Lark's syntax, the first for all arguments: city="Paris", days=2

    They come in the schema's order, those that are not required may be left out, and values are JSON, of which the
    parser knows the names too. Raises InvalidGrammarError for what keywords cannot say.
    """
    schema = arguments_schema(function)
    _check_keywords(function["name"], schema)
    names = list(schema.get("properties", {}))
    required = set(schema.get("required", ()))
    rules = [f"{rule}: {_first(rule, names, required)}"]
    shared = {name: schema[name] for name in _SHARED if name in schema}
    for index, name in enumerate(names):
        value = schema["properties"][name]
        rules.append(f"{rule}_{index}: {json.dumps(f'{name}=')} {rule}_value_{index}")
        rules.append(_value_rule(f"{rule}_value_{index}", {**shared, **value} if isinstance(value, dict) else value))
        later = f'", " {rule}_{index}'
        rest = f" {rule}_from_{index + 1}" if index + 1 < len(names) else ""
        rules.append(f"{rule}_from_{index}: {later if name in required else f'({later})?'}{rest}")
    return rules


def _first(rule: str, names: list[str], required: set[str]) -> str:
    """By which argument comes first: any up to the first that is required; none at all where none is."""
    ways = []
    for index, name in enumerate(names):
        ways.append(f"{rule}_{index}" + (f" {rule}_from_{index + 1}" if index + 1 < len(names) else ""))
        if name in required:
            return " | ".join(ways)
    return f"({' | '.join(ways)})?" if ways else '""'


def _check_keywords(function: str, schema: dict[str, Any]) -> None:
    if not all(_is_name(part) for part in function.split(".")):
        raise InvalidGrammarError(f"the model writes calls as Python, and {function!r} is no name of a function there")
    if found := next((name for name in _ELSEWHERE if name in schema), None):
        raise InvalidGrammarError(
            f"the model writes calls as Python, and parameters of {function!r} with {found!r} are no named arguments"
        )
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, dict):
        raise InvalidGrammarError(f"properties in the parameters of {function!r} must be an object")
    if not isinstance(required, list):
        raise InvalidGrammarError(f"required in the parameters of {function!r} must be a list")
    if (wrong := next((name for name in properties if not _is_name(name)), None)) is not None:
        raise InvalidGrammarError(
            f"the model writes calls as Python, and the parameter {wrong!r} of {function!r} is no name there"
        )
    if (missing := next((name for name in required if name not in list(properties)), None)) is not None:
        raise InvalidGrammarError(f"the parameters of {function!r} require {missing!r}, which properties does not name")


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


def _value_rule(rule: str, schema: Any) -> str:
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": JSON_LAYOUT}
    return f"{rule}: %json {json.dumps(schema, ensure_ascii=False)}"
