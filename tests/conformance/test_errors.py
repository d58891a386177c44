"""Each kind of error, in words that name the cause; and the next call works."""

from __future__ import annotations

import ast
import inspect
import pickle
import threading
import traceback
from collections.abc import Iterator

import msgspec
import pytest

import deepserve
from deepserve import errors
from deepserve._current_client import current_client
from deepserve.protocol.messages import Value
from tests.conformance import user_code
from tests.conformance.user_code import Boom, square


@pytest.fixture(autouse=True)
def next_call_works() -> Iterator[None]:
    yield
    assert square.remote(7) == 49


def test_an_exception_arrives_as_itself_with_its_frames() -> None:
    with pytest.raises(Boom, match="so it is") as caught:
        user_code.raises.remote("so it is")
    assert isinstance(caught.value.__cause__, KeyError)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "raises" and frames[-1].filename == user_code.__file__
    assert frames[-1].line == "raise Boom(text) from error"
    assert "raised in call rq-" in caught.value.__notes__[0]


def test_a_group_of_exceptions() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        user_code.raises_kind.remote("group")
    assert [type(error) for error in caught.value.exceptions] == [ValueError, Boom]


@pytest.mark.parametrize("kind", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "StopIteration"])
def test_what_would_end_the_caller_arrives_wrapped(kind: str) -> None:
    with pytest.raises(deepserve.RemoteError, match=kind) as caught:
        user_code.raises_kind.remote(kind)
    assert caught.value.type_name.endswith(kind)


def test_a_type_that_cannot_be_rebuilt_arrives_as_its_text() -> None:
    with pytest.raises(deepserve.RemoteError, match="Picky: only there") as caught:
        user_code.raises_kind.remote("picky")
    assert "raises_kind" in caught.value.remote_traceback


@pytest.mark.parametrize(("how", "exit_code", "signal_name"), [("exit", 3, ""), ("kill", -9, "SIGKILL")])
def test_pod_lost(how: str, exit_code: int, signal_name: str) -> None:
    with pytest.raises(deepserve.PodLost) as caught:
        user_code.ends.remote(how)
    assert (caught.value.exit_code, caught.value.signal_name) == (exit_code, signal_name)


def test_function_timeout() -> None:
    with pytest.raises(deepserve.FunctionTimeout, match="0.3 s") as caught:
        user_code.over_time.remote()
    assert caught.value.clock == "run" and not isinstance(caught.value, TimeoutError)


def test_startup_failed() -> None:
    with pytest.raises(deepserve.StartupFailed, match="no weights") as caught:
        user_code.Broken().run.remote()
    assert isinstance(caught.value.__cause__, Boom)


def test_unpicklable_argument() -> None:
    lock = threading.Lock()
    with pytest.raises(deepserve.UnpicklableArgument, match=r"argument `value` \(threading.Lock\) of `echo`"):
        user_code.echo.remote(lock)
    with pytest.raises(deepserve.UnpicklableArgument, match=r"`lock` \(threading.Lock\), captured by .*<lambda>` at"):
        user_code.echo.remote(lambda: lock)


def test_unpicklable_function() -> None:
    lock = threading.Lock()
    with pytest.raises(deepserve.UnpicklableFunction, match="lock"):
        deepserve.function(lambda: lock).remote()


def test_unpicklable_result() -> None:
    with pytest.raises(deepserve.UnpicklableResult, match=r"item 'inside' \(threading.Lock\)"):
        user_code.gives_a_lock.remote()


def test_value_too_large() -> None:
    from deepserve import settings

    before = settings.current_settings()
    settings.use_settings(before._replace(max_value_bytes=1 << 20))
    try:
        with pytest.raises(deepserve.ValueTooLarge, match="the limit is 1,048,576"):
            user_code.echo.remote(bytes(2 << 20))
        with pytest.raises(deepserve.ValueTooLarge):
            deepserve.put(bytes(2 << 20))
    finally:
        settings.use_settings(before)


def test_serialization_error_for_what_is_gone() -> None:
    ref = deepserve.put("x")
    ref.delete()
    with pytest.raises(deepserve.SerializationError):
        ref.get()


def test_python_version_mismatch_before_a_byte_is_unpickled() -> None:
    """As a client of another version would send it."""
    payload = pickle.dumps(((3,), {}))
    client, definition = current_client(), square.definition
    inbox = client.open_request(definition, "call", Value("pickle", len(payload), python="3.8"), payload)
    while not inbox.is_over:
        client.waiting.for_news(inbox, 60)
    with pytest.raises(deepserve.PythonVersionMismatch, match=r"3\.8"):
        client.values.result(inbox, "square")


def test_batch_mismatch() -> None:
    with pytest.raises(deepserve.BatchMismatch):
        user_code.miscounts.remote("x")


def test_recursion_too_deep() -> None:
    with pytest.raises(deepserve.RecursionTooDeep, match="conformance/endless"):
        user_code.endless.remote(0)


def test_invalid_option() -> None:
    with pytest.raises(deepserve.InvalidOption, match="square.*timeout"):
        square.with_options(timeout=-1)


def test_not_found() -> None:
    with pytest.raises(deepserve.NotFound, match="no-such-app"):
        deepserve.Function.from_name("no-such-app", "f")


def test_not_found_for_a_call_that_is_unknown() -> None:
    with pytest.raises(deepserve.NotFound, match="unknown request"):
        deepserve.Call.from_id("rq-nobody-1").get(timeout=60)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(TypeError):
        square.remote()  # type: ignore[call-arg]


def test_every_error_pickles_with_what_it_carries() -> None:
    """They cross processes themselves, when calls are made inside pods."""
    names = [node.name for node in ast.walk(ast.parse(inspect.getsource(errors))) if isinstance(node, ast.ClassDef)]
    for name in names:
        error = getattr(errors, name)("text")
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and again.args == error.args
    assert msgspec.to_builtins(names)
