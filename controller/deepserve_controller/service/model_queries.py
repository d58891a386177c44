"""Questions about deployed models."""

from __future__ import annotations

import time

import msgspec

from deepserve.protocol.specs import FunctionSpec
from deepserve_controller.service.deployments import Deployments
from deepserve_controller.service.function_queries import FunctionQueries
from deepserve_controller.service.logs import Logs
from deepserve_controller.service.pod_links import PodLinks
from deepserve_controller.service.query_body import Body, required
from deepserve_controller.service.route_log import RouteLog

NUM_ROUTES = 20


class ModelQueries:
    def __init__(
        self, deployments: Deployments, functions: FunctionQueries, pods: PodLinks, routes: RouteLog, logs: Logs
    ) -> None:
        self._deployments = deployments
        self._functions = functions
        self._pods = pods
        self._routes = routes
        self._logs = logs

    def list(self, link_id: str, body: Body) -> Body:
        """All of them, by name."""
        return {"models": [self._summary(link_id, name) for name in sorted(self._deployments.models())]}

    def find(self, link_id: str, body: Body) -> Body:
        """What a process needs that knows a model by name. Raises QueryError."""
        app, function_id = self._deployments.model(required(body, "name", str))
        return {"app": app.name, "function_id": function_id, "spec": plain(app.specs[function_id])}

    def describe(self, link_id: str, body: Body) -> Body:
        """As `function` does, with the five steps of scaling of each of its executors, in milliseconds, and where the
        latest requests went, and why. Raises QueryError.
        """
        found = self._summary(link_id, required(body, "name", str))
        described = self._functions.describe(link_id, {"function_id": found["function_id"]})
        pods = [
            {
                **pod,
                "steps_ms": entry.scaling.steps_ms,
                "source": entry.scaling.source,
                "source_reason": entry.scaling.source_reason,
                "pinned_blocks": entry.pinned_blocks,
            }
            for pod in described["pods"]
            if (entry := self._pods.find(pod["pod_id"])) is not None
        ]
        templates = [
            {
                "template_id": each.pod_id,
                "pid": each.pid,
                "state": each.state,
                "reason": each.reason,
                "age_s": time.time() - each.started_at,
                "latest_line": self._logs.latest_line(each.pod_id),
                "steps_ms": each.scaling.steps_ms,
                "source": each.scaling.source,
                "source_reason": each.scaling.source_reason,
            }
            for each in self._pods.templates.values()
            if each.function_id == found["function_id"]
        ]
        routes = [msgspec.to_builtins(route) for route in self._routes.latest(found["function_id"], NUM_ROUTES)]
        found["broken_because"] = described["broken_because"] or self._broken_tokenizer(link_id, found["name"])
        return {**described, **found, "pods": pods, "templates": templates, "routes": routes}

    def _broken_tokenizer(self, link_id: str, name: str) -> str:
        """Why no prompt can be read: requests end there, before an engine is started for them."""
        app, function_id = self._deployments.model(name)
        tokenizer_id = app.specs[function_id].tokenizer
        if not tokenizer_id:
            return ""
        because: str = self._functions.describe(link_id, {"function_id": tokenizer_id})["broken_because"]
        return because

    def _summary(self, link_id: str, name: str) -> Body:
        app, function_id = self._deployments.model(name)
        spec = app.specs[function_id]
        assert spec.model is not None
        described = self._functions.describe(link_id, {"function_id": function_id})
        return {
            "name": name,
            "app": app.name,
            "function_id": function_id,
            "model": msgspec.to_builtins(spec.model),
            "accelerators": list(spec.resources.accelerators),
            "others_in_app": sorted(set(app.functions) - {name}),
            **{key: described[key] for key in ("settings", "queued", "running", "ready", "starting", "reason")},
        }


def plain(spec: FunctionSpec) -> Body:
    """As it travels in an answer."""
    described: Body = msgspec.to_builtins(spec, builtin_types=(bytes,))
    return described
