"""Calls as arguments: the controller puts their results in their places, without a way through the caller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepserve._call import Call


class ResultOf:
    """Stands for the result of the call that is named at this position in the request's `depends_on`."""

    __slots__ = ("position",)

    def __init__(self, position: int) -> None:
        self.position = position

    def __reduce__(self) -> Any:
        return ResultOf, (self.position,)


class Dependencies:
    """The calls among a request's arguments, each named once. Only those at the top level: a nested Call stays one.

    (Ray: top-level `ObjectRef`s are resolved before the call, nested ones are passed.)
    """

    def __init__(self) -> None:
        self._positions: dict[str, int] = {}

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(self._positions)

    def stand_in(self, call: Call[Any]) -> ResultOf:
        return ResultOf(self._positions.setdefault(call.id, len(self._positions)))


def put_in(arguments: tuple[Sequence[Any], dict[str, Any]], results: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """In the pod: (args, kwargs) with the results in their places."""

    def settle(argument: Any) -> Any:
        return results[argument.position] if type(argument) is ResultOf else argument

    args, kwargs = arguments
    return [settle(argument) for argument in args], {name: settle(argument) for name, argument in kwargs.items()}
