"""The error that stands for an outcome that is not ok."""

from __future__ import annotations

import re
import signal

import msgspec

from deepserve._exceptions import decode_exception
from deepserve.errors import (
    CallCancelled,
    ContextExpiredError,
    DeepServeError,
    FunctionTimeout,
    NotFound,
    PodLost,
    PythonVersionMismatch,
    RecursionTooDeep,
    Refused,
    StartupFailed,
    StartupTimeout,
    StreamInterrupted,
    UnguardedCallError,
    UnknownContextError,
)
from deepserve.protocol.messages import ItemFinished, Outcome, RequestFinished

_PLAIN_ENOUGH = (PythonVersionMismatch, UnguardedCallError)
"""Reasons of a failed start that say all by themselves."""
_EXIT_CODE = re.compile(r"(?:exit(?:ed)?(?: with)?(?: code| status)?) (-?\d+)")
_SIGNAL = re.compile(r"\b(SIG[A-Z0-9]+)\b|signal (\d+)")


def error_of(
    message: RequestFinished | ItemFinished, payload: bytes, *, roots: dict[str, str], label: str
) -> BaseException:
    """The exception for an outcome that is not ok; `label` names the function in its text."""
    outcome, timings = message.outcome, message.timings
    kind, detail = outcome.kind, outcome.detail
    where = f"call {message.request_id}" + (f" on pod {timings.pod_id}" if timings.pod_id else "")
    if outcome.dependency:
        where = f"call {outcome.dependency}, whose result was to be an argument of call {message.request_id}"
    if outcome.code == "interrupted" and isinstance(message, RequestFinished):
        plain = msgspec.structs.replace(message, outcome=msgspec.structs.replace(outcome, code=""))
        text = f"{label}: the stream was interrupted after {message.count} items: {detail} ({where})"
        interrupted = StreamInterrupted(text, num_delivered=message.count)
        interrupted.__cause__ = error_of(plain, payload, roots=roots, label=label)
        return interrupted
    remote: BaseException | None = None
    if message.value.format == "exception":
        remote = decode_exception(message.value, payload, note=f"raised in {where}", roots=roots)
    if remote is not None and (kind == "error" or isinstance(remote, _PLAIN_ENOUGH)):
        return remote
    error = _own_error(outcome, f"{label}: {detail or kind} ({where})", timings.pod_losses)
    error.__cause__ = remote
    return error


def _own_error(outcome: Outcome, text: str, pod_losses: int) -> DeepServeError:
    match outcome.kind:
        case "timeout":
            kind = StartupTimeout if outcome.clock == "startup" else FunctionTimeout
            return kind(text, clock=outcome.clock, stopped=outcome.stopped)
        case "cancelled":
            return CallCancelled(text, stopped=outcome.stopped)
        case "pod_lost":
            return PodLost(text, exit_code=exit_code_in(outcome.detail), pod_losses=max(1, pod_losses))
        case "startup_failed":
            return StartupFailed(text)
        case "refused" if outcome.detail.startswith("python"):
            return PythonVersionMismatch(text)
        case "refused" if outcome.code == "depth":
            return RecursionTooDeep(text)
        case "refused" if outcome.code == "unknown":
            return NotFound(text)
        case "refused" if outcome.code == "context":
            return UnknownContextError(text)
        case "refused" if outcome.code == "context_expired":
            return ContextExpiredError(text)
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
