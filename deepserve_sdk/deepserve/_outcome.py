"""The error that stands for an outcome that is not ok."""

from __future__ import annotations

import re
import signal

from deepserve._exceptions import decode_exception
from deepserve.errors import (
    CallCancelled,
    DeepServeError,
    FunctionTimeout,
    PodLost,
    PythonVersionMismatch,
    Refused,
    StartupFailed,
    UnguardedCallError,
)
from deepserve.protocol.messages import ItemFinished, RequestFinished

_PLAIN_ENOUGH = (PythonVersionMismatch, UnguardedCallError)
"""Reasons of a failed start that say all by themselves."""
_EXIT_CODE = re.compile(r"(?:exit(?:ed)?(?: with)?(?: code| status)?) (-?\d+)")
_SIGNAL = re.compile(r"\b(SIG[A-Z0-9]+)\b|signal (\d+)")


def error_of(
    message: RequestFinished | ItemFinished, payload: bytes, *, roots: dict[str, str], label: str
) -> BaseException:
    """The exception for an outcome that is not ok; `label` names the function in its text."""
    kind, detail = message.outcome.kind, message.outcome.detail
    where = f"call {message.request_id}" + (f" on pod {message.timings.pod_id}" if message.timings.pod_id else "")
    remote: BaseException | None = None
    if message.value.format == "exception":
        remote = decode_exception(message.value, payload, note=f"raised in {where}", roots=roots)
    if remote is not None and (kind == "error" or isinstance(remote, _PLAIN_ENOUGH)):
        return remote
    error = _own_error(kind, f"{label}: {detail or kind} ({where})", detail)
    error.__cause__ = remote
    return error


def _own_error(kind: str, text: str, detail: str) -> DeepServeError:
    match kind:
        case "timeout":
            return FunctionTimeout(text)
        case "cancelled":
            return CallCancelled(text)
        case "pod_lost":
            return PodLost(text, exit_code=exit_code_in(detail))
        case "startup_failed":
            return StartupFailed(text)
        case "refused" if detail.startswith("python"):
            return PythonVersionMismatch(text)
        case _:
            return Refused(text)


def exit_code_in(detail: str) -> int | None:
    """The exit code that the controller wrote into a pod's epitaph; negative for a signal."""
    if found := _SIGNAL.search(detail):
        name, number = found.groups()
        if number:
            return -int(number)
        return -signal.Signals[name].value if name in signal.Signals.__members__ else None
    if found := _EXIT_CODE.search(detail):
        return int(found[1])
    return None
