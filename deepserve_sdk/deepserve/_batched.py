"""`@deepserve.batched`: functions that are called with one item and run on lists of them."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Protocol, TypeVar, overload

from deepserve._entry import BATCHING_ATTRIBUTE, Batching
from deepserve._options import _Checker
from deepserve.errors import BatchMismatch, InvalidOption

S = TypeVar("S")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")


class BatchedDecorator(Protocol):
    """What `deepserve.batched(...)` returns. Checkers see up to three lists, by position."""

    @overload
    def __call__(
        self, target: Callable[[list[A]], Coroutine[Any, Any, list[R]]], /
    ) -> Callable[[A], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, target: Callable[[list[A], list[B]], Coroutine[Any, Any, list[R]]], /
    ) -> Callable[[A, B], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, target: Callable[[list[A], list[B], list[C]], Coroutine[Any, Any, list[R]]], /
    ) -> Callable[[A, B, C], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, target: Callable[[S, list[A]], Coroutine[Any, Any, list[R]]], /
    ) -> Callable[[S, A], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(
        self, target: Callable[[S, list[A], list[B]], Coroutine[Any, Any, list[R]]], /
    ) -> Callable[[S, A, B], Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, target: Callable[[list[A]], list[R]], /) -> Callable[[A], R]: ...
    @overload
    def __call__(self, target: Callable[[list[A], list[B]], list[R]], /) -> Callable[[A, B], R]: ...
    @overload
    def __call__(self, target: Callable[[list[A], list[B], list[C]], list[R]], /) -> Callable[[A, B, C], R]: ...
    @overload
    def __call__(self, target: Callable[[S, list[A]], list[R]], /) -> Callable[[S, A], R]: ...
    @overload
    def __call__(self, target: Callable[[S, list[A], list[B]], list[R]], /) -> Callable[[S, A, B], R]: ...


def batched(
    *, max_batch_size: int, wait_ms: float = 5.0, size_fn: Callable[..., float] | None = None
) -> BatchedDecorator:
    """Let a function of lists be called with one item: a pod gathers the items of many calls and runs it on them.

    Stands below `@function`, or below `@method()` in a class; every argument, positional or by name, becomes a list,
    all of the same length. The function returns a list with one result for each item, in their order; an exception
    instance in an item's place is raised for that item alone.

    max_batch_size: items of one run, and the inputs that a pod holds at a time (times `concurrent`, which lets that
    many batches run side by side). wait_ms: how long the first item of a batch waits for more; a full batch runs at
    once. size_fn: the size of one item, called with its arguments; a batch's sizes add up to at most max_batch_size
    (an item that is larger runs alone).

    When the function raises, its batch is run again in halves, down to single items, so that a bad item fails alone:
    it may see an item more than once. A list of the wrong length or something else than a list is BatchMismatch for
    all of the batch. An item that is cancelled leaves the batch. One that runs over its time stops the batch; the
    others run again. `Call.timings.attempts` counts every run. In its code `deepserve.context()` is that of its first
    item. Raises InvalidOption.
    (Modal: `@modal.batched`; Ray Serve: `@serve.batch` with `batch_size_fn`.)
    """

    def decorate(target: Any) -> Any:
        name = getattr(target, "__qualname__", repr(target))
        check = _Checker(name)
        _refuse_strange_target(target, name)
        most = check.count("max_batch_size", max_batch_size, 1, None)
        wait_s = check.number("wait_ms", wait_ms, above=-1e-9) / 1e3
        if size_fn is not None and not callable(size_fn):
            raise check.error("size_fn", size_fn, "is not a function of one item")
        return _one_by_one(target, Batching(target, most, wait_s, size_fn))

    return typing.cast(BatchedDecorator, decorate)


def _refuse_strange_target(target: Any, name: str) -> None:
    if hasattr(target, "__deepserve_entry__") or hasattr(target, "__deepserve_hook__"):
        raise InvalidOption(f"{name}: @deepserve.batched stands below @deepserve.function or @deepserve.method()")
    if not inspect.isroutine(target):
        raise InvalidOption(f"@deepserve.batched takes a function of lists, not {target!r}")
    if inspect.isgeneratorfunction(target) or inspect.isasyncgenfunction(target):
        raise InvalidOption(f"{name} is a generator: a batched function returns a list, one result for each item")


def _one_by_one(target: Callable[..., Any], batching: Batching) -> Callable[..., Any]:
    """`target` for a caller with one item: here, a list of one."""
    num_bound = int(_is_method(target))

    def lists(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        bound, items = args[:num_bound], args[num_bound:]
        return [*bound, *([item] for item in items)], {name: [item] for name, item in kwargs.items()}

    if inspect.iscoroutinefunction(target):

        @functools.wraps(target)
        async def one_async(*args: Any, **kwargs: Any) -> Any:
            in_lists, by_name = lists(args, kwargs)
            return _only_result(target, await target(*in_lists, **by_name))

        one: Callable[..., Any] = one_async
    else:

        @functools.wraps(target)
        def one_sync(*args: Any, **kwargs: Any) -> Any:
            in_lists, by_name = lists(args, kwargs)
            return _only_result(target, target(*in_lists, **by_name))

        one = one_sync
    one.__annotations__ = {name: _of_one_item(hint) for name, hint in target.__annotations__.items()}
    one.__signature__ = _signature(target, num_bound)  # type: ignore[attr-defined]
    setattr(one, BATCHING_ATTRIBUTE, batching)
    return one


def _is_method(target: Callable[..., Any]) -> bool:
    """It is defined in a class body."""
    outer = target.__qualname__.rpartition(".")[0]
    return bool(outer) and not outer.endswith("<locals>")


def _only_result(target: Callable[..., Any], results: Any) -> Any:
    result = results_of(target, results, 1)[0]
    if isinstance(result, BaseException):
        raise result
    return result


def results_of(target: Callable[..., Any], results: Any, num_items: int) -> Sequence[Any]:
    """What a batched function returned. Raises BatchMismatch unless it is a list of one result for each item."""
    name = getattr(target, "__qualname__", repr(target))
    if not isinstance(results, list | tuple):
        raise BatchMismatch(
            f"{name} returned {type(results).__name__} for a batch of {num_items}: it must return a list, "
            "one result for each item in the items' order"
        )
    if len(results) != num_items:
        raise BatchMismatch(
            f"{name} returned {len(results)} results for a batch of {num_items}: it must return one for each item, "
            "in the items' order"
        )
    return results


def _signature(target: Callable[..., Any], num_bound: int) -> inspect.Signature:
    signature = inspect.signature(target)
    parameters = [
        parameter if place < num_bound else parameter.replace(annotation=_of_one_item(parameter.annotation))
        for place, parameter in enumerate(signature.parameters.values())
    ]
    return signature.replace(parameters=parameters, return_annotation=_of_one_item(signature.return_annotation))


def _of_one_item(hint: Any) -> Any:
    """`list[str]` -> `str`, also where the annotation is text; anything else says nothing of one item."""
    if hint is inspect.Parameter.empty:
        return hint
    if isinstance(hint, str):
        head, bracket, rest = hint.partition("[")
        is_list = head.rpartition(".")[2].lower() in ("list", "sequence") and rest.endswith("]")
        return rest[:-1] if bracket and is_list else "object"
    if typing.get_origin(hint) in (list, Sequence) and typing.get_args(hint):
        return typing.get_args(hint)[0]
    return object
