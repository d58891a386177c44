"""`@deepserve.function`: bare or with options, on plain functions, coroutines and generators."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from deepserve._entry import Batching, Entry
from deepserve._function import (
    AsyncFunction,
    AsyncStreamFunction,
    Definer,
    Function,
    StreamFunction,
    function_class,
    is_generator,
)
from deepserve._options import Options, Retries, merge_options, refuse_stream_options, with_inputs
from deepserve.errors import InvalidOption

if TYPE_CHECKING:
    from deepserve._app import App

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
C = TypeVar("C")


class OptionArguments(TypedDict, total=False):
    """Options of functions and classes; `deepserve.function` says what they mean."""

    cpu: float
    memory: int | None
    timeout: float
    startup_timeout: float
    queue_timeout: float | None
    min_pods: int
    max_pods: int | None
    buffer_pods: int
    scaledown_window: float
    retries: int | Retries | None
    accelerator: str | list[str] | None
    npu: int | str | None
    gpu: int | str | None
    name: str
    idle_timeout: float | None
    replay: Literal["resume", "verify"] | None


class FunctionDecorator(Protocol):
    """What `@deepserve.function(...)` with options returns."""

    @overload
    def __call__(self, target: Callable[P, AsyncIterator[T]], /) -> AsyncStreamFunction[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunction[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, Iterator[T]], /) -> StreamFunction[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> Function[P, R]: ...


class FunctionFactory(Protocol):
    """The type of `App.function`: a decorator, bare or with options."""

    @overload
    def __call__(self, target: Callable[P, AsyncIterator[T]], /) -> AsyncStreamFunction[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunction[P, R]: ...
    @overload
    def __call__(self, target: Callable[P, Iterator[T]], /) -> StreamFunction[P, T]: ...
    @overload
    def __call__(self, target: Callable[P, R], /) -> Function[P, R]: ...
    @overload
    def __call__(self, **options: Unpack[OptionArguments]) -> FunctionDecorator: ...


class ClassFactory(Protocol):
    """The type of `App.cls`: a decorator, bare or with options."""

    @overload
    def __call__(self, target: type[C], /) -> type[C]: ...
    @overload
    def __call__(self, **options: Unpack[OptionArguments]) -> Callable[[type[C]], type[C]]: ...


@overload
def function(target: Callable[P, AsyncIterator[T]], /) -> AsyncStreamFunction[P, T]: ...
@overload
def function(target: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncFunction[P, R]: ...
@overload
def function(target: Callable[P, Iterator[T]], /) -> StreamFunction[P, T]: ...
@overload
def function(target: Callable[P, R], /) -> Function[P, R]: ...
@overload
def function(*, app: App | None = None, **options: Unpack[OptionArguments]) -> FunctionDecorator: ...
def function(target: Any = None, /, *, app: App | None = None, **options: Any) -> Any:
    """Make a function one that also runs in pods. Bare, it joins the file's default app. (Modal: `@app.function`.)

    cpu: weight (default 0.125). memory: MiB, a hard limit. timeout: seconds an attempt may run (300).
    startup_timeout: seconds the start of a pod and the loading of the code may take (120). queue_timeout: seconds
    a call may wait for a pod (without a limit). min_pods, max_pods: bounds of its pool (0, the host's default).
    buffer_pods: idle pods kept beyond the demand. scaledown_window: seconds until an idle pod is given back (60).
    retries: a number, or Retries. accelerator: `kind[:model][:count]`, or a list in order of preference; npu=1 and
    gpu="h100" are short for it; a pod sees no device but its own. name: instead of the function's own.
    Of generators: idle_timeout: seconds that may pass without an item while the reader has room for one (no limit).
    replay: what a retry does after items were passed on, of which the reader gets none twice. Without it there is no
    retry then (StreamInterrupted); "resume": the generator begins with item `deepserve.resume_offset()`; "verify": it
    makes the same items again, which are compared (StreamReplayMismatch). Raises InvalidOption.
    """
    if target is None:
        return lambda decorated: _decorate(decorated, options, app)
    return _decorate(target, options, app)


def _decorate(target: Any, given: dict[str, Any], app: App | None) -> Function[..., Any]:
    qualname = getattr(target, "__qualname__", repr(target))
    _refuse_strange_target(target, qualname)
    options = merge_options(Options(name=_default_name(qualname)), qualname, given)
    batching = Batching.of(target)
    options = with_inputs(options, qualname, target, [batching.max_batch_size] if batching else [])
    if not is_generator(target):
        refuse_stream_options(options, qualname, "it is a plain function")
    return make_function(target, options, app)


def make_function(target: Callable[..., Any], options: Options, app: App | None) -> Function[..., Any]:
    """Register a plain function under its app."""
    if app is None:
        from deepserve._app import default_app

        app = default_app(target.__module__)
    entry = Entry(target, options.retry_on, options.never_on)
    made = function_class(target)(Definer(app, entry, options))
    app.add(options.name, made, entry)
    return made


def _refuse_strange_target(target: Any, qualname: str) -> None:
    if isinstance(target, type):
        raise InvalidOption(f"{qualname} is a class: decorate it with @deepserve.cls")
    if isinstance(target, Function):
        raise InvalidOption(f"{qualname} is decorated already; for other options use {qualname}.with_options(...)")
    if isinstance(target, staticmethod | classmethod):
        raise InvalidOption(f"{qualname}: methods need @deepserve.cls around the class and @deepserve.method() on them")
    if not callable(target) or not hasattr(target, "__qualname__"):
        raise InvalidOption(f"@deepserve.function takes a function, not {target!r}")


def _default_name(qualname: str) -> str:
    return qualname.replace("<locals>.", "")
