"""What type checkers see of the verbs that run a function on many inputs; `_verbs` and `_map` are what runs.

The inputs' types are found by matching the function itself against `Callable[[A, B], S]`, so that parameters with
defaults may be left out and a wrong input is an error. Calls that give `kwargs=` are not looked into.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

if TYPE_CHECKING:
    from deepserve._call_group import CallGroup

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)
F_co = TypeVar("F_co", covariant=True)


class Runs(Protocol[F_co]):
    """A verb of the function `F_co`; only its type is there."""

    @property
    def _function(self) -> F_co: ...


class ForEachArguments(TypedDict, total=False):
    ignore_exceptions: bool
    max_in_flight: int | None


class MapArguments(TypedDict, total=False):
    order_outputs: bool
    return_exceptions: bool
    max_in_flight: int | None


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


class ForEach(Protocol[P, R_co]):
    """`f.for_each(inputs)`: run the function on every input and throw the results away. (Modal: `.for_each`.)"""

    @property
    def _function(self) -> Callable[P, R_co]: ...

    @overload
    def __call__(
        self: Runs[Callable[[A], object]], inputs: Iterable[A], /, **options: Unpack[ForEachArguments]
    ) -> None: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B], object]],
        first: Iterable[A],
        second: Iterable[B],
        /,
        **options: Unpack[ForEachArguments],
    ) -> None: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B, C], object]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[ForEachArguments],
    ) -> None: ...
    @overload
    def __call__(
        self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None, **options: Unpack[ForEachArguments]
    ) -> None: ...

    @overload
    async def aio(
        self: Runs[Callable[[A], object]],
        inputs: Iterable[A] | AsyncIterable[A],
        /,
        **options: Unpack[ForEachArguments],
    ) -> None: ...
    @overload
    async def aio(
        self: Runs[Callable[[A, B], object]],
        first: Iterable[A],
        second: Iterable[B],
        /,
        **options: Unpack[ForEachArguments],
    ) -> None: ...
    @overload
    async def aio(
        self: Runs[Callable[[A, B, C], object]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[ForEachArguments],
    ) -> None: ...
    @overload
    async def aio(
        self,
        *inputs: Iterable[Any] | AsyncIterable[Any],
        kwargs: dict[str, Any] | None,
        **options: Unpack[ForEachArguments],
    ) -> None: ...


class SpawnMap(Protocol[P, R]):
    """`f.spawn_map(inputs)`: hand all inputs over and go on; the results are the CallGroup's. (Modal: `.spawn_map`.)"""

    @property
    def _function(self) -> Callable[P, R]: ...

    @overload
    def __call__(self: Runs[Callable[[A], S]], inputs: Iterable[A], /) -> CallGroup[S]: ...
    @overload
    def __call__(self: Runs[Callable[[A, B], S]], first: Iterable[A], second: Iterable[B], /) -> CallGroup[S]: ...
    @overload
    def __call__(
        self: Runs[Callable[[A, B, C], S]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
    ) -> CallGroup[S]: ...
    @overload
    def __call__(self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None) -> CallGroup[R]: ...

    @overload
    async def aio(self: Runs[Callable[[A], S]], inputs: Iterable[A] | AsyncIterable[A], /) -> CallGroup[S]: ...
    @overload
    async def aio(self: Runs[Callable[[A, B], S]], first: Iterable[A], second: Iterable[B], /) -> CallGroup[S]: ...
    @overload
    async def aio(
        self: Runs[Callable[[A, B, C], S]],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
    ) -> CallGroup[S]: ...
    @overload
    async def aio(self, *inputs: Iterable[Any] | AsyncIterable[Any], kwargs: dict[str, Any] | None) -> CallGroup[R]: ...
