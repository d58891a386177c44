"""Arguments and results of callers that have no Python: MessagePack in, MessagePack out."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from deepserve.protocol.messages import Value
from deepserve_runtime import sdk
from deepserve_runtime.task import Task


def arguments(task: Task, target: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's (args, kwargs), decoded by the format that the caller names."""
    decoded = task.start()
    if task.assignment.value.format == "pickle":
        args, kwargs = decoded
        return tuple(args), kwargs
    if decoded is None:
        return (), {}
    if not isinstance(decoded, dict) or not isinstance(decoded.get("args", []), list):
        raise TypeError('arguments in MessagePack are a map {"args": [...], "kwargs": {...}}')
    return _typed(target, decoded.get("args", []), decoded.get("kwargs", {}))


def _typed(
    target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turns maps into the classes that the target's annotations name. Raises TypeError where they do not fit."""
    bound = inspect.signature(target).bind(*args, **kwargs)
    try:
        hints = typing.get_type_hints(target)
    except Exception:  # an annotation that only a type checker can resolve
        hints = {}
    for name, given in bound.arguments.items():
        if isinstance(hint := hints.get(name), type) and isinstance(given, dict | list):
            bound.arguments[name] = _convert(name, given, hint)
    return bound.args, bound.kwargs


def _convert(name: str, given: Any, hint: type) -> Any:
    try:
        if hasattr(hint, "model_validate"):
            return hint.model_validate(given)
        if hasattr(hint, "__dataclass_fields__") or issubclass(hint, msgspec.Struct):
            return msgspec.convert(given, hint)
    except ValueError as error:  # pydantic's and msgspec's validation errors are ValueErrors
        raise TypeError(f"argument {name!r} is no {hint.__name__}: {error}") from error
    return given


def encode_result(result: Any, label: str) -> tuple[Value, bytes]:
    """Raises UnpicklableResult for what has no plain form."""
    try:
        data = msgspec.msgpack.encode(result, enc_hook=_plain)
    except Exception as error:  # also what the object's own conversion raises
        raise sdk.errors.UnpicklableResult(
            f"the result of {label} ({type(result).__name__}) has no plain form for a caller outside Python: {error}"
        ) from error
    return Value("msgpack", len(data)), data


def _plain(obj: Any) -> Any:
    if hasattr(obj, "model_dump"):
        return obj.model_dump(mode="json")
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(obj, numpy.generic | numpy.ndarray):
        return obj.tolist()
    raise TypeError(f"{type(obj).__name__} is not plain data")
