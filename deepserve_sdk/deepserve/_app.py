"""App: a named group of functions and classes, deployed and listed together."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable, Coroutine
from functools import partial, update_wrapper
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, cast

from deepserve._code import dump_entries
from deepserve._options import Options, merge_options

if TYPE_CHECKING:
    from deepserve._decorators import ClassFactory, FunctionFactory
    from deepserve._definition import Bundle, Definition
    from deepserve._entry import Entry
    from deepserve._function import Definer, Function

P = ParamSpec("P")
R = TypeVar("R")


class App:
    """Functions and classes under one name. (Modal: `modal.App`.)

    `@app.function`, `@app.cls` and `@app.local_entrypoint()` add to it; without an App they join the file's default
    one, named after the file. Raises InvalidOption for a name that is none.
    """

    def __init__(self, name: str) -> None:
        self.name = merge_options(Options(), f"App({name!r})", {"name": name}).name
        self.functions: dict[str, Function[..., Any]] = {}
        """By name; a name that is defined again is replaced."""
        self.classes: dict[str, type] = {}
        """By name."""
        self.entrypoints: dict[str, LocalEntrypoint[..., Any]] = {}
        self._entries: weakref.WeakValueDictionary[str, Entry] = weakref.WeakValueDictionary()
        self._num_unnamed = 0
        self._dumped: tuple[dict[str, int], Bundle] | None = None

    def __repr__(self) -> str:
        return f"<deepserve.App {self.name!r}: {', '.join([*self.functions, *self.classes]) or 'empty'}>"

    @property
    def function(self) -> FunctionFactory:
        """`@app.function` or `@app.function(...)`: as `deepserve.function`, in this app. (Modal: the same.)"""
        from deepserve._decorators import function

        return cast("FunctionFactory", partial(function, app=self))

    @property
    def cls(self) -> ClassFactory:
        """`@app.cls` or `@app.cls(...)`: as `deepserve.cls`, in this app.

        Type checkers see constructor arguments of the module-level `@deepserve.cls(app=app)` only. (Modal: the same.)
        """
        from deepserve._cls import cls

        return cast("ClassFactory", partial(cls, app=self))

    def local_entrypoint(self, name: str = "") -> Callable[[Callable[P, R]], LocalEntrypoint[P, R]]:
        """Mark a function that `deepserve run` calls in the local process. (Modal: the same.)"""

        def decorate(target: Callable[P, R]) -> LocalEntrypoint[P, R]:
            entrypoint = LocalEntrypoint(target)
            self.entrypoints[name or entrypoint.__name__] = entrypoint
            return entrypoint

        return decorate

    def add(self, name: str, member: Any, entry: Entry) -> None:
        """Register a decorated object. Those without a name of their own (lambdas, closures) live as long as their user
        holds them."""
        if "<" in member.__qualname__:
            self.key_of(entry)
        else:
            before: Any = self.classes.get(name) if isinstance(member, type) else self.functions.get(name)
            if isinstance(member, type):
                self.classes[name] = member
            else:
                self.functions[name] = member
            if before is not None and before is not member:
                definer_of(member).replaces = definer_of(before)
            self._entries[f"{self.name}/{member.__qualname__}"] = entry

    def definitions(self) -> dict[str, Definition]:
        """Functions and classes by name, as a controller gets them. Raises UnpicklableFunction, ValueTooLarge."""
        functions = {name: function.definition for name, function in self.functions.items()}
        classes: dict[str, Any] = self.classes
        return functions | {name: found.__deepserve_definer__.define() for name, found in classes.items()}

    def key_of(self, entry: Entry) -> str:
        """The entry's name in this app's dump."""
        key = next((name for name, other in self._entries.items() if other is entry), "")
        if not key:
            qualname = getattr(entry.target, "__qualname__", "function")
            self._num_unnamed += 1
            key = f"{self.name}/{qualname}#{self._num_unnamed}"
            self._entries[key] = entry
        return key

    def forget_dump(self) -> None:
        """What was dumped has become another."""
        self._dumped = None

    def dump_with(self, entry: Entry) -> tuple[Bundle, str]:
        """The dump of all of this app's living functions, and the key of `entry` in it.

        Taken at the first remote call, and again when functions were added or forget_dump was called.
        Raises UnpicklableFunction.
        """
        key = self.key_of(entry)
        entries = dict(self._entries)
        identities = {name: id(other) for name, other in entries.items()}
        if self._dumped is None or self._dumped[0] != identities:
            self._dumped = (identities, dump_entries(entries, key))
        return self._dumped[1], key


def definer_of(member: Any) -> Definer:
    """Of a decorated function or class."""
    definer: Definer = member.__deepserve_definer__
    return definer


class LocalEntrypoint(Generic[P, R]):
    """A function that `deepserve run` calls here, not in a pod; may be a coroutine function."""

    def __init__(self, target: Callable[P, R]) -> None:
        update_wrapper(cast("Callable[..., Any]", self), target)
        self.__name__ = str(getattr(target, "__name__", "main"))
        self.local = target

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self.local(*args, **kwargs)

    def run(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call it; a coroutine is run to its end."""
        result = self.local(*args, **kwargs)
        if isinstance(result, Coroutine):
            import asyncio

            return asyncio.run(result)
        return result


_default_apps: dict[str, App] = {}


def default_app(module: str) -> App:
    """The app of a module's functions that name none, called like its file."""
    app = _default_apps.get(module)
    if app is None:
        file = getattr(sys.modules.get(module), "__file__", None)
        name = os.path.splitext(os.path.basename(file))[0] if file and os.path.isfile(file) else "interactive"
        app = _default_apps[module] = App(_as_name(name))
    return app


def _as_name(text: str) -> str:
    name = "".join(letter if letter.isascii() and (letter.isalnum() or letter in "_-.") else "_" for letter in text)
    return name.lstrip("-.") or "app"


def apps_of_module(module: ModuleType) -> list[App]:
    """The module's apps: those it holds under a name, and its default one where functions joined it."""
    found = [value for value in vars(module).values() if isinstance(value, App)]
    default = _default_apps.get(module.__name__)
    if default is not None and (default.functions or default.classes or default.entrypoints):
        found.append(default)
    return list(dict.fromkeys(found))
