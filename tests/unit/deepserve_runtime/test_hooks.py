from __future__ import annotations

from typing import Any

import pytest

from deepserve._entry import HOOK_ATTRIBUTE
from deepserve._values import encode_value
from deepserve_runtime.coroutines import CoroutineThread
from deepserve_runtime.hooks import ClassHooks

seen: list[str] = []


def hook(kind: str) -> Any:
    def mark(function: Any) -> Any:
        setattr(function, HOOK_ATTRIBUTE, kind)
        return function

    return mark


class Base:
    @hook("enter")
    def first(self) -> None:
        seen.append("first of base")

    @hook("enter")
    def replaced(self) -> None:
        seen.append("never")


class Service(Base):
    def __init__(self, name: str = "none") -> None:
        self.name = name

    @hook("enter")
    async def last(self) -> None:
        seen.append(f"last, {self.name}")

    @hook("enter")
    def replaced(self) -> None:
        seen.append("replaced")

    @hook("method")
    def ask(self) -> str:
        return self.name

    def plain(self) -> None:
        pass

    @hook("exit")
    def leave(self) -> None:
        seen.append("exit")


def test_hooks_run_in_the_order_of_their_definition_base_first() -> None:
    seen.clear()
    _, params = encode_value({"name": "x"})
    hooks = ClassHooks(Service, params, CoroutineThread().wait_for)
    hooks.enter(snap=False)
    assert seen == ["first of base", "replaced", "last, x"]
    assert hooks.method("ask")() == "x"
    hooks.exit()
    assert seen[-1] == "exit"


@pytest.mark.parametrize("name", ["plain", "first", "missing", "__init__", "name"])
def test_only_methods_can_be_called_from_outside(name: str) -> None:
    with pytest.raises(AttributeError, match=name):
        ClassHooks(Service, b"", CoroutineThread().wait_for).method(name)
