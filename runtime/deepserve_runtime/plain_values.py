"""Arguments and results of callers that have no Python: MessagePack in, MessagePack out."""

from __future__ import annotations

import functools
import sys
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from deepserve.protocol.messages import Value
from deepserve_runtime import sdk
from deepserve_runtime.error_outcome import BadArguments
from deepserve_runtime.task import Task

if TYPE_CHECKING:
    import inspect


def arguments(task: Task, target: Callable[..., Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's (args, kwargs), decoded by the format that the caller names."""
    decoded = task.start()
    if task.assignment.value.format == "pickle":
        args, kwargs = decoded
        return tuple(args), kwargs
    if decoded is None:
        return (), {}
    if not isinstance(decoded, dict) or not isinstance(decoded.get("args", []), list):
        raise BadArguments('arguments in MessagePack are a map {"args": [...], "kwargs": {...}}')
    return _typed(target, decoded.get("args", []), decoded.get("kwargs", {}))


def _typed(
    target: Callable[..., Any], args: list[Any], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Checks plain values against the target's signature and hints, and turns maps into the classes these name.

    Raises BadArguments naming the parameter: a caller without the function's code cannot know better.
    """
    import inspect

    bound = _bound(inspect.signature(target), args, kwargs)
    try:
        hints = typing.get_type_hints(target)
    except Exception:  # an annotation that only a type checker can resolve
        hints = {}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, given in bound.arguments.items():
        if name in hints and bound.signature.parameters[name].kind not in variadic:
            bound.arguments[name] = _convert(name, given, hints[name])
    return bound.args, bound.kwargs


def _bound(signature: inspect.Signature, args: list[Any], kwargs: dict[str, Any]) -> inspect.BoundArguments:
    parameters = signature.parameters
    takes_any_name = any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values())
    unknown = [name for name in kwargs if name not in parameters]
    if unknown and not takes_any_name:
        raise BadArguments(f"no parameter {', '.join(unknown)}; it takes: {', '.join(parameters) or 'nothing'}")
    try:
        return signature.bind(*args, **kwargs)
    except TypeError as error:
        raise BadArguments(str(error)) from None


def _convert(name: str, given: Any, hint: Any) -> Any:
    try:
        if hasattr(hint, "model_validate"):
            return hint.model_validate(given)
        return msgspec.convert(given, hint) if _has_plain_form(hint) else given
    except ValueError as error:  # pydantic's and msgspec's validation errors are ValueErrors
        raise BadArguments(f"argument {name!r}: {error}") from error


@functools.cache
def _has_plain_form(hint: Any) -> bool:
    """Whether msgspec can make `hint` out of plain values; classes that it does not know take what they are given."""
    import msgspec.inspect  # takes as long to import as a pod to fork, and only JSON callers need it

    try:
        return not any(isinstance(part, msgspec.inspect.CustomType) for part in _parts(msgspec.inspect.type_info(hint)))
    except (TypeError, NotImplementedError):
        return False


def _parts(info: Any, seen: tuple[Any, ...] = ()) -> Iterator[Any]:
    """`info` and the types inside it."""
    import msgspec.inspect

    if not isinstance(info, msgspec.inspect.Type) or info in seen:
        return
    yield info
    for value in (getattr(info, field) for field in info.__struct_fields__):
        for inner in value if isinstance(value, tuple) else (value,):
            part = inner.type if isinstance(inner, msgspec.inspect.Field) else inner
            yield from _parts(part, (*seen, info))


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
