"""What ran where: the controller's record of recent requests."""

from __future__ import annotations

from typing import Any

from deepserve._current_client import current_client


def recent_requests(limit: int = 100) -> list[dict[str, Any]]:
    """The latest finished and the running requests, oldest first.

    Each record names its `request_id`, `job_id`, `task_id`, `pod_id`, `label` (app/function), `state`, `parent_task_id`
    (of the task inside which it was made), and, once finished, `queued_ms`, `run_ms`, `total_ms`,
    `stopped` (as in CallCancelled), `attempts`, `user_retries` and `pod_losses`.
    Raises ControllerUnreachable.
    """
    records: list[dict[str, Any]] = current_client().query("requests", {"limit": limit})["requests"]
    return records
