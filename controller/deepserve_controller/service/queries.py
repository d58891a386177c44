"""Questions and orders outside the call path: one method per query name, plain dicts in and out."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec

from deepserve_controller.core import events
from deepserve_controller.errors import QueryError
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.faults import MOMENTS
from deepserve_controller.service.function_queries import FunctionQueries, settings_of
from deepserve_controller.service.functions import Functions
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.loop import CoreLoop
from deepserve_controller.service.model_queries import ModelQueries, plain
from deepserve_controller.service.pod_entry import PodEntry
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body, optional, required
from deepserve_controller.service.reactor import running_reactor
from deepserve_controller.service.request_record import RequestRecord
from deepserve_controller.service.requests import Requests
from deepserve_controller.service.results import KeptResults
from deepserve_controller.service.store import App

VERSION = "0.1.0"
MAX_LOG_BYTES = 512 << 10
NUM_STATUS_REQUESTS = 20
NUM_STATUS_FUNCTIONS = 200
MODES_WITH_FAULTS = ("embedded",)
"""One that others use, too, is not killed by whoever asks for it."""


class Queries:
    def __init__(
        self,
        about: Body,
        cores: CoreLoop,
        functions: Functions,
        deployments: Deployments,
        pods: PodLinks,
        requests: Requests,
        kept: KeptResults,
        logs: Logs,
        on_shutdown: Callable[[], None],
    ) -> None:
        """`about`: what `status` says of the controller itself."""
        self.about = about
        self._cores = cores
        self._functions = functions
        self._deployments = deployments
        self._pods = pods
        self._requests = requests
        self._kept = kept
        self._logs = logs
        self._on_shutdown = on_shutdown
        self._started_at = time.time()
        function_queries = FunctionQueries(cores, functions, deployments)
        model_queries = ModelQueries(deployments, function_queries, pods, requests.routes)
        self._answers: dict[str, Callable[[str, Body], Body]] = {
            "status": self._status,
            "requests": self._list_requests,
            "apps": self._list_apps,
            "functions": self._list_functions,
            "lookup": self._lookup,
            "deploy": self._deploy,
            "stop_app": self._stop_app,
            "logs": self._read_logs,
            "shutdown": self._shutdown,
            "scale": function_queries.scale,
            "function": function_queries.describe,
            "schema": function_queries.schema,
            "models": model_queries.list,
            "find_model": model_queries.find,
            "model": model_queries.describe,
            "result_info": self._result_info,
            "timeline": self._timeline,
            "move": self._move,
            "order_fault": self._order_fault,
            "withdraw_fault": self._withdraw_fault,
        }

    def add(self, answers: dict[str, Callable[[str, Body], Body]]) -> None:
        """More names, answered elsewhere."""
        self._answers |= answers

    def answer(self, link_id: str, name: str, body: Body) -> Body:
        """Raises QueryError."""
        found = self._answers.get(name)
        if found is None:
            raise QueryError("invalid", f"unknown query {name!r}")
        return found(link_id, body)

    # --- questions ---

    def _status(self, link_id: str, body: Body) -> Body:
        """With the cluster manager's reasons: why each pod is what it is, and each function has so many."""
        manager = self._cores.cores.cluster_manager
        reasons = {view.pod_id: view.reason for view in manager.pods_view()}
        num_cores = len(os.sched_getaffinity(0))
        shares = manager.cpu_shares(num_cores)
        return {
            **self.about,
            "pid": os.getpid(),
            "version": VERSION,
            "uptime_s": time.time() - self._started_at,
            "pods": [
                {
                    **self._describe_pod(pod),
                    "reason": reasons.get(pod.pod_id, ""),
                    "cpu_share": shares.get(pod.pod_id, 0.0),
                }
                for pod in self._pods.pods.values()
            ],
            "templates": [
                {**self._describe_pod(template), "template_id": template.pod_id, "reason": template.reason}
                for template in self._pods.templates.values()
            ],
            "cpus": num_cores,
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
            "requests": self._recent(NUM_STATUS_REQUESTS),
        }

    def _list_requests(self, link_id: str, body: Body) -> Body:
        limit = optional(body, "limit", int, 100)
        label = optional(body, "label", str, "")
        running = [self._describe_running(record) for record in self._requests.running.values()]
        found = [record for record in running + self._recent(limit) if not label or record["label"] == label]
        return {"requests": found}

    def _list_apps(self, link_id: str, body: Body) -> Body:
        return {"apps": [describe_app(app) for app in self._deployments.apps.values()]}

    def _list_functions(self, link_id: str, body: Body) -> Body:
        wanted = optional(body, "app", str, "")
        if wanted and wanted not in self._deployments.apps:
            raise QueryError("not_found", f"no app {wanted!r} is deployed")
        functions = []
        for app in self._deployments.apps.values():
            if wanted in ("", app.name):
                functions += [self._describe_function(app, name) for name in sorted(app.functions)]
        return {"functions": functions}

    def _lookup(self, link_id: str, body: Body) -> Body:
        function_id, spec = self._deployments.lookup(required(body, "app", str), required(body, "name", str))
        return {"function_id": function_id, "spec": plain(spec)}

    def _read_logs(self, link_id: str, body: Body) -> Body:
        target = required(body, "target", str)
        pod = self._pods.pods.get(target)
        labels = [pod.label] if pod else self._labels_meant(target)
        if not labels:
            there = ", ".join(self._known_labels()) or "none"
            raise QueryError("not_found", f"no function or app {target!r} (there is: {there})")
        if optional(body, "follow", bool, False):
            for label in labels:
                self._logs.follow(link_id, label)
        lines = optional(body, "tail", int, 0)
        text = b"".join(self._logs.tail(label, lines) for label in labels)[-MAX_LOG_BYTES:].decode("utf-8", "replace")
        # What is no text grows threefold when it is replaced, and the answer has to fit into a header.
        return {"text": text.encode()[-MAX_LOG_BYTES:].decode("utf-8", "ignore"), "labels": labels}

    def _result_info(self, link_id: str, body: Body) -> Body:
        request_id = required(body, "request_id", str)
        running = self._requests.running.get(request_id)
        if running is not None:
            return self._describe_running(running)
        kept = self._kept.get(request_id)
        known = next((record for record in reversed(self._requests.recent) if record["request_id"] == request_id), None)
        if kept is None and known is None:
            raise QueryError("not_found", f"unknown request {request_id!r}")
        return {
            "request_id": request_id,
            "state": kept.finished.outcome.kind if kept else known["state"] if known else "",
            **(known or {}),
            "is_kept": kept is not None,
            "size_bytes": kept.size_bytes if kept else 0,
        }

    def _timeline(self, link_id: str, body: Body) -> Body:
        """What the controller and the pod did for a finished request, in milliseconds."""
        request_id = required(body, "request_id", str)
        record = next((found for found in self._requests.recent if found["request_id"] == request_id), None)
        if record is None:
            raise QueryError("not_found", f"unknown request {request_id!r}")
        pod = self._pods.find(record["pod_id"])
        steps = dict(self._pods.start_steps_ms(pod)) if pod else {}
        steps |= {"queued": record["queued_ms"], "run": record["run_ms"], "total in the controller": record["total_ms"]}
        return {"steps_ms": steps}

    # --- orders ---

    def _deploy(self, link_id: str, body: Body) -> Body:
        functions = required(body, "functions", dict)
        if not all(isinstance(key, str) and isinstance(value, str) for key, value in functions.items()):
            raise QueryError("invalid", "functions must map names to function ids")
        name = required(body, "app", str)
        before = self._deployments.apps.get(name)
        app = self._deployments.deploy(
            name, functions, optional(body, "entrypoints", dict, {}), optional(body, "schemas", dict, {})
        )
        removed = sorted(set(before.functions) - set(app.functions)) if before else []
        return {**describe_app(app), "is_replaced": before is not None, "removed": removed}

    def _stop_app(self, link_id: str, body: Body) -> Body:
        return describe_app(self._deployments.stop(required(body, "app", str)))

    def _move(self, link_id: str, body: Body) -> Body:
        """Let a model's running request go on in the pod that is named, or in the one with most room, where that can
        be."""
        request_id, pod_id = required(body, "request_id", str), optional(body, "pod_id", str, "")
        task_ids = self._requests.tasks.of_request(request_id)
        if not task_ids:
            raise QueryError("not_found", f"no request {request_id!r} runs in a pod")
        for task_id in task_ids:
            self._cores.give(events.MoveAsked(task_id, "somebody asked for it", pod_id))
        return {"task_ids": task_ids}

    def _order_fault(self, link_id: str, body: Body) -> Body:
        """Kill the pod of the `step`-th task or move from now on, or this controller: for tests, of their own one."""
        if self.about["mode"] not in MODES_WITH_FAULTS:
            raise QueryError("invalid", "faults are ordered of an embedded controller only")
        step, when = required(body, "step", int), required(body, "when", str)
        name = optional(body, "victim", str, "pod")
        victim = next((each for each in MOMENTS if each == name), None)
        if victim is None:
            raise QueryError("invalid", f"victim {name!r} of {', '.join(MOMENTS)}")
        known = next((each for each in MOMENTS[victim] if each == when), None)
        if step < 1 or known is None:
            raise QueryError("invalid", f"step {step} from 1 on, and when {when!r} of {', '.join(MOMENTS[victim])}")
        return {"fault_id": self._pods.faults.order(step, known, victim)}

    def _withdraw_fault(self, link_id: str, body: Body) -> Body:
        order = self._pods.faults.withdraw(required(body, "fault_id", int))
        if order is None:
            raise QueryError("not_found", "no such fault was ordered")
        return {"pod_id": order.pod_id, "num_started": order.num_started}

    def _shutdown(self, link_id: str, body: Body) -> Body:
        # After the answer is on its way.
        running_reactor().call_later(0.01, self._on_shutdown)
        return {"pid": os.getpid()}

    # --- inside ---

    def _recent(self, limit: int) -> list[Body]:
        return list(self._requests.recent)[-limit:] if limit > 0 else []

    def _known_labels(self) -> list[str]:
        return sorted({*self._logs.labels(), *(spec.label for spec in self._functions.specs.values())})

    def _labels_meant(self, target: str) -> list[str]:
        """Of an app or a function. A deployed one may have another name than its file gave it."""
        app = self._deployments.apps.get(target.split("/")[0])
        if app is not None:
            wanted = sorted(name for name in app.functions if target in (app.name, f"{app.name}/{name}"))
            return [app.specs[app.functions[name]].label for name in wanted]
        return [label for label in self._known_labels() if label == target or label.startswith(target + "/")]

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

    def _describe_function(self, app: App, name: str) -> Body:
        function_id = app.functions[name]
        spec = app.specs[function_id]
        view = self._cores.cores.cluster_manager.function_view(function_id)
        assert view is not None
        return {
            "app": app.name,
            "name": name,
            "label": spec.label,
            "kind": spec.kind,
            "function_id": function_id,
            **settings_of(view),
            "reason": view.reason,
            "num_pods": sum(pod.function_id == function_id for pod in self._pods.pods.values()),
            "num_running": sum(record.function_id == function_id for record in self._requests.running.values()),
        }

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


def describe_app(app: App) -> Body:
    return {
        "app": app.name,
        "revision": app.revision,
        "deployed_at": app.deployed_at,
        "functions": dict(sorted(app.functions.items())),
        "entrypoints": app.entrypoints,
    }
