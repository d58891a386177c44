"""Methods of a `@deepserve.cls` class: `instance.method(...)` here, `instance.method.remote(...)` in a pod."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from deepserve._callee import Callee
from deepserve._code_kind import is_async_generator_function, is_coroutine_function, is_generator_function
from deepserve._definition import Definition
from deepserve._entry import HOOK_ATTRIBUTE, hook_names
from deepserve._function import Definer, is_generator
from deepserve._inspectable import Inspectable
from deepserve._pickling import Reach
from deepserve._values import encode_value
from deepserve._verbs import ForEachVerb, MapVerb, RemoteStreamVerb, RemoteVerb, SpawnMapVerb, SpawnVerb, StarMapVerb
from deepserve.errors import InvalidOption, UnpicklableArgument, ValueTooLarge

if TYPE_CHECKING:
    import inspect

    from deepserve._autoscaler import Autoscaler, FunctionStats
    from deepserve._map_types import Map, StarMap
    from deepserve._query_verb import QueryVerb
    from deepserve._verb_types import ForEach, SpawnMap

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

KWARGS_ATTRIBUTE = "_deepserve_kwargs"
"""On instances: the arguments they were made with."""
ENTERED_ATTRIBUTE = "_deepserve_entered"
"""On instances: an `enter` method ran."""
MAX_PARAMS_BYTES = 512 << 10


class BoundMethod(Inspectable, Generic[P, R]):
    """A method of one instance."""

    def __init__(self, descriptor: MethodDescriptor[P, R], instance: Any) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), descriptor.target)
        self._target = descriptor.target
        self._instance = instance

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        enter_locally(self._instance)
        return cast(R, self._target(self._instance, *args, **kwargs))

    def local(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """The same as calling it: runs here, after the `enter` methods."""
        return self(*args, **kwargs)

    @property
    def remote(self) -> RemoteVerb[P, R]:
        return RemoteVerb(self._callee())

    @property
    def spawn(self) -> SpawnVerb[P, R]:
        return SpawnVerb(self._callee())

    @property
    def map(self) -> Map[P, R]:
        return cast("Map[P, R]", MapVerb(self._callee()))

    @property
    def starmap(self) -> StarMap[P, R]:
        return cast("StarMap[P, R]", StarMapVerb(self._callee()))

    @property
    def for_each(self) -> ForEach[P, R]:
        return cast("ForEach[P, R]", ForEachVerb(self._callee()))

    @property
    def spawn_map(self) -> SpawnMap[P, R]:
        return cast("SpawnMap[P, R]", SpawnMapVerb(self._callee()))

    @property
    def autoscaler(self) -> Autoscaler:
        """Its pool of pods: `settings()`, `update(min_pods=2)`, `history()`. (Modal: `update_autoscaler`.)"""
        from deepserve._autoscaler import Autoscaler

        return Autoscaler(self._callee().name, self._define)

    @property
    def get_current_stats(self) -> QueryVerb[[], FunctionStats]:
        """`f.get_current_stats()`: inputs that wait and run, and pods. (Modal: `get_current_stats`.)"""
        from deepserve._autoscaler import stats_verb

        return stats_verb(self._callee().name, self._define)

    @property
    def __signature__(self) -> inspect.Signature:
        """Without `self`, which is bound."""
        import inspect

        return inspect.signature(functools.partial(self._target, self._instance))

    def _callee(self) -> Callee:
        name = f"{type(self._instance).__name__}.{self._target.__name__}"
        bound = functools.partial(self._target, self._instance)
        functools.update_wrapper(bound, self._target)
        return Callee(name, bound, self._define, is_stream=is_generator(self._target), method=self._target.__name__)

    def _define(self) -> Definition:
        definer: Definer | None = getattr(type(self._instance), "__deepserve_definer__", None)
        if definer is None:
            raise InvalidOption(f"{type(self._instance).__qualname__} lacks @deepserve.cls")
        kwargs = self._instance.__dict__.get(KWARGS_ATTRIBUTE)
        if not kwargs:
            return definer.define()
        reach = definer.define().reach
        return definer.define(encode_params(definer.label, kwargs, reach))


def encode_params(label: str, kwargs: dict[str, Any], reach: Reach) -> bytes:
    """Constructor arguments as they stand in a spec. Raises UnpicklableArgument, ValueTooLarge."""
    value, params = encode_value(kwargs, reach=reach)
    if len(params) > MAX_PARAMS_BYTES:
        raise ValueTooLarge(
            f"{label}: its constructor's arguments have {value.size_bytes:,} bytes; pass large values to its methods"
        )
    if value.python:
        raise UnpicklableArgument(
            f"{label}: a constructor argument holds code without an importable name; pass plain values"
        )
    return params


class AsyncBoundMethod(BoundMethod[P, R]):
    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]
        def local(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...  # type: ignore[override]


class StreamBoundMethod(BoundMethod[P, Iterator[T]]):
    @property
    def remote(self) -> RemoteStreamVerb[P, T]:  # type: ignore[override]
        return RemoteStreamVerb(self._callee())


class AsyncStreamBoundMethod(StreamBoundMethod[P, T]):
    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...  # type: ignore[override]
        def local(self, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]: ...  # type: ignore[override]


_VERBS = frozenset("remote local spawn map starmap for_each spawn_map".split())


class MethodDescriptor(Generic[P, R]):
    """What `@deepserve.method()` leaves in the class."""

    bound_class: type[BoundMethod[Any, Any]] = BoundMethod

    def __init__(self, target: Callable[..., Any]) -> None:
        functools.update_wrapper(cast("Callable[..., Any]", self), target)
        self.target = target
        setattr(self, HOOK_ATTRIBUTE, "method")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """For who forgot the instance: `Counter.add.remote(1)`."""
            owner, _, method = self.__dict__.get("__qualname__", "method").rpartition(".")
            if name not in _VERBS:
                raise AttributeError(f"{owner}.{method} has no attribute {name!r}")
            raise AttributeError(f"{owner}.{method} is called on an instance: make one, {owner}(...).{method}.{name}")

    @overload
    def __get__(self, instance: None, owner: type) -> MethodDescriptor[P, R]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> BoundMethod[P, R]: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else self.bound_class(cast(Any, self), instance)


class AsyncMethodDescriptor(MethodDescriptor[P, R]):
    bound_class = AsyncBoundMethod

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> AsyncMethodDescriptor[P, R]: ...
        @overload
        def __get__(self, instance: object, owner: type) -> AsyncBoundMethod[P, R]: ...
        def __get__(self, instance: object | None, owner: type) -> Any: ...


class StreamMethodDescriptor(MethodDescriptor[P, Iterator[T]]):
    bound_class = StreamBoundMethod

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> StreamMethodDescriptor[P, T]: ...
        @overload
        def __get__(self, instance: object, owner: type) -> StreamBoundMethod[P, T]: ...
        def __get__(self, instance: object | None, owner: type) -> Any: ...


class AsyncStreamMethodDescriptor(MethodDescriptor[P, Iterator[T]]):
    bound_class = AsyncStreamBoundMethod

    if TYPE_CHECKING:

        @overload
        def __get__(self, instance: None, owner: type) -> AsyncStreamMethodDescriptor[P, T]: ...
        @overload
        def __get__(self, instance: object, owner: type) -> AsyncStreamBoundMethod[P, T]: ...
        def __get__(self, instance: object | None, owner: type) -> Any: ...


class MethodDecorator(Protocol):
    """What `deepserve.method()` returns."""

    @overload
    def __call__(
        self, target: Callable[Concatenate[Any, P], AsyncIterator[T]], /
    ) -> AsyncStreamMethodDescriptor[P, T]: ...
    @overload
    def __call__(
        self, target: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
    ) -> AsyncMethodDescriptor[P, R]: ...
    @overload
    def __call__(self, target: Callable[Concatenate[Any, P], Iterator[T]], /) -> StreamMethodDescriptor[P, T]: ...
    @overload
    def __call__(self, target: Callable[Concatenate[Any, P], R], /) -> MethodDescriptor[P, R]: ...


def method(target: None = None, /) -> MethodDecorator:
    """Let a method of a `@deepserve.cls` class be called in pods. (Modal: `@modal.method`.)"""
    refuse_bare(target, "method")
    return cast(MethodDecorator, _decorate)


def refuse_bare(target: object, name: str) -> None:
    """Raises InvalidOption where the decorator was written without its parentheses."""
    if target is not None:
        of = getattr(target, "__qualname__", repr(target))
        raise InvalidOption(f"{of}: write @deepserve.{name}(), with parentheses")


def _decorate(target: Callable[..., Any]) -> MethodDescriptor[..., Any]:
    if is_async_generator_function(target):
        return AsyncStreamMethodDescriptor(target)
    if is_generator_function(target):
        return StreamMethodDescriptor(target)
    return AsyncMethodDescriptor(target) if is_coroutine_function(target) else MethodDescriptor(target)


def enter_locally(instance: Any) -> None:
    """Run the `enter` methods of an instance that is used here, once, those of the snapshot first."""
    if instance.__dict__.get(ENTERED_ATTRIBUTE):
        return
    instance.__dict__[ENTERED_ATTRIBUTE] = True
    target = type(instance)
    for name in [*hook_names(target, "enter", snap=True), *hook_names(target, "enter", snap=False)]:
        result = getattr(instance, name)()
        if isinstance(result, Coroutine):
            import asyncio

            asyncio.run(result)
