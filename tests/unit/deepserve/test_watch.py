"""Code that travels by value is dumped again when what it names is another object."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

import pytest

import deepserve
from deepserve._entry import Entry
from deepserve._watch import Watch


@pytest.fixture(autouse=True)
def a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """`__main__` is no file, as in a REPL; here it is pytest's, which may lie among the installed packages."""
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))


def in_session(text: str, session: dict[str, Any] | None = None) -> dict[str, Any]:
    """Names of a session in which `text` was typed."""
    session = session if session is not None else {"__name__": "__main__", "deepserve": deepserve}
    exec(text, session)
    return session


def watch(session: dict[str, Any], name: str = "f") -> Watch:
    return Watch(Entry(session[name]))


def test_names_are_compared_by_identity() -> None:
    session = in_session("K = 1\ndef f(x): return [x + K + y.append for y in range(3)] or len(later)")
    watched = watch(session)
    assert not watched.has_changed()
    session["other"] = session["append"] = 3
    assert not watched.has_changed()
    session["K"] = 2
    assert watched.has_changed()
    watched = watch(session)
    session["later"] = []
    assert watched.has_changed()  # it did not exist, and is named
    watched = watch(session)
    del session["K"]
    assert watched.has_changed()


def test_what_is_reached_counts() -> None:
    session = in_session(
        "K = 1\ndef deep(): return K\ndef helper(): return deep()\n"
        "def f():\n    def inner(): return helper()\n    return inner()\n"
        "class C:\n    def m(self): return helper()\n"
    )
    for name in ("f", "C"):
        for changed, value in (("K", object()), ("deep", session["deep"].__class__)):
            watched, before = watch(session, name), session[changed]
            assert not watched.has_changed()
            session[changed] = value
            assert watched.has_changed(), (name, changed)
            session[changed] = before
            assert not watched.has_changed()


def test_closure_variables() -> None:
    def make() -> tuple[Callable[[], int], Callable[[int], None]]:
        held = 1

        def read() -> int:
            return held

        def write(value: int) -> None:
            nonlocal held
            held = value

        return read, write

    read, write = make()
    watched = Watch(Entry(read))
    assert not watched.has_changed()
    write(70_000)
    assert watched.has_changed()


def test_a_decorated_function_is_looked_through() -> None:
    session = in_session(
        "K = 1\n@deepserve.function\ndef g(): return K\n"
        "@deepserve.function\n@deepserve.batched(max_batch_size=2)\ndef f(xs): return [g.remote() for x in xs]\n"
        "@deepserve.cls\nclass C:\n"
        "    @deepserve.enter()\n    def load(self): self.k = K\n"
        "    @deepserve.method()\n    def m(self): return K\n"
    )
    for name in ("f", "g", "C"):
        watched = watch(session, name)
        assert not watched.has_changed()
        session["K"] += 1
        assert watched.has_changed(), name


def test_the_next_call_takes_what_is_there_then() -> None:
    session = in_session(
        "K = 1\n@deepserve.function\ndef f(x): return x + K\n@deepserve.function\ndef g(x): return x\n"
    )
    f, g = session["f"], session["g"]

    def pickled(function: Any) -> tuple[str, FunctionType]:
        definition = function.definition
        assert definition.bundle is not None
        return definition.function_id, pickle.loads(definition.bundle.content)[definition.spec.code.qualname].target

    first, others = pickled(f)[0], pickled(g)[0]
    assert pickled(f)[0] == first
    session["K"] = 10
    second, target = pickled(f)
    assert second != first and target(1) == 11
    assert pickled(g)[0] == others  # nothing that it names has changed
    assert pickled(f)[0] == second
