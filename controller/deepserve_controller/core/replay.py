"""Replay: whether a stream that has passed items on may be started again, and what is said where it may not."""

from __future__ import annotations

import msgspec

from deepserve.protocol.messages import Outcome
from deepserve_controller.core.task import Task


def may_start_again(task: Task) -> bool:
    """No item reaches the reader twice: a later attempt begins behind those that passed, or none is made.

    A model's begins behind its journal, so it needs one: not all that an engine streams can be resumed.
    """
    spec = task.function.spec
    knows_how = bool(spec.replay) and (spec.kind != "model" or task.journal_bytes > 0)
    return not task.function.is_removed and (not task.num_produced or knows_how)


def lost_outcome(task: Task, outcome: Outcome) -> Outcome:
    """`outcome` of a task whose pod is gone: a stream of the user's that had begun was interrupted."""
    is_users = task.function.spec.kind in ("function", "class")
    return interrupted_outcome(outcome) if task.num_produced and is_users else outcome


def failed_outcome(task: Task, outcome: Outcome) -> Outcome:
    """`outcome` of a task that raised what `retries` cover, but that was not started again."""
    spec = task.function.spec.retries
    has_retries = spec is not None and task.user_retries < spec.max_retries
    is_too_late = task.num_produced > 0 and not task.function.spec.replay
    return interrupted_outcome(outcome) if has_retries and is_too_late else outcome


def interrupted_outcome(outcome: Outcome) -> Outcome:
    return msgspec.structs.replace(outcome, code="interrupted")
