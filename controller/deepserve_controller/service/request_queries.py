"""Questions and orders about requests: those that run, and those that ended lately."""

from __future__ import annotations

from deepserve_controller.core import events
from deepserve_controller.errors import QueryError
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body, optional, required
from deepserve_controller.service.request_record import RequestRecord
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.results import KeptResults


class RequestQueries:
    def __init__(self, cores: CoreLoop, pods: PodLinks, requests: Requests, kept: KeptResults) -> None:
        self._cores = cores
        self._pods = pods
        self._requests = requests
        self._kept = kept

    def requests(self, link_id: str, body: Body) -> Body:
        limit = optional(body, "limit", int, 100)
        label = optional(body, "label", str, "")
        running = [self._describe_running(record) for record in self._requests.running.values()]
        found = running + self._requests.recent.latest(limit)
        return {"requests": [record for record in found if not label or record["label"] == label]}

    def result_info(self, link_id: str, body: Body) -> Body:
        request_id = required(body, "request_id", str)
        running = self._requests.running.get(request_id)
        if running is not None:
            return self._describe_running(running)
        kept = self._kept.get(request_id)
        known = self._requests.recent.find(request_id)
        if kept is None and known is None:
            raise QueryError("not_found", f"unknown request {request_id!r}")
        return {
            "request_id": request_id,
            "state": kept.finished.outcome.kind if kept else known["state"] if known else "",
            **(known or {}),
            "is_kept": kept is not None,
            "size_bytes": kept.size_bytes if kept else 0,
        }

    def timeline(self, link_id: str, body: Body) -> Body:
        """What the controller and the pod did for a finished request, in milliseconds."""
        request_id = required(body, "request_id", str)
        record = self._requests.recent.find(request_id)
        if record is None:
            raise QueryError("not_found", f"unknown request {request_id!r}")
        pod = self._pods.find(record["pod_id"])
        steps = dict(self._pods.start_steps_ms(pod)) if pod else {}
        steps |= {"queued": record["queued_ms"], "run": record["run_ms"], "total in the controller": record["total_ms"]}
        return {"steps_ms": steps}

    def move(self, link_id: str, body: Body) -> Body:
        """Let a model's running request go on in the pod that is named, or in the one with most room, where that can
        be."""
        request_id, pod_id = required(body, "request_id", str), optional(body, "pod_id", str, "")
        task_ids = self._requests.tasks.of_request(request_id)
        if not task_ids:
            raise QueryError("not_found", f"no request {request_id!r} runs in a pod")
        for task_id in task_ids:
            self._cores.give(events.MoveAsked(task_id, "somebody asked for it", pod_id))
        return {"task_ids": task_ids}

    def _describe_running(self, record: RequestRecord) -> Body:
        is_waiting = not record.pod_id and self._requests.dependencies.is_waiting(record.request_id)
        return {
            "request_id": record.request_id,
            "pod_id": record.pod_id,
            "function_id": record.function_id,
            "label": record.label,
            "kind": record.kind,
            "state": "running" if record.pod_id else "waiting" if is_waiting else "queued",
            "parent_task_id": record.parent_task_id,
            "arrived_at": record.arrived_at,
            "is_kept": record.keep,
            "num_inputs": record.num_inputs,
            "route": self._requests.routes.text_of(record.request_id),
        }
