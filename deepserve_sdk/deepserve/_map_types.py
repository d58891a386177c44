"""What type checkers see of `map` and `starmap`; `_verbs` and `_map` are what runs.

The inputs' types are found by matching the function itself against `Callable[[A, B], S]`, so that parameters with
defaults may be left out and a wrong input is an error. Calls that give `kwargs=` are not looked into.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Literal, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)


class Runs(Protocol[F_co]):
    """A verb of the function `F_co`; only its type is there."""

    @property
    def _function(self) -> F_co: ...


class OrderArguments(TypedDict, total=False):
    order_outputs: bool
    max_in_flight: int | None


class MapArguments(OrderArguments, total=False):
    return_exceptions: Literal[False]
    """Any other bool makes the results `S | Exception`: the second half of each list of overloads."""


class Map(Protocol[P, R_co]):
    """`f.map(inputs)`: run the function on every input, over as many pods as it may have. (Modal: `.map`.)"""

    @property
    def _function(self) -> Callable[P, R_co]: ...

    @overload
    def __call__(
        self: Runs[Callable[[A], S]], inputs: Iterable[A], /, **options: Unpack[MapArguments]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B], S]], first: Iterable[A], second: Iterable[B], /, **options: Unpack[MapArguments]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B, C], S]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[MapArguments],
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None, **options: Unpack[MapArguments]
    ) -> Iterator[R_co]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A], S]],
        inputs: Iterable[A],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B], S]],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B, C], S]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self,
        *inputs: Iterable[Any],
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[R_co | Exception]: ...

    @overload
    def aio(
        self: Runs[Callable[[A], S]], inputs: Iterable[A] | AsyncIterable[A], /, **options: Unpack[MapArguments]
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B], S]], first: Iterable[A], second: Iterable[B], /, **options: Unpack[MapArguments]
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B, C], S]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self,
        *inputs: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None,
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[R_co]: ...
    @overload
    def aio(
        self: Runs[Callable[[A], S]],
        inputs: Iterable[A] | AsyncIterable[A],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B], S]],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B, C], S]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self,
        *inputs: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[R_co | Exception]: ...


class StarMap(Protocol[P, R_co]):
    """`f.starmap(tuples)`: as `map`, but every input is a tuple of arguments. (Modal: `.starmap`.)"""

    @property
    def _function(self) -> Callable[P, R_co]: ...

    @overload
    def __call__(
        self: Runs[Callable[[A], S]], inputs: Iterable[tuple[A]], /, **options: Unpack[MapArguments]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B], S]], inputs: Iterable[tuple[A, B]], /, **options: Unpack[MapArguments]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B, C], S]], inputs: Iterable[tuple[A, B, C]], /, **options: Unpack[MapArguments]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Runs[Callable[..., S]],
        inputs: Iterable[tuple[Any, Any, Any, Any, *tuple[Any, ...]]],
        /,
        **options: Unpack[MapArguments],
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self, inputs: Iterable[tuple[Any, ...]], /, *, kwargs: dict[str, Any] | None, **options: Unpack[MapArguments]
    ) -> Iterator[R_co]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A], S]],
        inputs: Iterable[tuple[A]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B], S]],
        inputs: Iterable[tuple[A, B]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B, C], S]],
        inputs: Iterable[tuple[A, B, C]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Runs[Callable[..., S]],
        inputs: Iterable[tuple[Any, Any, Any, Any, *tuple[Any, ...]]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[tuple[Any, ...]],
        /,
        *,
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> Iterator[R_co | Exception]: ...

    @overload
    def aio(
        self: Runs[Callable[[A], S]],
        inputs: Iterable[tuple[A]] | AsyncIterable[tuple[A]],
        /,
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B], S]],
        inputs: Iterable[tuple[A, B]] | AsyncIterable[tuple[A, B]],
        /,
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B, C], S]],
        inputs: Iterable[tuple[A, B, C]] | AsyncIterable[tuple[A, B, C]],
        /,
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Runs[Callable[..., S]],
        inputs: Iterable[tuple[Any, Any, Any, Any, *tuple[Any, ...]]],
        /,
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self,
        inputs: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        /,
        *,
        kwargs: dict[str, Any] | None,
        **options: Unpack[MapArguments],
    ) -> AsyncIterator[R_co]: ...
    @overload
    def aio(
        self: Runs[Callable[[A], S]],
        inputs: Iterable[tuple[A]] | AsyncIterable[tuple[A]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B], S]],
        inputs: Iterable[tuple[A, B]] | AsyncIterable[tuple[A, B]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Runs[Callable[[A, B, C], S]],
        inputs: Iterable[tuple[A, B, C]] | AsyncIterable[tuple[A, B, C]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Runs[Callable[..., S]],
        inputs: Iterable[tuple[Any, Any, Any, Any, *tuple[Any, ...]]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self,
        inputs: Iterable[tuple[Any, ...]] | AsyncIterable[tuple[Any, ...]],
        /,
        *,
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderArguments],
    ) -> AsyncIterator[R_co | Exception]: ...
