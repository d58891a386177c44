"""The pytest plugin: `deepserve_local` and `scripted_model`. Nothing is imported before a test asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from deepserve._model import Model
    from deepserve.testing.local_engine import LocalEngine
    from deepserve.testing.script import ScriptedModel

SCOPE_INI = "deepserve_local_scope"
NETWORK_INI = "deepserve_allow_network"
NETWORK_MARKER = "deepserve_allow_network"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(SCOPE_INI, "deepserve_local: a controller for each `test`, or one for the `session`", default="test")
    parser.addini(NETWORK_INI, "deepserve_local: let all tests use the network", type="bool", default=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{NETWORK_MARKER}: let a test with deepserve_local use the network")
    if config.getini(SCOPE_INI) not in ("test", "session"):
        raise pytest.UsageError(f"{SCOPE_INI} = {config.getini(SCOPE_INI)!r}: give test or session")


def _scope(fixture_name: str, config: pytest.Config) -> Literal["session", "function"]:
    return "session" if config.getini(SCOPE_INI) == "session" else "function"


@pytest.fixture(scope=_scope)
def _deepserve_engine(request: pytest.FixtureRequest) -> Iterator[LocalEngine]:
    from deepserve.testing.local_engine import LocalEngine

    may_use_network = bool(request.config.getini(NETWORK_INI))
    if request.scope == "function":
        may_use_network |= request.node.get_closest_marker(NETWORK_MARKER) is not None
    with LocalEngine(may_use_network=may_use_network) as engine:
        if request.scope == "session":
            engine.scripts  # noqa: B018  (a pod must know where they are, and may be started before a test has one)
        yield engine


@pytest.fixture
def deepserve_local(request: pytest.FixtureRequest, _deepserve_engine: LocalEngine) -> Iterator[LocalEngine]:
    """An embedded controller for this test (or for the session), which leaves nothing running.

    At the end of the test a call that still runs fails it; so does a process that outlives the controller.
    """
    has_marker = request.node.get_closest_marker(NETWORK_MARKER) is not None
    if has_marker and not _deepserve_engine.may_use_network:
        raise pytest.UsageError(f"{NETWORK_MARKER} marks single tests; with {SCOPE_INI} = session set {NETWORK_INI}")
    _deepserve_engine.begin_test()
    yield _deepserve_engine
    _deepserve_engine.end_test()


@pytest.fixture
def scripted_model(_deepserve_engine: LocalEngine) -> Iterator[Callable[[Model, list[Any]], ScriptedModel]]:
    """`scripted_model(llm, answers)`: `llm` says these, one for each request, in this process and in pods.

    An answer is a text, plain data (written as JSON), or `deepserve.testing.tool_call(...)`. Returns the ScriptedModel,
    which knows what was asked. One request too many is ScriptExhausted; answers that nobody asked for fail the test.
    """
    scripts = _deepserve_engine.scripts
    yield scripts.add
    scripts.end_test()
