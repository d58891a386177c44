"""What the outcomes that the controller itself decides say."""

from __future__ import annotations

import signal

from deepserve.protocol.messages import Clock, Outcome, Stopped

STOPPED_TEXTS: dict[Stopped, str] = {
    "": "",
    "before it began": "before it began",
    "while it waited": "while it waited",
    "cooperatively": "stopped cooperatively",
    "pod draining": "it did not stop: its pod is killed when the pod's other inputs are done",
    "pod lost": "its pod was lost meanwhile",
    "pod killed": "pod killed",
}
"""From the mildest to the worst."""
_WORSE = list(STOPPED_TEXTS)


def cancelled_outcome(why: str) -> Outcome:
    return Outcome("cancelled", f"cancelled {why}")


def timeout_outcome(limit_s: float, what: str, clock: Clock) -> Outcome:
    return Outcome("timeout", f"over {what} of {limit_s:g} s", clock=clock)


def startup_outcome(text: str, is_slow: bool) -> Outcome:
    """Its code could not be loaded, or not in the time that there is for it."""
    if is_slow:
        return Outcome("timeout", text, clock="startup")
    return Outcome("startup_failed", text)


def stopped_outcome(outcome: Outcome, stopped: Stopped) -> Outcome:
    """`outcome`, saying how the code was stopped, where stopping it is what the outcome is about."""
    if not stopped or outcome.kind not in ("timeout", "cancelled"):
        return outcome
    return Outcome(outcome.kind, f"{outcome.detail}; {STOPPED_TEXTS[stopped]}", stopped, outcome.clock)


def worse(one: Stopped, other: Stopped) -> Stopped:
    """Of a map's inputs, how the one was stopped that was hardest to stop."""
    return max(one, other, key=_WORSE.index)


def too_deep_outcome(labels: list[str], max_depth: int) -> Outcome:
    """`labels`: of the callers, the first one's first."""
    shown = labels if len(labels) <= 6 else [*labels[:3], "...", *labels[-3:]]
    chain = " > ".join(shown)
    return Outcome("refused", f"calls are nested {len(labels)} deep, at most {max_depth} may be: {chain}", code="depth")


def disordered_outcome(expected: int, came: int) -> Outcome:
    return Outcome("refused", f"a map's inputs come in order: input {expected} was expected, and {came} came")


def miscounted_outcome(num_said: int, num_arrived: int) -> Outcome:
    return Outcome("refused", f"the map was said to have {num_said} inputs, but {num_arrived} came")


def unknown_outcome(function_id: str) -> Outcome:
    return Outcome("refused", f"unknown function {function_id}")


def removed_outcome(label: str) -> Outcome:
    return Outcome("refused", f"{label} was removed: its app was stopped, or deployed again without it")


def missing_tokenizer_outcome(label: str, tokenizer_id: str) -> Outcome:
    return Outcome("refused", f"{label} needs the tokenizer {tokenizer_id}, which is not defined")


def pod_lost_outcome(pod_id: str, reason: str, exit_code: int | None, num_losses: int = 1) -> Outcome:
    """`num_losses`: pods that died under this task, this one counted."""
    text = f"{pod_id} was lost: {exit_text(exit_code, reason)}"
    return Outcome("pod_lost", text if num_losses < 2 else f"{text}; the last of {num_losses} pods lost under it")


def pod_killed_outcome(pod_id: str, reason: str, num_losses: int) -> Outcome:
    """Of a task that was not to blame, and has been run again too often."""
    text = f"{pod_id} was killed: {reason}"
    return Outcome("pod_lost", text if num_losses < 2 else f"{text}; the last of {num_losses} pods lost under it")


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
        if exit_code == -signal.SIGKILL and not reason:
            text += " (often the host is out of memory)"
    return f"{text} ({reason})" if reason else text
