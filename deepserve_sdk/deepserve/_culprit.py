"""Names the variable that cannot be pickled, and where it was captured."""

from __future__ import annotations

import os
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

from deepserve import _pickling

MAX_DEPTH = 12
MAX_VISITS = 2000
_GLOBAL_OPERATIONS = ("LOAD_GLOBAL", "LOAD_NAME")


class Place(NamedTuple):
    """A child object and how a person would call it."""

    child: Any
    text: str


def explain(obj: Any, refusal: BaseException) -> str:
    """One sentence on what cannot be pickled inside `obj`."""
    found = find_culprit(obj)
    if found is None:
        return f"{_type_name(obj)} cannot be pickled: {refusal}"
    return f"{found.text} cannot be pickled: {_reason(found.child, refusal)}"


def find_culprit(obj: Any) -> Place | None:
    """The innermost object that cannot be pickled; None where no child of `obj` can be blamed."""
    seen: set[int] = set()
    found: Place | None = None
    pending: Any = obj
    while len(seen) < MAX_VISITS and id(pending) not in seen:
        seen.add(id(pending))
        child = next((place for place in _children(pending) if not _can_pickle(place.child)), None)
        if child is None:
            return found
        keep_container = found is not None and child.text.startswith("item ") and "captured" in found.text
        found = Place(child.child, found.text if keep_container and found else _join(found, child))
        pending = child.child
        if len(seen) > MAX_DEPTH:
            break
    return found


def _join(outer: Place | None, inner: Place) -> str:
    if outer is None or "captured by" in inner.text:
        return inner.text
    return f"{inner.text} of {outer.text}"


def _children(obj: Any) -> Iterator[Place]:
    if isinstance(obj, Arguments):
        for name, argument in obj.named():
            yield Place(argument, f"argument `{name}` ({_type_name(argument)}) of `{obj.function_name}`")
    elif isinstance(obj, types.FunctionType):
        yield from _captured(obj)
    elif isinstance(obj, types.MethodType):
        yield Place(obj.__self__, f"the object of the method `{obj.__name__}` ({_type_name(obj.__self__)})")
    elif isinstance(obj, dict):
        for key, item in obj.items():
            yield Place(item, f"item {key!r} ({_type_name(item)})")
    elif isinstance(obj, list | tuple | set | frozenset):
        for index, item in enumerate(obj):
            yield Place(item, f"item {index} ({_type_name(item)})")
    else:
        for name, attribute in (getattr(obj, "__dict__", None) or {}).items():
            if not (isinstance(obj, type) and name.startswith("__")):
                yield Place(attribute, f"attribute `{name}` ({_type_name(attribute)})")


def _captured(function: types.FunctionType) -> Iterator[Place]:
    """Closure cells, defaults and the globals that the function's code names."""
    code = function.__code__
    where = f"captured by `{function.__qualname__}` at {os.path.basename(code.co_filename)}:{code.co_firstlineno}"
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield Place(cell.cell_contents, f"`{name}` ({_type_name(cell.cell_contents)}), {where}")
        except ValueError:  # an empty cell
            continue
    for name in _global_names(code):
        if name in function.__globals__:
            captured = function.__globals__[name]
            yield Place(captured, f"`{name}` ({_type_name(captured)}), {where}")
    for default in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
        yield Place(default, f"a default value ({_type_name(default)}) of `{function.__qualname__}`")


def _global_names(code: types.CodeType) -> Iterator[str]:
    import dis

    for instruction in dis.get_instructions(code):
        if instruction.opname in _GLOBAL_OPERATIONS:
            yield str(instruction.argval)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _global_names(constant)


def _can_pickle(obj: Any) -> bool:
    try:
        _pickling.dump(obj)
    except _pickling.CannotPickle:
        return False
    return True


def _reason(obj: Any, refusal: BaseException) -> str:
    try:
        _pickling.dump(obj)
    except _pickling.CannotPickle as error:
        return str(error)
    return str(refusal)


def _type_name(obj: Any) -> str:
    cls = obj if isinstance(obj, type) else type(obj)
    if cls.__module__ in ("builtins", "__main__"):
        return cls.__qualname__
    return _PUBLIC_NAMES.get(f"{cls.__module__}.{cls.__qualname__}", f"{cls.__module__}.{cls.__qualname__}")


_PUBLIC_NAMES = {"_thread.lock": "threading.Lock", "_thread.RLock": "threading.RLock", "_io.TextIOWrapper": "open file"}


class Arguments:
    """A call's arguments with the names that its function gives them; pickles as (args, kwargs)."""

    def __init__(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.function_name = getattr(function, "__qualname__", repr(function))
        self._function = function
        self._args = args
        self._kwargs = kwargs

    def __reduce__(self) -> Any:
        return tuple, ((self._args, self._kwargs),)

    def named(self) -> Iterator[tuple[str, Any]]:
        import inspect

        try:
            bound = inspect.signature(self._function).bind(*self._args, **self._kwargs)
        except (TypeError, ValueError):
            yield from ((str(index), argument) for index, argument in enumerate(self._args))
            yield from self._kwargs.items()
            return
        yield from bound.arguments.items()
