"""What `inspect` says of functions is said here, too."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import deepserve
from deepserve._code_kind import is_async_generator_function, is_coroutine_function, is_generator_function


def plain() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def coroutine() -> None: ...


async def async_generator() -> AsyncIterator[int]:
    yield 1


class Methods:
    def plain(self) -> None: ...

    async def coroutine(self) -> None: ...

    def generator(self) -> Iterator[int]:
        yield 1

    def __call__(self) -> None: ...


@deepserve.cls
class Decorated:
    @deepserve.method()
    async def later(self) -> int:
        return 1


CALLABLES: list[Callable[..., Any]] = [
    plain,
    generator,
    coroutine,
    async_generator,
    Methods().plain,
    Methods().coroutine,
    Methods().generator,
    Methods.generator,
    Methods,
    Methods(),
    functools.partial(coroutine),
    functools.partial(functools.partial(Methods().generator)),
    len,
    lambda: (yield),
    Decorated().later,
]


@pytest.mark.parametrize("target", CALLABLES, ids=[f"kind {number}" for number in range(len(CALLABLES))])
def test_kinds(target: Callable[..., Any]) -> None:
    assert is_generator_function(target) == inspect.isgeneratorfunction(target)
    assert is_coroutine_function(target) == inspect.iscoroutinefunction(target)
    assert is_async_generator_function(target) == inspect.isasyncgenfunction(target)
