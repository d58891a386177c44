"""What type checkers see of `for_each` and `spawn_map`, as in `_map_types`; `_verbs` and `_map` are what runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from deepserve._map_types import AnyIterable, One, Three, Two

if TYPE_CHECKING:
    from deepserve._call_group import CallGroup

P = ParamSpec("P")
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
R = TypeVar("R")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class ForEachOptions(TypedDict, total=False):
    ignore_exceptions: bool
    max_in_flight: int | None


class ForEach(Protocol[P, R_co]):
    """`f.for_each(inputs)`: run the function on every input and throw the results away. (Modal: `.for_each`.)"""

    @property
    def _function(self) -> Callable[P, R_co]: ...

    @overload
    def __call__(self: One[A, object], inputs: Iterable[A], /, **options: Unpack[ForEachOptions]) -> None: ...
    @overload
    def __call__(
        self: Two[A, B, object], first: Iterable[A], second: Iterable[B], /, **options: Unpack[ForEachOptions]
    ) -> None: ...
    @overload
    def __call__(
        self: Three[A, B, C, object],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[ForEachOptions],
    ) -> None: ...
    @overload
    def __call__(
        self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None, **options: Unpack[ForEachOptions]
    ) -> None: ...

    @overload
    async def aio(self: One[A, object], inputs: AnyIterable[A], /, **options: Unpack[ForEachOptions]) -> None: ...
    @overload
    async def aio(
        self: Two[A, B, object], first: Iterable[A], second: Iterable[B], /, **options: Unpack[ForEachOptions]
    ) -> None: ...
    @overload
    async def aio(
        self: Three[A, B, C, object],
        first: Iterable[A],
        second: Iterable[B],
        third: Iterable[C],
        /,
        *others: Iterable[Any],
        **options: Unpack[ForEachOptions],
    ) -> None: ...
    @overload
    async def aio(
        self, *inputs: AnyIterable[Any], kwargs: dict[str, Any] | None, **options: Unpack[ForEachOptions]
    ) -> None: ...


class SpawnMap(Protocol[P, R]):
    """`f.spawn_map(inputs)`: hand all inputs over and go on; the results are the CallGroup's. (Modal: `.spawn_map`.)"""

    @property
    def _function(self) -> Callable[P, R]: ...

    @overload
    def __call__(self: One[A, S], inputs: Iterable[A], /) -> CallGroup[S]: ...
    @overload
    def __call__(self: Two[A, B, S], first: Iterable[A], second: Iterable[B], /) -> CallGroup[S]: ...
    @overload
    def __call__(
        self: Three[A, B, C, S], first: Iterable[A], second: Iterable[B], third: Iterable[C], /, *others: Iterable[Any]
    ) -> CallGroup[S]: ...
    @overload
    def __call__(self, *inputs: Iterable[Any], kwargs: dict[str, Any] | None) -> CallGroup[R]: ...

    @overload
    async def aio(self: One[A, S], inputs: AnyIterable[A], /) -> CallGroup[S]: ...
    @overload
    async def aio(self: Two[A, B, S], first: Iterable[A], second: Iterable[B], /) -> CallGroup[S]: ...
    @overload
    async def aio(
        self: Three[A, B, C, S], first: Iterable[A], second: Iterable[B], third: Iterable[C], /, *others: Iterable[Any]
    ) -> CallGroup[S]: ...
    @overload
    async def aio(self, *inputs: AnyIterable[Any], kwargs: dict[str, Any] | None) -> CallGroup[R]: ...
