"""What `status` says of the whole controller: its pods, templates, functions, apps and latest requests."""

from __future__ import annotations

import os
import time

import msgspec

from deepserve_controller.service.app_queries import describe_app
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.pod_entry import PodEntry
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body
from deepserve_controller.service.requests import Requests

VERSION = "0.1.0"
NUM_STATUS_REQUESTS = 20
NUM_STATUS_FUNCTIONS = 200


class StatusQueries:
    """`about`: what it says of the controller itself."""

    def __init__(
        self,
        about: Body,
        cores: CoreLoop,
        deployments: Deployments,
        pods: PodLinks,
        requests: Requests,
    ) -> None:
        self._about = about
        self._cores = cores
        self._deployments = deployments
        self._pods = pods
        self._requests = requests
        self._started_at = time.time()

    def status(self, link_id: str, body: Body) -> Body:
        """With the cluster manager's reasons: why each pod is what it is, and each function has so many."""
        manager = self._cores.cores.cluster_manager
        views = {view.pod_id: view for view in manager.pods_view()}
        claimed_mib, usable_mib = manager.memory_view()
        num_cores = len(os.sched_getaffinity(0))
        shares = manager.cpu_shares(num_cores)
        return {
            **self._about,
            "pid": os.getpid(),
            "version": VERSION,
            "uptime_s": time.time() - self._started_at,
            "pods": [
                {
                    **self._describe_pod(pod),
                    "reason": view.reason if (view := views.get(pod.pod_id)) is not None else "",
                    "memory_mib": view.memory_mib if view is not None else 0,
                    "kv_mib": view.kv_mib if view is not None else 0,
                    "cpu_share": shares.get(pod.pod_id, 0.0),
                }
                for pod in self._pods.pods.values()
            ],
            "templates": [
                {**self._describe_pod(template), "template_id": template.pod_id, "reason": template.reason}
                for template in self._pods.templates.values()
            ],
            "cpus": num_cores,
            "memory": {"claimed_mib": claimed_mib, "usable_mib": usable_mib},
            "devices": [
                {"kind": device.kind, "id": device.id, "model": device.model, "pod_id": pod_id}
                for device, pod_id in manager.devices_view()
            ],
            "functions": [msgspec.to_builtins(view) for view in manager.functions_view()[:NUM_STATUS_FUNCTIONS]],
            "apps": [describe_app(app) for app in self._deployments.apps.values()],
            "num_running": len(self._requests.running),
            "num_stored": len(self._requests.refs.book),
            "stored_bytes": self._requests.refs.book.total_bytes,
            "num_waiting": self._requests.dependencies.num_waiting,
            "requests": self._requests.recent.latest(NUM_STATUS_REQUESTS),
        }

    def _describe_pod(self, pod: PodEntry) -> Body:
        running = [place.request_id for place in self._requests.tasks.on_pod(pod.pod_id)]
        return {
            "pod_id": pod.pod_id,
            "state": pod.state,
            "environment": pod.environment,
            "label": pod.label if pod.function_id else "",
            "function_id": pod.function_id,
            "pid": pod.pid,
            "age_s": time.time() - pod.started_at,
            "requests": running,
            "reason": pod.reason,
            "source": pod.scaling.source,
            "source_reason": pod.scaling.source_reason,
            "steps_ms": pod.scaling.steps_ms,
            "pinned_blocks": pod.pinned_blocks,
        }
