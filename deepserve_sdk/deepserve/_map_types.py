"""What type checkers see of `map` and `starmap`; `_verbs` and `_map` are what runs.

The inputs' types are found by matching the function itself against `Callable[[A, B], S]`, so that parameters with
defaults may be left out and a wrong input is an error. Calls that give `kwargs=` are not looked into.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import Any, Literal, ParamSpec, Protocol, TypeAlias, TypedDict, TypeVar, Unpack, overload

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


One: TypeAlias = Runs[Callable[[A], S]]
Two: TypeAlias = Runs[Callable[[A, B], S]]
Three: TypeAlias = Runs[Callable[[A, B, C], S]]
Many: TypeAlias = Runs[Callable[..., S]]
"""By the number of parameters that are given inputs."""
FourOrMore: TypeAlias = tuple[Any, Any, Any, Any, *tuple[Any, ...]]
AnyIterable: TypeAlias = Iterable[A] | AsyncIterable[A]


class OrderOptions(TypedDict, total=False):
    order_outputs: bool
    max_in_flight: int | None


class MapOptions(OrderOptions, total=False):
    return_exceptions: Literal[False]
    """Any other bool makes the results `S | Exception`: the second half of each list of overloads."""


class Map(Protocol[P, R_co]):
    """`f.map(inputs)`: run the function on every input, over as many pods as it may have. (Modal: `.map`.)"""

    @property
    def _function(self) -> Callable[P, R_co]: ...

    @overload
    def __call__(self: One[A, S], inputs: Iterable[A], /, **options: Unpack[MapOptions]) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Two[A, B, S], first: Iterable[A], second: Iterable[B], /, **options: Unpack[MapOptions]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Three[A, B, C, S],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[MapOptions],
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None, **options: Unpack[MapOptions]
    ) -> Iterator[R_co]: ...
    @overload
    def __call__(
        self: One[A, S], inputs: Iterable[A], /, *, return_exceptions: bool, **options: Unpack[OrderOptions]
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Two[A, B, S],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Three[A, B, C, S],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self,
        *inputs: Iterable[Any],
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> Iterator[R_co | Exception]: ...

    @overload
    def aio(self: One[A, S], inputs: AnyIterable[A], /, **options: Unpack[MapOptions]) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Two[A, B, S], first: Iterable[A], second: Iterable[B], /, **options: Unpack[MapOptions]
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Three[A, B, C, S],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[MapOptions],
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self, *inputs: AnyIterable[Any], kwargs: dict[str, Any] | None, **options: Unpack[MapOptions]
    ) -> AsyncIterator[R_co]: ...
    @overload
    def aio(
        self: One[A, S], inputs: AnyIterable[A], /, *, return_exceptions: bool, **options: Unpack[OrderOptions]
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Two[A, B, S],
        first: Iterable[A],
        second: Iterable[B],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Three[A, B, C, S],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self,
        *inputs: AnyIterable[Any],
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> AsyncIterator[R_co | Exception]: ...


class StarMap(Protocol[P, R_co]):
    """`f.starmap(tuples)`: as `map`, but every input is a tuple of arguments. (Modal: `.starmap`.)"""

    @property
    def _function(self) -> Callable[P, R_co]: ...

    @overload
    def __call__(self: One[A, S], inputs: Iterable[tuple[A]], /, **options: Unpack[MapOptions]) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Two[A, B, S], inputs: Iterable[tuple[A, B]], /, **options: Unpack[MapOptions]
    ) -> Iterator[S]: ...
    @overload
    def __call__(
        self: Three[A, B, C, S], inputs: Iterable[tuple[A, B, C]], /, **options: Unpack[MapOptions]
    ) -> Iterator[S]: ...
    @overload
    def __call__(self: Many[S], inputs: Iterable[FourOrMore], /, **options: Unpack[MapOptions]) -> Iterator[S]: ...
    @overload
    def __call__(
        self, inputs: Iterable[tuple[Any, ...]], /, *, kwargs: dict[str, Any] | None, **options: Unpack[MapOptions]
    ) -> Iterator[R_co]: ...
    @overload
    def __call__(
        self: One[A, S], inputs: Iterable[tuple[A]], /, *, return_exceptions: bool, **options: Unpack[OrderOptions]
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Two[A, B, S],
        inputs: Iterable[tuple[A, B]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Three[A, B, C, S],
        inputs: Iterable[tuple[A, B, C]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self: Many[S], inputs: Iterable[FourOrMore], /, *, return_exceptions: bool, **options: Unpack[OrderOptions]
    ) -> Iterator[S | Exception]: ...
    @overload
    def __call__(
        self,
        inputs: Iterable[tuple[Any, ...]],
        /,
        *,
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> Iterator[R_co | Exception]: ...

    @overload
    def aio(self: One[A, S], inputs: AnyIterable[tuple[A]], /, **options: Unpack[MapOptions]) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Two[A, B, S], inputs: AnyIterable[tuple[A, B]], /, **options: Unpack[MapOptions]
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self: Three[A, B, C, S], inputs: AnyIterable[tuple[A, B, C]], /, **options: Unpack[MapOptions]
    ) -> AsyncIterator[S]: ...
    @overload
    def aio(self: Many[S], inputs: Iterable[FourOrMore], /, **options: Unpack[MapOptions]) -> AsyncIterator[S]: ...
    @overload
    def aio(
        self, inputs: AnyIterable[tuple[Any, ...]], /, *, kwargs: dict[str, Any] | None, **options: Unpack[MapOptions]
    ) -> AsyncIterator[R_co]: ...
    @overload
    def aio(
        self: One[A, S], inputs: AnyIterable[tuple[A]], /, *, return_exceptions: bool, **options: Unpack[OrderOptions]
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Two[A, B, S],
        inputs: AnyIterable[tuple[A, B]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Three[A, B, C, S],
        inputs: AnyIterable[tuple[A, B, C]],
        /,
        *,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self: Many[S], inputs: Iterable[FourOrMore], /, *, return_exceptions: bool, **options: Unpack[OrderOptions]
    ) -> AsyncIterator[S | Exception]: ...
    @overload
    def aio(
        self,
        inputs: AnyIterable[tuple[Any, ...]],
        /,
        *,
        kwargs: dict[str, Any] | None,
        return_exceptions: bool,
        **options: Unpack[OrderOptions],
    ) -> AsyncIterator[R_co | Exception]: ...
