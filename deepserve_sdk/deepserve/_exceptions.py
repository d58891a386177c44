"""Exceptions to bytes and back: always a readable summary, and the object itself where it survives the way.

The remote frames are grafted into the traceback of the exception that arrives, so that `traceback.print_exc` shows
where the code failed in the pod.
"""

from __future__ import annotations

import os
import pickle
import types
from typing import Any

import msgspec

from deepserve import _pickling
from deepserve._pickling import PYTHON
from deepserve._ref_holds import carried, take_carried
from deepserve.errors import RemoteError
from deepserve.protocol.framing import Buffer
from deepserve.protocol.messages import Value

MAX_FRAMES = 100
MAX_CHAIN = 16
MAX_TEXT = 64 << 10
_WRAPPED = (StopIteration, StopAsyncIteration)
"""Exceptions that would end the caller's own loop silently; what is no Exception is wrapped too."""
_OWN_FOLDERS = (os.path.dirname(__file__) + os.sep, os.sep + "deepserve_runtime" + os.sep)


class FrameSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    file: str
    line_number: int
    function: str
    line: str = ""


class ExceptionSummary(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an `exception` payload is, as MessagePack. pickle: the object, empty where it would not survive."""

    type: str
    message: str
    traceback: str = ""
    frames: list[FrameSummary] = []
    notes: list[str] = []
    pickle: bytes = b""
    python: str = ""
    pod_id: str = ""
    cause: ExceptionSummary | None = None
    context: ExceptionSummary | None = None
    suppress_context: bool = False


def encode_exception(exc: BaseException, *, pod_id: str = "") -> tuple[Value, bytes]:
    """Never raises for a strange exception: what cannot be read from it is left out."""
    carried.holds = None
    payload = msgspec.msgpack.encode(_summarise(exc, pod_id, MAX_CHAIN))
    refs = take_carried() if carried.holds is not None else ()
    return Value("exception", len(payload), refs=refs), payload


def decode_exception(
    value: Value, payload: Buffer, *, note: str = "", roots: dict[str, str] | None = None
) -> BaseException:
    """The exception to raise here: its own type with the remote frames, or RemoteError with the text.

    note: appended to its notes. roots: folders of the pod's files and what they are called here.
    """
    try:
        summary = msgspec.msgpack.decode(payload, type=ExceptionSummary)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        return RemoteError(f"the pod sent an exception that cannot be read: {error}")
    exc = _rebuild(summary, roots or {})
    if note:
        exc.add_note(note)
    return exc


# --- in the pod ------------------------------------------------------------------------------------


def _summarise(exc: BaseException, pod_id: str, depth: int) -> ExceptionSummary:
    pickled, python = _pickle_exception(exc)
    return ExceptionSummary(
        type=_type_name(type(exc)),
        message=_sendable(_text_of(exc)),
        traceback=_sendable(_formatted(exc)),
        frames=_frames_of(exc),
        notes=[_sendable(str(note)) for note in getattr(exc, "__notes__", ())],
        pickle=pickled,
        python=python,
        pod_id=pod_id,
        cause=_summarise(exc.__cause__, pod_id, depth - 1) if exc.__cause__ and depth else None,
        context=_summarise(exc.__context__, pod_id, depth - 1)
        if exc.__context__ and exc.__context__ is not exc.__cause__ and not exc.__suppress_context__ and depth
        else None,
        suppress_context=exc.__suppress_context__,
    )


def _pickle_exception(exc: BaseException) -> tuple[bytes, str]:
    """The exception's pickle if loading it here gives the same type and text, else empty.

    An exception whose __init__ takes other arguments than it hands to Exception's cannot be pickled by itself, common
    as it is: it goes as its class, `args` and attributes, and comes back without its __init__.
    """
    if isinstance(exc, _WRAPPED) or not isinstance(exc, Exception):
        return b"", ""
    for form in (exc, _Parts(exc)):
        try:
            pickled = _pickling.dump(form)
            data = b"".join(pickled.data)
            back = pickle.loads(data) if not pickled.buffers else None
            if _type_name(type(back)) == _type_name(type(exc)) and str(back) == str(exc):
                return data, PYTHON if pickled.by_value else ""
        except Exception:  # an __init__, __reduce__ or __str__ of the user's that fails: the text still travels
            pass
    return b"", ""


class _Parts:
    """Pickles as a call that puts the exception together again."""

    def __init__(self, exc: Exception) -> None:
        self._parts = (type(exc), exc.args, vars(exc))

    def __reduce__(self) -> tuple[Any, ...]:
        return from_parts, self._parts


def from_parts(cls: type[Exception], args: tuple[Any, ...], state: dict[str, Any]) -> Exception:
    exc = cls.__new__(cls, *args)
    exc.args = args
    vars(exc).update(state)
    return exc


def _sendable(text: str) -> str:
    """MessagePack holds UTF-8 only: half a surrogate (a file name of another encoding) is written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _frames_of(exc: BaseException) -> list[FrameSummary]:
    import traceback

    frames = traceback.extract_tb(user_part(exc.__traceback__))
    if len(frames) > MAX_FRAMES:
        frames = traceback.StackSummary.from_list([*frames[: MAX_FRAMES // 2], *frames[-MAX_FRAMES // 2 :]])
    return [FrameSummary(_sendable(f.filename), f.lineno or 1, f.name, _sendable(f.line or "")) for f in frames]


def user_part(tb: types.TracebackType | None) -> types.TracebackType | None:
    """`tb` without the pod's own frames at its start; all of it where it has no others."""
    part = tb
    while part is not None and any(own in part.tb_frame.f_code.co_filename for own in _OWN_FOLDERS):
        part = part.tb_next
    return part or tb


def _formatted(exc: BaseException) -> str:
    import traceback

    try:
        lines = traceback.format_exception(type(exc), exc, user_part(exc.__traceback__))
        return "".join(lines)[-MAX_TEXT:]
    except Exception:  # a __str__ of the user's that fails
        return ""


def _text_of(exc: BaseException) -> str:
    try:
        return str(exc)[:MAX_TEXT]
    except Exception:  # a __str__ of the user's that fails
        return "<no text: its __str__ failed>"


def _type_name(cls: type) -> str:
    return cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"


# --- at the caller ---------------------------------------------------------------------------------


def _rebuild(summary: ExceptionSummary, roots: dict[str, str]) -> BaseException:
    exc = _load(summary)
    exc.__traceback__ = graft(summary.frames, roots)
    if summary.cause is not None:
        exc.__cause__ = _rebuild(summary.cause, roots)
    if summary.context is not None:
        exc.__context__ = _rebuild(summary.context, roots)
    exc.__suppress_context__ = summary.suppress_context
    return exc


def _load(summary: ExceptionSummary) -> BaseException:
    if summary.pickle and summary.python in ("", PYTHON):
        try:
            exc = pickle.loads(summary.pickle)
            if isinstance(exc, Exception):
                return exc
        except Exception:  # its class does not exist here
            pass
    text = f"{summary.type}: {summary.message}" if summary.message else summary.type
    wrapped = RemoteError(text, type_name=summary.type, remote_traceback=summary.traceback)
    for note in summary.notes:
        wrapped.add_note(note)
    return wrapped


def graft(frames: list[FrameSummary], roots: dict[str, str]) -> types.TracebackType | None:
    """A traceback over frames that never ran here."""
    tb: types.TracebackType | None = None
    for frame in reversed(frames):
        file = _local_name(frame.file, roots)
        _remember_line(file, frame)
        fake = _fake_frame(file, frame.line_number, frame.function)
        tb = types.TracebackType(tb, fake.tb_frame, fake.tb_lasti, frame.line_number)
    return tb


def _local_name(file: str, roots: dict[str, str]) -> str:
    for remote, local in roots.items():
        if file.startswith(remote + os.sep):
            return os.path.join(local, file[len(remote) + 1 :])
    return file


def _remember_line(file: str, frame: FrameSummary) -> None:
    """Let tracebacks show a source line of a file that is not here."""
    if not frame.line or os.path.exists(file):
        return
    import linecache

    cached: Any = linecache.cache.get(file)
    lines = cached[2] if cached and len(cached) == 4 and cached[1] is None else []
    lines.extend("\n" for _ in range(frame.line_number - len(lines)))
    lines[frame.line_number - 1] = frame.line + "\n"
    linecache.cache[file] = (len(lines), None, lines, file)


_raise_code = compile("raise error", "<remote>", "exec")


def _fake_frame(file: str, line_number: int, function: str) -> types.TracebackType:
    """The traceback entry of a frame with this file, line and name, made by raising in code that bears them."""
    code = _raise_code.replace(
        co_filename=file,
        co_name=function,
        co_qualname=function,
        co_firstlineno=line_number,
        co_linetable=_linetable_without_columns(len(_raise_code.co_code) // 2),
    )
    try:
        exec(code, {"error": RuntimeError(), "__name__": "", "__file__": file})
    except RuntimeError as error:
        assert error.__traceback__ is not None and error.__traceback__.tb_next is not None
        return error.__traceback__.tb_next
    raise AssertionError("the fake frame did not raise")


def _linetable_without_columns(num_units: int) -> bytes:
    """Location entries (PEP 626 as of 3.11) of kind 13, no columns, so that no caret is drawn at a wrong place."""
    table = bytearray()
    while num_units > 0:
        covered = min(num_units, 8)
        table += bytes((0x80 | 13 << 3 | (covered - 1), 0))
        num_units -= covered
    return bytes(table)
