"""RecentRequests: what is told of requests that have ended, for a while."""

from __future__ import annotations

from collections import deque
from typing import Any

from deepserve_controller.core.actions import FinishRequest
from deepserve_controller.service.request_record import RequestRecord

NUM_RECENT = 500


class RecentRequests:
    def __init__(self) -> None:
        self._records: deque[dict[str, Any]] = deque(maxlen=NUM_RECENT)

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """So many, the latest last."""
        return list(self._records)[-limit:] if limit > 0 else []

    def find(self, request_id: str) -> dict[str, Any] | None:
        return next((record for record in reversed(self._records) if record["request_id"] == request_id), None)

    def note(self, record: RequestRecord, action: FinishRequest, route: str) -> None:
        """route: of a model's request, where it went and why."""
        timings = action.timings
        self._records.append(
            {
                "request_id": record.request_id,
                "job_id": timings.job_id,
                "task_id": timings.task_id,
                "pod_id": timings.pod_id,
                "function_id": record.function_id,
                "label": record.label,
                "kind": record.kind,
                "state": action.outcome.kind,
                "detail": action.outcome.detail,
                "stopped": action.outcome.stopped,
                "parent_task_id": record.parent_task_id,
                "arrived_at": record.arrived_at,
                "attempts": timings.attempts,
                "user_retries": timings.user_retries,
                "pod_losses": timings.pod_losses,
                "queued_ms": timings.queued_ms,
                "run_ms": timings.run_ms,
                "total_ms": timings.total_ms,
                "count": action.count,
                "route": route,
            }
        )
