"""Notices that code which travels by value has become another: what it names was bound anew, or changed in place."""

from __future__ import annotations

import builtins
import dis
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from types import CellType, CodeType, FunctionType
from typing import Any

from deepserve._entry import Entry
from deepserve._installed import is_installed
from deepserve._pickling import dump_by_value

_MISSING = object()
_GLOBAL_OPS = ("LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL")


class Watch:
    """Of one function or class, as it is now; asked before each of its calls.

    Global names and closure variables, of it and of the user's functions that it reaches, are compared by identity.
    What changes in place (a list that grows) is noticed from one IPython cell to the next, by pickling the code again.
    """

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._globals: list[tuple[Callable[[str, Any], Any], str, Any]] = []
        self._cells: list[tuple[CellType, Any]] = []
        for function in _reached(entry.target):
            found = function.__globals__
            for name in _names(function.__code__):
                if name in found or not hasattr(builtins, name):
                    self._globals.append((found.get, name, found.get(name, _MISSING)))
            self._cells += [(cell, _content(cell)) for cell in function.__closure__ or ()]
        self._cell_number = _cell_number()
        self._digest = _digest(entry) if self._cell_number else b""

    def has_changed(self) -> bool:
        for get, name, value in self._globals:
            if get(name, _MISSING) is not value:
                return True
        for cell, value in self._cells:
            if _content(cell) is not value:
                return True
        if self._cell_number != (number := _cell_number()):
            self._cell_number = number
            return _digest(self._entry) != self._digest
        return False


def _reached(target: Any) -> Iterator[FunctionType]:
    """The user's own functions: those of `target`, and what they name, however it is decorated."""
    waiting, seen = [target], set[int]()
    while waiting:
        found = waiting.pop()
        if id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, type):
            if _is_own(found):
                waiting += [member for base in found.__mro__ if _is_own(base) for member in vars(base).values()]
        elif isinstance(found, FunctionType):
            if _is_own(found):
                yield found
                waiting += [found.__globals__[name] for name in _names(found.__code__) if name in found.__globals__]
                waiting += [_content(cell) for cell in found.__closure__ or ()]
        elif isinstance(entry := getattr(found, "__deepserve_entry__", None), Entry):
            waiting.append(entry.target)
        elif isinstance(found, staticmethod | classmethod) or hasattr(type(found), "bound_class"):
            waiting.append(getattr(found, "target", None) or inspect.unwrap(found))


def _is_own(found: Any) -> bool:
    return not is_installed(getattr(found, "__module__", None) or "builtins")


@lru_cache(maxsize=1024)
def _names(code: CodeType) -> tuple[str, ...]:
    """Of globals; attributes have names, too, and mean nothing here."""
    names = {found.argval for found in dis.get_instructions(code) if found.opname in _GLOBAL_OPS}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(_names(constant))
    return tuple(sorted(names))


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not bound yet
        return _MISSING


def _digest(entry: Entry) -> bytes:
    try:
        return hashlib.sha256(dump_by_value(entry)).digest()
    except Exception:  # said where the function is called
        return b""


def _cell_number() -> int:
    """Of the IPython cell that runs; 0 elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    return int(shell.execution_count) if shell is not None else 0
