"""Function: a decorated function, called here or in pods."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Generic, Literal, ParamSpec, TypeVar, cast

from deepserve._callee import Callee
from deepserve._code import Named, code_of
from deepserve._code_kind import is_async_generator_function, is_coroutine_function, is_generator_function
from deepserve._current_client import installed_client
from deepserve._definition import Definition
from deepserve._entry import HOOK_ATTRIBUTE, Entry, hook_names
from deepserve._inspectable import Inspectable
from deepserve._options import Options, merge_options, refuse_stream_options
from deepserve._pickling import look_up
from deepserve._verbs import ForEachVerb, MapVerb, RemoteStreamVerb, RemoteVerb, SpawnMapVerb, SpawnVerb, StarMapVerb
from deepserve.protocol.specs import ExecutorKind, FunctionSpec, function_id

if TYPE_CHECKING:
    from typing import Self, Unpack

    from deepserve._app import App
    from deepserve._autoscaler import Autoscaler, FunctionStats
    from deepserve._decorators import OptionArguments
    from deepserve._map_types import Map, StarMap
    from deepserve._query_verb import QueryVerb
    from deepserve._verb_types import ForEach, SpawnMap
    from deepserve._watch import Watch

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Definer:
    """Makes the Definition that the controller gets: code and options, found at the first remote call."""

    def __init__(
        self, app: App, entry: Entry, options: Options, kind: ExecutorKind = "function", key: str = ""
    ) -> None:
        self.app = app
        self.entry = entry
        self.options = options
        self.key = key
        """The entry's name in the dump out of which this very object came, in a pod."""
        self._kind: ExecutorKind = kind
        self.replaces: Definer | None = None
        """The one of the same name before: what the controller knows of it is given up when this one is called."""
        self._made: dict[bytes, Definition] = {}
        self._watch: Watch | None = None
        """Where the code travels by value."""

    @property
    def label(self) -> str:
        return f"{self.app.name}/{self.options.name}"

    def define(self, params: bytes = b"") -> Definition:
        """Raises UnpicklableFunction, ValueTooLarge."""
        if self._watch is not None and self._watch.has_changed():
            self._forget()
        made = self._made.get(params)
        if made is not None:
            return made
        target = self.entry.target
        code = code_of(Named(self.entry, self.app, target.__module__, target.__qualname__, self.key))
        spec = FunctionSpec(
            app=self.app.name,
            name=self.options.name,
            kind=self._kind,
            code=code.ref,
            resources=self.options.resources,
            scaling=self.options.scaling,
            timeout_s=self.options.timeout_s,
            startup_timeout_s=self.options.startup_timeout_s,
            queue_timeout_s=self.options.queue_timeout_s,
            retries=self.options.retries,
            params=params,
            is_generator=is_generator(target),
            snap=self._kind == "class" and bool(hook_names(cast(type, target), "enter", snap=True)),
            idle_timeout_s=self.options.idle_timeout_s,
            replay=self.options.replay,
            methods=method_kinds(target) if self._kind == "class" else {},
        )
        definition = Definition(function_id(spec), spec, code.bundle, self.label, code.reach)
        if code.ref.transport == "pickle" and code.bundle is not None:
            from deepserve._watch import Watch

            self._watch = self._watch or Watch(self.entry)
        self._made[params] = definition
        if self.replaces is not None:
            self.replaces._retire(definition)
        return definition

    def _forget(self) -> None:
        """The code is another by now, so it is dumped again."""
        self.app.forget_dump()
        before = Definer(self.app, self.entry, self.options, self._kind, self.key)
        before._made, before.replaces = self._made, self.replaces
        self._made, self._watch, self.replaces = {}, None, before

    def _retire(self, newer: Definition) -> None:
        """Let the controller give up the pods of what nobody calls any more."""
        client = installed_client()
        definer: Definer | None = self
        while definer is not None:
            for definition in definer._made.values():
                if client is not None and definition.function_id != newer.function_id:
                    client.retire(definition)
            definer._made, definer.replaces, definer = {}, None, definer.replaces

    def __getstate__(self) -> tuple[str, Entry, Options, ExecutorKind, str]:
        """By value, inside a class that has no importable name."""
        return self.app.name, self.entry, self.options, self._kind, self.key or self.app.key_of(self.entry)

    def __setstate__(self, state: tuple[str, Entry, Options, ExecutorKind, str]) -> None:
        from deepserve._app import App

        app, entry, options, kind, key = state
        Definer.__init__(self, App(app), entry, options, kind, key)


class Function(Inspectable, Generic[P, R]):
    """A function that also runs in pods. Made by `@deepserve.function` or `@app.function`.

    `f(...)` runs it here; `remote`, `spawn`, `map`, `starmap`, `for_each` and `spawn_map` run it in pods, each with an
    `.aio` twin. (Modal: `modal.Function`.)
    """

    remote: RemoteVerb[P, R]
    spawn: SpawnVerb[P, R]
    map: Map[P, R]
    starmap: StarMap[P, R]
    for_each: ForEach[P, R]
    spawn_map: SpawnMap[P, R]

    def __init__(self, definer: Definer) -> None:
        target = definer.entry.target
        functools.update_wrapper(cast("Callable[..., Any]", self), target)
        self._target = target
        self._definer = definer
        self._add_verbs(Callee(target.__name__, target, definer.define, is_stream=is_generator(target)))

    def _add_verbs(self, callee: Callee) -> None:
        remote = RemoteStreamVerb if callee.is_stream else RemoteVerb
        self.remote = cast(RemoteVerb[P, R], remote(callee))
        self.spawn = SpawnVerb(callee)
        self.map = cast("Map[P, R]", MapVerb(callee))
        self.starmap = cast("StarMap[P, R]", StarMapVerb(callee))
        self.for_each = cast("ForEach[P, R]", ForEachVerb(callee))
        self.spawn_map = cast("SpawnMap[P, R]", SpawnMapVerb(callee))

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, self._target(*args, **kwargs))

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same as calling the object: runs here, starts nothing."""
        return self(*args, **kwargs)

    def with_options(self, **options: Unpack[OptionArguments]) -> Self:
        """This function with other options, which means other pods. Raises InvalidOption. (Modal: `with_options`.)"""
        definer = self._definer
        merged = merge_options(definer.options, self._target.__qualname__, dict(options))
        if not self.is_generator:
            refuse_stream_options(merged, self._target.__qualname__, "it is a plain function")
        entry = definer.entry
        if (merged.retry_on, merged.never_on) != (entry.retry_on, entry.never_on):
            entry = Entry(entry.target, merged.retry_on, merged.never_on)
        return type(self)(Definer(definer.app, entry, merged, key=definer.key))

    @staticmethod
    def from_name(app: str, name: str) -> Function[..., Any]:
        """A deployed function. Raises NotFound. (Modal: `Function.from_name`.)"""
        from deepserve._deployed import find_function

        return find_function(app, name)

    @property
    def autoscaler(self) -> Autoscaler:
        """Its pool of pods: `settings()`, `update(min_pods=2)`, `history()`. (Modal: `update_autoscaler`.)"""
        from deepserve._autoscaler import Autoscaler

        return Autoscaler(self._definer.label, self._definer.define)

    @property
    def get_current_stats(self) -> QueryVerb[[], FunctionStats]:
        """`f.get_current_stats()`: inputs that wait and run, and pods. (Modal: `get_current_stats`.)"""
        from deepserve._autoscaler import stats_verb

        return stats_verb(self._definer.label, self._definer.define)

    @property
    def app(self) -> App:
        return self._definer.app

    @property
    def spec(self) -> FunctionSpec:
        """What the controller gets. Raises UnpicklableFunction, ValueTooLarge."""
        spec = self._definer.define().spec
        assert spec is not None
        return spec

    @property
    def definition(self) -> Definition:
        """The spec with its id and its bundle, for `deepserve deploy`."""
        return self._definer.define()

    @property
    def key(self) -> str:
        """Its name in its app's dump."""
        return self._definer.key or self._definer.app.key_of(self._definer.entry)

    @property
    def is_generator(self) -> bool:
        """`remote` gives an iterator."""
        return is_generator(self._target)

    @property
    def __deepserve_definer__(self) -> Definer:
        return self._definer

    @property
    def __deepserve_entry__(self) -> Entry:
        return self._definer.entry

    def __repr__(self) -> str:
        return f"<deepserve.{type(self).__name__} {self._definer.label}>"

    def __reduce__(self) -> str:
        return self._target.__qualname__

    def __deepserve_reduce__(self) -> Any:
        """By value: as another function's copy with options where that one has a name, else with its code."""
        definer = self._definer
        named = look_up(self.__module__, self._target.__qualname__)
        if isinstance(named, Function) and named is not self and named.__deepserve_entry__ == definer.entry:
            return _copy_with_options, (named, definer.options)
        return _new_function, (type(self),), (definer.entry, definer.app.name, definer.options, self.key)

    def __setstate__(self, state: tuple[Entry, str, Options, str]) -> None:
        self.__dict__["_pending"] = state

    if not TYPE_CHECKING:  # checkers must see a name that does not exist

        def __getattr__(self, name: str) -> Any:
            return self._complete(name)

    def _complete(self, name: str) -> Any:
        """An unpickled function at its first use: before, it may be part of a cycle that is still being loaded."""
        pending = self.__dict__.pop("_pending", None)
        if pending is None:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        from deepserve._app import App

        entry, app, options, key = pending
        Function.__init__(self, Definer(App(app), entry, options, key=key))
        return getattr(self, name)


class AsyncFunction(Function[P, R]):
    """A Function whose local call is a coroutine."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        return cast(Coroutine[Any, Any, R], self._target(*args, **kwargs))

    def local(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
        """The same as calling the object."""
        return self(*args, **kwargs)


class StreamFunction(Function[P, Iterator[T]]):
    """A Function that is a generator: `remote` gives an iterator, `remote.aio` an asynchronous one."""

    if TYPE_CHECKING:
        remote: RemoteStreamVerb[P, T]  # type: ignore[assignment]


class AsyncStreamFunction(Function[P, Iterator[T]]):
    """A Function that is an asynchronous generator; blocking `remote` gives a plain iterator all the same."""

    if TYPE_CHECKING:
        remote: RemoteStreamVerb[P, T]  # type: ignore[assignment]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:  # type: ignore[override]
        return cast(AsyncIterator[T], self._target(*args, **kwargs))

    def local(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:  # type: ignore[override]
        """The same as calling the object."""
        return self(*args, **kwargs)


def is_generator(target: Callable[..., Any]) -> bool:
    return is_generator_function(target) or is_async_generator_function(target)


def method_kinds(target: Any) -> dict[str, Literal["call", "stream"]]:
    """Of a class: its methods that run in pods."""
    members = {name: member for base in reversed(target.__mro__) for name, member in vars(base).items()}
    return {
        name: "stream" if is_generator(member.target) else "call"
        for name, member in sorted(members.items())
        if getattr(member, HOOK_ATTRIBUTE, "") == "method"
    }


def function_class(target: Callable[..., Any]) -> type[Function[..., Any]]:
    if is_async_generator_function(target):
        return AsyncStreamFunction
    if is_generator_function(target):
        return StreamFunction
    return AsyncFunction if is_coroutine_function(target) else Function


def _new_function(cls: type[Function[..., Any]]) -> Function[..., Any]:
    return cls.__new__(cls)


def _copy_with_options(named: Function[P, R], options: Options) -> Function[P, R]:
    definer = named._definer
    return type(named)(Definer(definer.app, definer.entry, options, key=definer.key))
