from __future__ import annotations

import pickle
import threading
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pytest

from deepserve import errors
from deepserve._exceptions import decode_exception, encode_exception
from deepserve.errors import RemoteError


class Boom(Exception):
    pass


class Odd(Exception):
    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")
        self.one = one


class Locked(Exception):
    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.lock = threading.Lock()


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


def caught(raiser: Any) -> BaseException:
    try:
        raiser()
    except BaseException as error:
        return error
    raise AssertionError("it did not raise")


def across(error: BaseException, **options: Any) -> BaseException:
    return decode_exception(*encode_exception(error, pod_id="pod-3"), **options)


def test_the_type_the_text_and_the_frames_arrive() -> None:
    def inner() -> None:
        raise Boom("inside")

    arrived = across(caught(inner), note="raised in call rq-1 on pod pod-3")
    assert type(arrived) is Boom
    try:
        raise arrived
    except Boom as error:
        text = traceback.format_exc()
        assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1] == "inner"
    assert 'raise Boom("inside")' in text
    assert text.rstrip().endswith("raised in call rq-1 on pod pod-3")
    assert "^^^" not in text.split("in inner")[1]


def test_causes_and_contexts_are_kept() -> None:
    def chained() -> None:
        try:
            {}["missing"]  # type: ignore[index]
        except KeyError as error:
            raise Boom("outer") from error

    def implicit() -> None:
        try:
            {}["missing"]  # type: ignore[index]
        except KeyError:
            raise Boom("outer")  # noqa: B904

    arrived = across(caught(chained))
    assert isinstance(arrived.__cause__, KeyError) and arrived.__suppress_context__
    assert "direct cause" in "".join(traceback.format_exception(arrived))
    arrived = across(caught(implicit))
    assert isinstance(arrived.__context__, KeyError) and arrived.__cause__ is None


def test_an_init_of_other_arguments_does_not_hide_the_type() -> None:
    error = Odd(1, 2)
    error.add_note("seen twice")
    arrived = across(error)
    assert type(arrived) is Odd
    assert (str(arrived), arrived.one, arrived.args) == ("1 and 2", 1, ("1 and 2",))
    assert arrived.__notes__ == ["seen twice"]


def test_what_does_not_survive_pickling_arrives_as_text() -> None:
    arrived = across(caught(lambda: (_ for _ in ()).throw(Locked("held"))))
    assert isinstance(arrived, RemoteError)
    assert str(arrived).endswith("Locked: held")
    assert arrived.type_name.endswith("test_exceptions.Locked")
    assert "Locked: held" in arrived.remote_traceback
    assert isinstance(across(Mute()), RemoteError)


def test_text_that_is_no_utf_8_is_written_out() -> None:
    assert str(across(Boom("file \udcff"))) == "file \udcff"
    arrived = across(Locked("file \udcff"))
    assert "file \\udcff" in str(arrived)


@pytest.mark.parametrize("kind", [StopIteration, StopAsyncIteration, GeneratorExit, SystemExit, KeyboardInterrupt])
def test_exceptions_that_steer_loops_and_processes_arrive_wrapped(kind: type[BaseException]) -> None:
    arrived = across(kind(3))
    assert isinstance(arrived, RemoteError) and arrived.type_name == kind.__name__


def test_an_exception_class_by_value_arrives_as_itself() -> None:
    class Local(Exception):
        pass

    assert type(across(Local("x"))) is Local


def test_notes_of_the_user_are_kept_once() -> None:
    error = Boom("x")
    error.add_note("the user's own")
    assert across(error, note="ours").__notes__ == ["the user's own", "ours"]


def test_files_of_the_pod_get_their_names_here(tmp_path: Path) -> None:
    code = compile("def f():\n    raise ValueError(1)\n", "/bundles/abc/app.py", "exec")
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    (tmp_path / "app.py").write_text("def f():\n    raise ValueError(1)\n")
    arrived = across(caught(namespace["f"]), roots={"/bundles/abc": str(tmp_path)})
    frame = traceback.extract_tb(arrived.__traceback__)[-1]
    assert (frame.filename, frame.lineno, frame.line) == (str(tmp_path / "app.py"), 2, "raise ValueError(1)")


def test_deep_recursion_is_shortened() -> None:
    def deep() -> None:
        deep()

    value, payload = encode_exception(caught(deep))
    assert len(payload) < 100_000
    assert isinstance(decode_exception(value, payload), RecursionError)


def test_the_summary_is_readable_without_loading_anything() -> None:
    summary = msgspec.msgpack.decode(encode_exception(caught(lambda: 1 / 0), pod_id="pod-3")[1])
    assert (summary["type"], summary["message"], summary["pod_id"]) == (
        "ZeroDivisionError",
        "division by zero",
        "pod-3",
    )
    assert "ZeroDivisionError" in summary["traceback"]


def test_garbage_is_a_remote_error() -> None:
    assert isinstance(decode_exception(encode_exception(Boom())[0], b"\xc1garbage"), RemoteError)


def test_every_error_of_the_tree_pickles() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
    assert len(kinds) > 25
    for kind in kinds:
        back = pickle.loads(pickle.dumps(kind("text")))
        assert type(back) is kind and str(back) == "text"
    lost = pickle.loads(pickle.dumps(errors.PodLost("gone", exit_code=-9)))
    assert (lost.exit_code, lost.signal_name) == (-9, "SIGKILL")
    truncated = pickle.loads(pickle.dumps(errors.OutputTruncated("cut", text="{")))
    assert truncated.text == "{"
