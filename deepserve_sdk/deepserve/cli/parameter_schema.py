"""JSON schemas of what functions take, found where their code is: at deploy."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any

from deepserve._app import App
from deepserve._entry import HOOK_ATTRIBUTE
from deepserve._output_schema import SchemaWriter, UnsupportedHint


def schemas_of(app: App) -> dict[str, Any]:
    """By function or `Class.method`."""
    schemas = {name: schema_of(function.__deepserve_entry__.target) for name, function in app.functions.items()}
    for name, cls in app.classes.items():
        for method, member in inspect.getmembers_static(cls):
            if getattr(member, HOOK_ATTRIBUTE, "") == "method":
                schemas[f"{name}.{method}"] = schema_of(member.target, is_method=True)
    return schemas


def schema_of(target: Callable[..., Any], is_method: bool = False) -> dict[str, Any]:
    """Of `target`'s parameters. What has no hint, or one without a JSON form, may be anything: `{}`."""
    writer = SchemaWriter()
    try:
        hints = typing.get_type_hints(target, include_extras=True)
    except Exception:  # a hint that cannot be evaluated here says nothing, as none would
        hints = {}
    properties: dict[str, Any] = {}
    required, takes_more = [], False
    for name, parameter in list(inspect.signature(target).parameters.items())[is_method:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_more = True
            continue
        try:
            properties[name] = writer.write(hints[name]) if name in hints else {}
        except UnsupportedHint:
            properties[name] = {}
        if parameter.default is parameter.empty:
            required.append(name)
        elif parameter.default is None or isinstance(parameter.default, str | int | float | bool):
            properties[name] = {**properties[name], "default": parameter.default}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    schema["additionalProperties"] = takes_more
    return {**schema, "$defs": writer.definitions} if writer.definitions else schema
