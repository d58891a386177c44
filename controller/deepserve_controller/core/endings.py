"""What the outcomes that the controller itself decides say."""

from __future__ import annotations

import signal

from deepserve.protocol.messages import Outcome


def cancelled_outcome(why: str) -> Outcome:
    return Outcome("cancelled", f"cancelled {why}")


def timeout_outcome(limit_s: float, what: str) -> Outcome:
    return Outcome("timeout", f"over {what} of {limit_s:g} s")


def with_manner(outcome: Outcome, manner: str) -> Outcome:
    """`outcome`, saying how the running code was stopped, where stopping it is what the outcome is about."""
    is_about_stopping = outcome.kind in ("timeout", "cancelled")
    return Outcome(outcome.kind, f"{outcome.detail}; {manner}") if manner and is_about_stopping else outcome


def unknown_outcome(function_id: str) -> Outcome:
    return Outcome("refused", f"unknown function {function_id}")


def removed_outcome(label: str) -> Outcome:
    return Outcome("refused", f"{label} was removed")


def missing_tokenizer_outcome(label: str, tokenizer_id: str) -> Outcome:
    return Outcome("refused", f"{label} needs the tokenizer {tokenizer_id}, which is not defined")


def pod_lost_outcome(pod_id: str, reason: str, exit_code: int | None) -> Outcome:
    return Outcome("pod_lost", f"{pod_id} was lost: {exit_text(exit_code, reason)}")


def exit_text(exit_code: int | None, reason: str) -> str:
    """How a process ended, with the signal's name; negative codes are signals, as in subprocess."""
    if exit_code is None:
        return reason or "its connection ended"
    text = f"exit code {exit_code}"
    if exit_code < 0:
        try:
            text = f"killed by {signal.Signals(-exit_code).name}"
        except ValueError:
            text = f"killed by signal {-exit_code}"
        if exit_code == -signal.SIGKILL:
            text += " (often the host is out of memory)"
    return f"{text} ({reason})" if reason else text
