"""Bad input: each a clear error, and the next call works."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator

import pytest

import deepserve
from tests.integration.functions import user_code
from tests.integration.functions.user_code import Boom, square
from tests.waiting import wait_for


@pytest.fixture(autouse=True)
def next_call_works() -> Iterator[None]:
    yield
    assert square.remote(7) == 49


def test_an_argument_that_cannot_be_pickled() -> None:
    lock = threading.Lock()
    with pytest.raises(deepserve.UnpicklableArgument, match=r"argument `value` \(threading.Lock\) of `echo`"):
        user_code.echo.remote(lock)
    with pytest.raises(deepserve.UnpicklableArgument, match=r"`lock` \(threading.Lock\), captured by .*<lambda>` at"):
        user_code.echo.remote(lambda: lock)


def test_a_function_that_raises() -> None:
    with pytest.raises(Boom, match="so it is") as caught:
        user_code.raises.remote("so it is")
    assert isinstance(caught.value.__cause__, KeyError)
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert frames[-1].name == "raises" and frames[-1].filename == user_code.__file__
    assert frames[-1].line == "raise Boom(text) from error"
    assert "raised in call rq-" in caught.value.__notes__[0]


@pytest.mark.parametrize(("how", "exit_code", "signal_name"), [("exit", 3, ""), ("kill", -9, "SIGKILL")])
def test_a_pod_that_dies(how: str, exit_code: int, signal_name: str) -> None:
    with pytest.raises(deepserve.PodLost) as caught:
        user_code.ends.remote(how)
    assert (caught.value.exit_code, caught.value.signal_name) == (exit_code, signal_name)


def test_sys_exit_arrives_wrapped() -> None:
    with pytest.raises(deepserve.RemoteError, match="SystemExit: 4"):
        user_code.ends.remote("sys.exit")


def test_a_function_over_its_timeout() -> None:
    with pytest.raises(deepserve.FunctionTimeout, match="0.5 s") as caught:
        user_code.sleeps.remote(600)
    assert not isinstance(caught.value, TimeoutError)


def test_a_result_that_cannot_be_pickled() -> None:
    with pytest.raises(deepserve.UnpicklableResult, match=r"item 'inside' \(threading.Lock\)"):
        user_code.gives_a_lock.remote()


def test_megabytes_of_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert user_code.prints.remote(30_000) == 30_000
    text = ""

    def has_come() -> bool:
        nonlocal text
        text += capsys.readouterr().out
        return "line 29999" in text

    wait_for(has_come)
    assert "line 0 x" in text


def test_an_exception_in_a_map_names_its_input() -> None:
    with pytest.raises(TypeError) as caught:
        list(square.map([1, 2, "three", 4]))
    assert caught.value.input_index == 2  # type: ignore[attr-defined]


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        square.remote(y=3)  # type: ignore[call-arg]


def test_a_value_above_the_limit() -> None:
    from deepserve import settings

    before = settings.current_settings()
    settings.use_settings(before._replace(max_value_bytes=1 << 20))
    try:
        with pytest.raises(deepserve.ValueTooLarge, match="the limit is 1,048,576"):
            user_code.echo.remote(bytes(2 << 20))
    finally:
        settings.use_settings(before)


def test_a_function_that_cannot_be_imported_in_a_pod() -> None:
    def only_here() -> None: ...

    only_here.__qualname__ = "only_here"
    user_code.only_here = deepserve.function(only_here)  # type: ignore[attr-defined]
    user_code.only_here.__module__ = only_here.__module__ = user_code.__name__  # type: ignore[attr-defined]
    with pytest.raises(deepserve.StartupFailed, match="only_here"):
        user_code.only_here.remote()  # type: ignore[attr-defined]


def test_no_such_deployed_function() -> None:
    hint = "this is an embedded controller.*`deepserve model deploy` on one that `deepserve up` starts"
    with pytest.raises(deepserve.NotFound, match=f"no app 'no-such-app' is deployed.*{hint}"):
        deepserve.Function.from_name("no-such-app", "f")
    with pytest.raises(deepserve.NotFound, match=f"no model 'no-such-model' is deployed.*{hint}"):
        deepserve.Model.from_name("no-such-model")


def test_a_call_that_never_was_is_not_found() -> None:
    with pytest.raises(deepserve.NotFound, match="unknown request: there never was one, or its result is kept no"):
        deepserve.Call.from_id("rq-nobody-1").get(timeout=60)


def test_what_is_no_id_offset_or_time_is_refused_here_and_harms_no_other_call() -> None:
    running = user_code.sleeps_long.spawn(60)
    stream = user_code.tokens.spawn(3)
    for wrong in (
        lambda: deepserve.Call.from_id(5),  # type: ignore[arg-type]
        lambda: list(stream.stream(from_offset=-1)),
        lambda: list(stream.stream(from_offset="2")),  # type: ignore[call-overload]
        lambda: deepserve.put(1, ttl=-1),
        lambda: list(square.map([1], max_in_flight=0.5)),  # type: ignore[arg-type]
    ):
        with pytest.raises((TypeError, ValueError)):
            wrong()
    assert list(stream.stream()) == ["t0", "t1", "t2"]
    assert running.status() == "pending"
    running.cancel()
    with pytest.raises(deepserve.CallCancelled):
        running.get(timeout=60)
