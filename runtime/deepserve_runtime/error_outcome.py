"""How a run ends that raised: its outcome, and the exception as it travels."""

from __future__ import annotations

import traceback

from deepserve.protocol.messages import SHUTDOWN, Outcome, OutcomeKind, Value
from deepserve_runtime import sdk


class BadArguments(Exception):
    """Plain arguments do not fit the function's signature or hints; the text names the parameter."""


def outcome_of(error: BaseException, pod_id: str) -> tuple[Outcome, Value, bytes]:
    """How a run ends that raised `error`."""
    if isinstance(error, BadArguments):
        return Outcome("refused", str(error)), Value(), b""
    kind: OutcomeKind = "refused" if isinstance(error, sdk.errors.PythonVersionMismatch) else "error"
    return Outcome(kind, describe(error)), *encode_error(error, pod_id)


def interrupted_outcome(reason: str) -> Outcome:
    """How a run ends whose code was interrupted. reason: timeout, cancelled, or SHUTDOWN."""
    stopped = "the controller was stopped, and " if reason == SHUTDOWN else ""
    return Outcome("timeout" if reason == "timeout" else "cancelled", f"{stopped}the code was interrupted")


def encode_error(error: BaseException, pod_id: str) -> tuple[Value, bytes]:
    """The exception as it travels; in words where it cannot."""
    try:
        return sdk.encode_exception(error, pod_id=pod_id)
    except Exception:
        kind = type(error)
        told = readable("".join(traceback.format_exception(error)))
        name = f"{kind.__module__}.{kind.__qualname__}"
        plain = sdk.errors.RemoteError(describe(error), type_name=name, remote_traceback=told)
        return sdk.encode_exception(plain, pod_id=pod_id)


def readable(text: str) -> str:
    """Without halves of characters, such as file names of other encodings hold: they have no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def describe(error: BaseException) -> str:
    """One line for logs and lists; the exception itself travels beside it."""
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be made)"
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return readable(line.splitlines()[0][:500])
